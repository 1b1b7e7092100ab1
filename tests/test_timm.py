"""Our networks as timm's users call them: by timm's names and words, the same networks as ours."""

import copy
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import wideresnet as wrn
from wideresnet.checkpoint import Card, save_model
from wideresnet.dialects import ARCHITECTURES, FORMS
from wideresnet.errors import ModelFileError, UsageError

timm: Any = importlib.import_module("timm")  # its types know no attribute of a network
resolve_model_data_config: Any = importlib.import_module("timm.data").resolve_model_data_config
create_optimizer_v2: Any = importlib.import_module("timm.optim").create_optimizer_v2

CREATE = (
    "import timm as t; print(sum(p.numel() for p in t.create_model('wrn_10_1.trades', num_classes=7).parameters()))"
)
LOADERS = "import timm; print(type(timm.__loader__).__name__, type(timm.__spec__.loader).__name__)"
FINDERS = "import sys; print([f for f in sys.meta_path if type(f).__module__.startswith('wideresnet')])"


def fresh(*lines: str) -> list[str]:
    """What a new process prints that runs these lines; that it says nothing else."""
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n" + "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("imports", ["import timm\nimport wideresnet", "import wideresnet\nimport timm"])
def test_timm_makes_our_networks_whichever_is_imported_first(imports: str) -> None:
    loader = "SourceFileLoader SourceFileLoader"
    assert fresh(imports, CREATE, LOADERS, FINDERS) == ["77655", loader, "[]"]


def test_importing_us_imports_no_timm_and_looking_for_timm_imports_nothing() -> None:
    looks = "import importlib.util; assert importlib.util.find_spec('timm').origin.endswith('__init__.py')"
    there = "print([m for m in ('timm', 'torch') if m in sys.modules])"
    assert fresh("import wideresnet", looks, there, CREATE, FINDERS) == ["[]", "77655", "[]"]


def test_a_name_that_timm_has_already_stays_timms() -> None:
    theirs = (
        "import sys, types, timm.models, torch\n"
        "def wrn_10_1(pretrained=False, **_): return torch.nn.Identity()\n"
        "wrn_10_1.__module__ = 'theirs'; sys.modules['theirs'] = types.ModuleType('theirs')\n"
        "timm.models.register_model(wrn_10_1)\n"
        "import warnings; warnings.showwarning = lambda text, *_: print(text)"
    )
    print_both = "print(timm.create_model('wrn_10_1'), type(timm.create_model('wrn_10_2')).__name__)"
    said, made = fresh(theirs, "import wideresnet", print_both)
    assert said == "timm has its own wrn_10_1; they stay timm's, ours are wrn.create_model's"
    assert made == "Identity() TimmWideResNet"


@pytest.mark.parametrize("form", FORMS)
def test_a_form_gives_the_same_network_by_timm_and_by_us(form: str) -> None:
    name = f"wrn_10_1.{form}" if form else "wrn_10_1"
    ours = wrn.create_model(name, num_classes=4, in_channels=1).eval()
    theirs = timm.create_model(name, num_classes=4, in_chans=1).eval()
    assert list(theirs.state_dict()) == list(ours.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(theirs(x), ours(x))
    assert (theirs.default_cfg["architecture"], theirs.default_cfg.get("tag", "")) == ("wrn_10_1", form)


def test_timm_lists_every_network_and_every_form_and_offers_no_weights() -> None:
    assert timm.list_models("wrn_*") == [row.name for row in ARCHITECTURES]
    assert set(timm.list_models("wrn_*.trades", include_tags=True)) == set(wrn.list_models("wrn_*.trades"))
    assert timm.list_pretrained("wrn_*") == []
    assert timm.is_model("wrn_28_10")


def test_a_network_that_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match=r"wrn_10_1\.trads.*did you mean 'trades'\?"):
        timm.create_model("wrn_10_1.trads")
    with pytest.raises(TypeError, match="unknown option 'drop_path_rate'; options are stem"):
        timm.create_model("wrn_10_1", drop_path_rate=0.1)
    with pytest.raises(TypeError, match="dropout_p: in timm's words it is drop_rate"):
        timm.create_model("wrn_10_1", dropout_p=0.1)
    with pytest.raises(UsageError, match=r"wrn_10_1: no weights are published\. .*'file': .*model.safetensors"):
        timm.create_model("wrn_10_1", pretrained=True)


