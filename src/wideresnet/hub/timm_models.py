"""Our networks under timm's names and words: `timm.create_model("wrn_28_10")`, `timm.create_model("wrn_34_10.trades")`.

`register` is called once both packages are imported (`arrival`). A form stands where timm has the tag of pretrained
weights: it chooses the network and, in `default_cfg`, the input that its source trained with. No weights are published.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wideresnet import networks
from wideresnet.checkpoint import load_model, read_card
from wideresnet.dialects import ARCHITECTURES, DIALECTS, FORMS, find_dialect, parse_arch
from wideresnet.dialects.inputs import ANY, CIFAR10
from wideresnet.errors import ModelFileError, UsageError
from wideresnet.model import WideResidualBlock, WideResNetClassifier

if TYPE_CHECKING:
    from timm.models import DefaultCfg

default_cfgs: "dict[str, DefaultCfg]" = {}  # where timm's register_model looks, by network
_OWN_FILE = "pretrained=True, pretrained_cfg_overlay={'file': 'runs/NAME/model.safetensors'}"
_SOURCES = ("file", "url", "hf_hub_id", "state_dict")  # of weights, in timm's cfgs
_CROPS = {"crop": "center", "squash": "squash", "pad": "border"}  # our fit → timm's crop_mode


def register() -> None:
    """Adds every network of `ARCHITECTURES`, each in every form, to timm's registry. A name that timm has already stays
    timm's, which is said."""
    from timm.models import PretrainedCfg, generate_default_cfgs, is_model, model_entrypoint, register_model

    taken = [row.name for row in ARCHITECTURES if is_model(row.name)]
    foreign = [name for name in taken if model_entrypoint(name).__module__ != __name__]
    if foreign:
        warnings.warn(
            f"timm has its own {', '.join(foreign)}; they stay timm's, ours are wrn.create_model's", stacklevel=2
        )
    new = [row for row in ARCHITECTURES if row.name not in taken]
    cfgs: dict[str, dict[str, Any] | PretrainedCfg] = {
        f"{row.name}.{form}" if form else row.name: _cfg(form) for row in new for form in FORMS
    }
    default_cfgs.update(generate_default_cfgs(cfgs))
    for row in new:
        entry = _entry(row.name, f"{row.title}: {row.used_by}")
        globals()[row.name] = register_model(entry)


def _entry(name: str, doc: str) -> Callable[..., nn.Module]:
    """The function that timm calls for the network `name`."""

    def entry(pretrained: bool = False, **options: Any) -> nn.Module:
        return _build(name, pretrained, **options)

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = doc
    return entry


def _cfg(form: str) -> dict[str, Any]:
    """What timm's users read as `default_cfg`: the input is that of the form's source, else CIFAR-10's own."""
    dialect = next((row for row in DIALECTS if row.name == form), None)
    inputs = {} if dialect is None else dict(dialect.inputs)
    of_source = inputs.get(ANY) or next(iter(inputs.values()), CIFAR10)
    cfg: dict[str, Any] = {
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "num_classes": 10,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": of_source.mean,
        "std": of_source.std,
        "first_conv": "backbone.stem.0",
        "classifier": "fc",
        "paper_ids": "arXiv:1605.07146",
        "paper_name": "Wide Residual Networks" if dialect is None else dialect.paper,
    }
    if of_source.per_image or of_source.border:  # more than timm's mean and std can say
        cfg["notes"] = (f"the source's input: {of_source}",)
    return cfg


def _build(
    name: str, pretrained: bool, pretrained_cfg: Any = None, pretrained_cfg_overlay: Any = None, **options: Any
) -> nn.Module:
    from timm.models import PretrainedCfg, build_model_with_cfg

    cfg = pretrained_cfg.to_dict() if isinstance(pretrained_cfg, PretrainedCfg) else pretrained_cfg
    form = (cfg or "") if isinstance(cfg, str | None) else cfg.get("tag") or ""
    of_form = parse_arch(f"{name}.{form}" if form else name)  # ValueError with the nearest name
    if isinstance(cfg, str):
        pretrained_cfg = form.lower() if form.lower() in FORMS else find_dialect(form).name
    overlay = dict(pretrained_cfg_overlay or {})
    if pretrained:
        given = {**(cfg if isinstance(cfg, dict) else {}), **overlay}
        if not any(given.get(key) for key in _SOURCES):
            raise UsageError(f"{name}: no weights are published. Those of a model file of yours: {_OWN_FILE}")
        file = Path(given["file"]) if given.get("file") else None
        if file is not None and (file.is_dir() or file.suffix == ".safetensors") and not given.get("custom_load"):
            overlay = {**_of_card(file), "custom_load": True, **overlay}
    return build_model_with_cfg(
        TimmWideResNet,
        name,
        pretrained,
        pretrained_cfg=pretrained_cfg or None,
        pretrained_cfg_overlay=overlay,
        feature_cfg={"out_indices": (0, 1, 2), "feature_cls": "getter"},
        **{**of_form, **options},
    )