def test_options_of_ours_overrule_the_forms_and_dialects_have_their_other_names() -> None:
    model = timm.create_model("wrn_10_1.pixmix", activation="silu")
    assert (model.architecture["shortcut"], model.architecture["activation"]) == ("activated", "silu")
    assert model.default_cfg["tag"] == "augmix"


def test_drop_rate_is_the_dropout_within_the_blocks() -> None:
    model = timm.create_model("wrn_10_1", drop_rate=0.3)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.3] * 3
    assert model.architecture["dropout_p"] == model.drop_rate == 0.3


def test_the_default_cfg_leads_timms_transforms_to_the_input_of_the_source() -> None:
    config = resolve_model_data_config(timm.create_model("wrn_10_1.augmix"))
    assert (config["input_size"], config["mean"], config["std"]) == ((3, 32, 32), (0.5,) * 3, (0.5,) * 3)
    assert (config["interpolation"], config["crop_pct"]) == ("bilinear", 1.0)
    cfg = timm.create_model("wrn_10_1").pretrained_cfg
    assert (cfg["first_conv"], cfg["classifier"], cfg["num_classes"]) == ("backbone.stem.0", "fc", 10)
    assert cfg["mean"] == (0.4914, 0.4822, 0.4465)
    assert "each image by its own" in timm.create_model("wrn_10_1.advertorch").default_cfg["notes"][0]


@pytest.mark.parametrize("form", ["", ".paper", ".yu1ut-mixmatch", ".hysts"])
def test_features_only_gives_the_raw_sums_of_the_three_stages(form: str) -> None:
    whole = timm.create_model(f"wrn_10_2{form}").eval()
    model = timm.create_model(f"wrn_10_2{form}", features_only=True).eval()
    model.model.load_state_dict(whole.state_dict(), strict=False)
    x = torch.randn(2, 3, 21, 18, generator=torch.Generator().manual_seed(0))
    maps, stages = model(x), whole.backbone.stages(x)
    assert all(torch.equal(one, other) for one, other in zip(maps, stages, strict=True))
    info = model.feature_info
    assert (info.channels(), info.reduction()) == ([32, 64, 128], [1, 2, 4])
    assert [one.shape[1] for one in maps] == info.channels()
    assert info.module_name() == ["backbone.stage1", "backbone.stage2", "backbone.stage3"]
    hooked = timm.create_model(f"wrn_10_2{form}", features_only=True, feature_cls="hook").eval()
    hooked.load_state_dict({f"body.{key}": value for key, value in whole.state_dict().items()}, strict=False)
    assert all(torch.equal(one, other) for one, other in zip(hooked(x), stages, strict=True))


def test_out_indices_choose_stages_and_what_none_needs_is_dropped() -> None:
    x = torch.zeros(1, 3, 16, 16)
    model = timm.create_model("wrn_10_2", features_only=True, out_indices=(0, 1))
    assert [list(one.shape) for one in model(x)] == [[1, 32, 16, 16], [1, 64, 8, 8]]
    assert not [name for name, _ in model.named_parameters() if "stage3" in name or "fc" in name]
    model = timm.create_model("wrn_10_2", features_only=True, out_indices=(-1,))
    assert (model.feature_info.channels(), model.feature_info.reduction()) == ([128], [4])
    assert [list(one.shape) for one in model(x)] == [[1, 128, 4, 4]]
    with pytest.raises(ValueError, match=r"indices \[0, 3\]: expected one or more of 0, 1 and 2"):
        timm.create_model("wrn_10_2", features_only=True, out_indices=(0, 3))


def test_forward_intermediates_gives_the_maps_and_what_forward_features_gives() -> None:
    model = timm.create_model("wrn_10_1").eval()
    x = torch.randn(2, 3, 8, 8)
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, model.forward_features(x))
    assert torch.equal(maps[2], model.backbone.stages(x)[2])
    (normed,) = model.forward_intermediates(x, 1, norm=True, intermediates_only=True)
    assert torch.equal(normed, last)
    stopped, (first,) = model.forward_intermediates(x, [0], stop_early=True)
    assert torch.equal(stopped, first)


@pytest.mark.parametrize("form", ["", ".bag-of-tricks-cosine"])
def test_the_parts_of_a_pass_make_the_whole_one(form: str) -> None:
    model = timm.create_model(f"wrn_10_2{form}", num_classes=5).eval()
    x = torch.randn(2, 3, 9, 9)
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    assert (list(features.shape), list(pooled.shape)) == ([2, model.num_features, 3, 3], [2, 128])
    assert torch.equal(model.forward_head(features), model(x))
    assert torch.equal(wrn.WideResNetClassifier.forward(model, x), model(x))


def test_reset_classifier_begins_a_new_head_and_keeps_the_rest() -> None:
    model = timm.create_model("wrn_10_1.bag-of-tricks-cosine", num_classes=5).double()
    before = copy.deepcopy(model.backbone.state_dict())
    model.reset_classifier(7)
    assert (model.num_classes, model.get_classifier(name_only=True)) == (7, "fc")
    assert model.get_classifier().weight.shape == (7, 64)
    assert (model.get_classifier().bias, model.get_classifier().weight.dtype) == (None, torch.float64)
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.state_dict().items())
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    model.reset_classifier(0)
    assert list(model.eval()(x).shape) == [1, 64]
    model.reset_classifier(0, "")
    assert list(model(x).shape) == [1, 64, 2, 2]
    with pytest.raises(ValueError, match="goes with num_classes=0 alone"):
        model.reset_classifier(3)


@pytest.mark.parametrize(("pool", "times"), [("avg", 1), ("max", 1), ("avgmax", 1), ("catavgmax", 2)])
def test_global_pool_pools_as_timm_says(pool: str, times: int) -> None:
    model = timm.create_model("wrn_10_1", num_classes=3, global_pool=pool).eval()
    x = torch.randn(2, 3, 12, 12)
    maps = model.forward_features(x)
    mean, largest = maps.mean((2, 3)), maps.amax((2, 3))
    expected = {"avg": mean, "max": largest, "avgmax": (mean + largest) / 2, "catavgmax": torch.cat([mean, largest], 1)}
    torch.testing.assert_close(model.forward_head(maps, pre_logits=True), expected[pool])
    assert model.global_pool.pool_type == pool
    assert (model.head_hidden_size, list(model(x).shape)) == (64 * times, [2, 3])