def _of_card(file: Path) -> dict[str, Any]:
    """The preprocessing and classes of a model file in timm's words. Raises ModelFileError."""
    card = read_card(file)
    preprocess = card.preprocess
    return {
        "input_size": (preprocess.channels, preprocess.size, preprocess.size),
        "mean": preprocess.mean,
        "std": preprocess.std,
        "crop_mode": _CROPS[preprocess.fit],
        "num_classes": len(card.class_names),
        "label_names": card.class_names,
    }


class TimmWideResNet(WideResNetClassifier):
    """`WideResNetClassifier` with timm's words and methods; the same network under the same state-dict keys.

    `drop_rate` is `dropout_p`, within the blocks, where Wide ResNets have it; there is none before `fc`. The three maps
    of `feature_info`, `forward_intermediates` and `features_only` are the stages' raw sums, [N, 16k, H, W],
    [N, 32k, H/2, W/2] and [N, 64k, H/4, W/4]: a neck puts its own BN and activation in front. `forward_features`
    gives the last one after both.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        *,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        for ours, timms in {"in_channels": "in_chans", "dropout_p": "drop_rate"}.items():
            if ours in options:
                raise TypeError(f"{ours}: in timm's words it is {timms}")
        with torch.device(device) if device is not None else contextlib.nullcontext():
            super().__init__(max(1, num_classes), dropout_p=drop_rate, in_channels=in_chans, **options)
        self.in_chans, self.drop_rate, self.grad_checkpointing = in_chans, drop_rate, False
        self.num_features = self.backbone.out_channels
        stages = {
            f"backbone.stage{n}": _out_channels(stage)
            for n, stage in enumerate((self.backbone.stage1, self.backbone.stage2, self.backbone.stage3), 1)
        }
        self.feature_info: Any = [
            {"num_chs": channels, "reduction": 2**n, "module": module}
            for n, (module, channels) in enumerate(stages.items())
        ]
        self.num_classes = self.architecture["num_classes"]
        if num_classes != self.num_classes or global_pool != "avg":
            self.reset_classifier(num_classes, global_pool)
        else:
            self._set_pool(global_pool)
        if dtype is not None:
            self.to(dtype)

    @property
    def global_pool(self) -> Any:
        return self.pool

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new `fc` for `num_classes`, begun as the first one was; 0: none. global_pool as in timm: avg, max, avgmax,
        catavgmax, or "" for no pooling, which goes without a classifier alone."""
        if global_pool is not None:
            self._set_pool(global_pool)
        if num_classes > 0 and not self.pool.pool_type:
            raise ValueError("global_pool='' goes with num_classes=0 alone: a linear classifier reads pooled features")
        fc = nn.Linear(self.head_hidden_size, num_classes, bias=self.head == "linear") if num_classes > 0 else None
        if fc is not None and fc.bias is not None:
            nn.init.zeros_(fc.bias)
        like = next(self.backbone.parameters())
        self.fc: Any = nn.Identity() if fc is None else fc.to(like.device, like.dtype)
        self.fc.train(self.training)
        self.num_classes = self.architecture["num_classes"] = num_classes

    def _set_pool(self, global_pool: str) -> None:
        from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d

        if global_pool != "avg":  # our model files know no other: this makes them refuse it
            self.architecture["global_pool"] = global_pool
        else:
            self.architecture.pop("global_pool", None)
        self.pool: Any = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        self.head_hidden_size = self.num_features * self.pool.feat_mult()

    def forward_features(self, x: Tensor) -> Tensor:
        if not self.grad_checkpointing:
            return self.backbone(x)  # type: ignore[no-any-return]
        x = self.backbone.stem(x)
        for stage in (self.backbone.stage1, self.backbone.stage2, self.backbone.stage3):
            x = self._through(stage, x)
        return self.backbone.activation(self.backbone.bn(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.pool(x)  # [N, 64k], or [N, 64k, H/4, W/4] without pooling
        if pre_logits or self.num_classes == 0:
            return x
        if self.head == "cosine":
            return nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.fc.weight))
        return self.fc(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps of the stages `indices` (all; the last n; those), raw sums; with `norm`, the last one after BN and
        activation. With them what `forward_features` gives, unless `intermediates_only`."""
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt={output_fmt!r}: expected 'NCHW'")
        take = _counted(indices)
        last = max(take)
        stages = [self.backbone.stage1, self.backbone.stage2, self.backbone.stage3]
        maps, done = list[Tensor](), None
        x = self.backbone.stem(x)
        for index, stage in enumerate(stages[: last + 1] if stop_early or intermediates_only else stages):
            x = self._through(stage, x)
            if index == 2 and (norm or not intermediates_only):
                done = self.backbone.activation(self.backbone.bn(x))
            if index in take:
                maps.append(done if norm and done is not None else x)
        return maps if intermediates_only else (x if done is None else done, maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops what `forward_intermediates(indices)` does not need, and gives the indices counted from the first."""
        take = _counted(indices)
        last = max(take)
        for name in ("stage1", "stage2", "stage3")[last + 1 :]:
            setattr(self.backbone, name, nn.Sequential())
        if prune_norm or last < 2:
            self.backbone.bn = nn.Identity()
            self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or last < 2:
            self.reset_classifier(0, "")
        return take

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's groups of parameters, from the input on: the stem, then each stage, or each block."""
        blocks = r"^backbone\.stage(\d+)" if coarse else r"^backbone\.stage(\d+)\.(\d+)"
        return {"stem": r"^backbone\.stem", "blocks": [(blocks, None), (r"^backbone\.bn", (99999,))]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keeps one map a block and computes the rest again in the backward pass: less memory, the same numbers."""
        self.grad_checkpointing = enable

    def _through(self, stage: nn.Module, x: Tensor) -> Tensor:
        if not self.grad_checkpointing or not torch.is_grad_enabled():
            return stage(x)  # type: ignore[no-any-return]
        for block in stage.children():
            twice = lambda block=block: (contextlib.nullcontext(), _statistics_kept(block))  # noqa: E731
            x = checkpoint(block, x, use_reentrant=False, context_fn=twice)
        return x

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """Raises ModelFileError on what timm's `checkpoint_path` reads from a model file: its card is not there, and
        without it nobody sees that the weights are of another form."""
        if any(key.startswith("weights/") for key in state_dict):
            raise ModelFileError(f"a model file of wideresnet is not given as checkpoint_path but by {_OWN_FILE}")
        return super().load_state_dict(state_dict, *args, **kwargs)

    def load_pretrained(self, path: str | Path) -> None:
        """The weights of a model file or run folder; as in timm, other classes than its own keep a new `fc`. Raises
        ModelFileError if it is of another network."""
        file = load_model(Path(path))
        theirs = networks.architecture_of(file.model)
        free = {"num_classes", "dropout_p"}
        if any(value != self.architecture.get(key) for key, value in theirs.items() if key not in free):
            channels = f", in_chans={theirs['in_channels']}" if theirs["in_channels"] != self.in_chans else ""
            raise ModelFileError(
                f"{path}: the weights of a {networks.arch_name(theirs)}{channels}, not of this network"
            )
        state = file.model.state_dict()
        if self.num_classes != theirs["num_classes"] or "global_pool" in self.architecture:
            state = {key: value for key, value in state.items() if not key.startswith("fc.")}
            state |= {f"fc.{key}": value for key, value in self.fc.state_dict().items()}
        self.load_state_dict(state)


def _counted(indices: int | Sequence[int] | None) -> list[int]:
    """Which of the three maps: all, the last n, or those listed, negative ones counted from the end."""
    if isinstance(indices, int):
        indices = range(-indices, 0)
    chosen = list(range(3) if indices is None else indices)
    if not chosen or any(not -3 <= index < 3 for index in chosen):
        raise ValueError(f"indices {chosen}: expected one or more of 0, 1 and 2, the stages")
    return [index % 3 for index in chosen]


def _out_channels(stage: nn.Sequential) -> int:
    first = stage[0]
    assert isinstance(first, WideResidualBlock)
    return first.out_ch


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """On leaving, BN's statistics are what they were: a batch that is computed again must not count twice."""
    before = [(buffer, buffer.clone()) for buffer in block.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)