def test_checkpointing_gradients_changes_neither_gradients_nor_statistics() -> None:
    torch.manual_seed(0)
    plain = timm.create_model("wrn_10_1.robustbench-dai2021pssilu", num_classes=3, drop_rate=0.2)
    kept = copy.deepcopy(plain)
    kept.set_grad_checkpointing()
    x, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    for model in (plain, kept):
        torch.manual_seed(1)
        F.cross_entropy(model(x), labels).backward()
    for (name, one), other in zip(plain.named_parameters(), kept.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.equal(one.grad, other.grad), name
    for (name, buffer), other in zip(plain.named_buffers(), kept.buffers(), strict=True):
        assert torch.equal(buffer, other), name
    assert int(kept.backbone.stage1[0].bn1.num_batches_tracked) == 1


def test_timms_layer_decay_finds_the_stem_the_blocks_and_the_head_in_their_order() -> None:
    model = timm.create_model("wrn_16_1")
    optimiser = create_optimizer_v2(model, opt="sgd", lr=1.0, weight_decay=0.0, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["lr_scale"] for group in optimiser.param_groups for p in group["params"]}
    ordered = ["backbone.stem.0.weight", "backbone.stage1.0.conv1.weight", "backbone.stage1.1.conv1.weight"]
    ordered += ["backbone.stage3.1.conv2.weight", "fc.weight"]
    assert [rates[name] for name in ordered] == sorted({rates[name] for name in ordered})
    assert rates["backbone.bn.weight"] == rates["backbone.stage3.1.conv2.weight"]
    assert rates["fc.bias"] == 1


def model_file(folder: Path, arch: str = "wrn_10_1.trades") -> Path:
    model = wrn.create_model(arch, num_classes=3, in_channels=1)
    nn.init.normal_(model.fc.bias)
    preprocess = wrn.Preprocess(size=20, mean=(0.25,), std=(0.5,), fit="squash")
    card = Card(architecture=model.architecture, class_names=("ant", "bee", "cow"), preprocess=preprocess)
    save_model(folder / "model.safetensors", model.state_dict(), card)
    return folder / "model.safetensors"


@pytest.mark.parametrize("given", ["file", "folder"])
def test_a_model_file_of_ours_brings_timm_its_weights_classes_and_input(tmp_path: Path, given: str) -> None:
    path = model_file(tmp_path)
    overlay = {"file": str(path if given == "file" else tmp_path)}
    model = timm.create_model("wrn_10_1.trades", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    predictor = wrn.load(path)
    images = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8)
    grey = torch.stack([predictor.card.preprocess.resize(one.permute(1, 2, 0).numpy()) for one in images])
    torch.testing.assert_close(model(predictor.card.preprocess.normalise(grey)), predictor.logits(list(images)))
    cfg = resolve_model_data_config(model)
    assert (cfg["input_size"], cfg["mean"], cfg["std"], cfg["crop_mode"]) == ((1, 20, 20), (0.25,), (0.5,), "squash")
    assert (model.num_classes, model.default_cfg["label_names"]) == (3, ("ant", "bee", "cow"))
    features = timm.create_model(
        "wrn_10_1.trades", pretrained=True, pretrained_cfg_overlay=overlay, features_only=True
    ).eval()
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(features(x)[2], model.backbone.stages(x)[2])


def test_a_model_file_with_other_classes_keeps_its_backbone_and_begins_a_new_head(tmp_path: Path) -> None:
    overlay = {"file": str(model_file(tmp_path))}
    model = timm.create_model("wrn_10_1.trades", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=8)
    weights = wrn.load(tmp_path / "model.safetensors")
    assert model.fc.weight.shape == (8, 64)
    assert weights.card.class_names == ("ant", "bee", "cow")
    assert not model.fc.bias.any()


def test_a_model_file_of_another_network_or_by_timms_checkpoint_path_is_refused(tmp_path: Path) -> None:
    path = model_file(tmp_path)
    for name in ("wrn_10_1", "wrn_16_1.trades"):
        with pytest.raises(ModelFileError, match=r"the weights of a wrn_10_1\.\S+, not of this network"):
            timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, in_chans=1)
    with pytest.raises(ModelFileError, match=r"the weights of a \S+, in_chans=1, not of this network"):
        timm.create_model("wrn_10_1.trades", pretrained=True, pretrained_cfg_overlay={"file": str(path)}, in_chans=3)
    with pytest.raises(ModelFileError, match=r"not given as checkpoint_path but by pretrained=True, .*'file'"):
        timm.create_model("wrn_10_1.trades", num_classes=3, in_chans=1, checkpoint_path=str(path))


def test_a_plain_state_dict_goes_through_checkpoint_path(tmp_path: Path) -> None:
    ours = wrn.create_model("wrn_10_1", num_classes=4)
    torch.save(ours.state_dict(), tmp_path / "weights.pth")
    theirs = timm.create_model("wrn_10_1", num_classes=4, checkpoint_path=str(tmp_path / "weights.pth"))
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in theirs.state_dict().items())


@settings(max_examples=15)
@given(height=st.integers(4, 40), width=st.integers(4, 40), in_chans=st.integers(1, 4))
def test_maps_are_as_large_as_feature_info_says_rounded_up(height: int, width: int, in_chans: int) -> None:
    model = timm.create_model("wrn_10_1", features_only=True, in_chans=in_chans).eval()
    maps: list[Tensor] = model(torch.zeros(1, in_chans, height, width))
    for one, channels, reduction in zip(
        maps, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        assert list(one.shape) == [1, channels, -(-height // reduction), -(-width // reduction)]
