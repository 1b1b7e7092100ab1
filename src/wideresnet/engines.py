"""Which engine computes, and why: the only place that decides. An engine is one call, uint8 pictures → logits, and a
second for who wants the embeddings too."""

import functools
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from wideresnet import kernels, networks, runtime
from wideresnet.data import Stream
from wideresnet.errors import UsageError, nearest
from wideresnet.model import WideResNetClassifier
from wideresnet.preprocess import Preprocess
from wideresnet.recipes import Recipe

Found = Literal["kernels", "torch"]
Name = Literal["auto", Found]
AT_ONCE = 256  # pictures of up to 32×32; of larger ones as few as have no more pixels, which is what memory goes by
TTA = Literal["none", "flip"]  # test-time augmentation


@dataclass(frozen=True, slots=True)
class Engine:
    """`compute`: uint8 [N, C, size, size], any N, in memory or not → logits float32 [N, num_classes] on the CPU.

    `embed`: the same → those logits, and the embeddings float32 [N, D] that the class layer reads, also on the CPU: of
    a Wide ResNet the pooled features, D = 64k. In one pass, which costs no more. Raises UsageError for a network
    that has not one layer of classes.
    """

    name: str
    reason: str
    compute: Callable[[Tensor | Stream], Tensor]
    embed: Callable[[Tensor | Stream], tuple[Tensor, Tensor]]


def choose(model: nn.Module, preprocess: Preprocess, device: torch.device, engine: Name = "auto") -> Engine:
    """Our kernels on a CPU, where they were built and know the network; else torch, on `device`.

    `model` is put into eval mode and moved there. Raises UsageError if the engine asked for cannot compute it.
    """
    model = (model.model if isinstance(model, kernels.Accelerated) else model).to(device).eval()
    name, reason = _found(model, device, engine)
    model = through(to_device(model, device, name), name)
    # The kernels are as fast with 64 at a time (docs/numbers.md), which take a quarter of the memory.
    share = 4 if name == "kernels" else 1

    def prepared(images: Tensor | Stream) -> Iterator[Tensor]:
        for part in images.split(max(1, _batch_size(images) // share)):
            yield preprocess.normalise(part.to(device)).contiguous(memory_format=memory_format(device))

    def nothing() -> Tensor:
        """A picture, where there is none: how long an answer is is seen in an answer, and kept nowhere else."""
        return torch.zeros(1, preprocess.channels, preprocess.size, preprocess.size, device=device)

    @torch.inference_mode()
    def compute(images: Tensor | Stream) -> Tensor:
        parts = [model(part).float().cpu() for part in prepared(images)]
        return torch.cat(parts) if parts else model(nothing())[:0].float().cpu()

    embedding = functools.cache(lambda: _embedding(model))

    @torch.inference_mode()
    def embed(images: Tensor | Stream) -> tuple[Tensor, Tensor]:
        both = [[each.float().cpu() for each in embedding()(part)] for part in prepared(images)]
        if not both:
            return tuple(each[:0].float().cpu() for each in embedding()(nothing()))  # type: ignore[return-value]
        return torch.cat([logits for logits, _ in both]), torch.cat([embeddings for _, embeddings in both])

    return Engine(name, reason, compute, embed)


def _embedding(model: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """What gives a model's logits, as it gives them itself, and what its class layer has read, float [N, D]."""
    if isinstance(model, kernels.Accelerated):
        return model.embed
    if type(model) is WideResNetClassifier:  # whose cosine head does not call its layer
        return functools.partial(_embedded, model)
    layer = model.get_submodule(networks.class_layer(model))

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        seen, mine = list[Tensor](), threading.get_ident()

        def keep(_layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            if threading.get_ident() == mine:  # another thread may be computing with the model
                seen.append(given[0])

        with layer.register_forward_pre_hook(keep):
            logits = model(x)
        read = seen[-1]
        if isinstance(layer, nn.Conv2d):  # classes first, and then pooled
            return logits, read.flatten(2).mean(2)
        return logits, read.flatten(1, -2).mean(1) if read.dim() > 2 else read

    return both


def _embedded(model: WideResNetClassifier, x: Tensor) -> tuple[Tensor, Tensor]:
    pooled = model.pool(model.backbone(x)).flatten(1)
    return model.classify(pooled), pooled


def for_training(model: nn.Module, recipe: Recipe, device: torch.device, engine: Name = "auto") -> tuple[Found, str]:
    """The engine that trains `model` by `recipe`, and the reason; the rule is that of `choose`, which see.

    The weights are not looked at: they may be anything, but must be there. Raises UsageError as `choose`.
    """
    by_torch = (
        (recipe.precision != "fp32", f"they compute in fp32, not in {recipe.precision}"),
        (recipe.compile, "--compile has torch compile the network"),
    )
    return _found(model, device, engine, next((why for wrong, why in by_torch if wrong), None))


def _found(model: nn.Module, device: torch.device, engine: Name, unfit: str | None = None) -> tuple[Found, str]:
    """Which engine it is, and why; `unfit`: why the kernels cannot do what is asked of them, whatever the model."""
    if engine not in (known := get_args(Name)):
        raise UsageError(f"--engine {engine}{nearest(engine, known)}")
    reason = f"torch {torch.__version__} on {device.type}"
    if engine == "torch":
        return "torch", reason
    if device.type != "cpu":
        unfit = f"they compute on a CPU, not on {device.type}"
    if (why_not := unfit or kernels.why_not(model)) is None:
        return "kernels", f"our kernels ({kernels.isa()}) on cpu"
    if engine == "kernels":
        raise UsageError(f"--engine kernels: {why_not}; leave --engine out")
    return "torch", f"{reason} ({why_not})" if device.type == "cpu" else reason


def through(model: nn.Module, name: Found) -> nn.Module:
    """`model`, computed by that engine: the same call, the same parameters."""
    if name == "torch":
        return model
    assert isinstance(model, WideResNetClassifier)
    return kernels.Accelerated(model)


def threads_for(name: Found, macs_per_step: int) -> int:
    """How many threads a step of so much work is given: at most torch's own number.

    With less work for each than this, torch's wait for one another longer than they compute (a WRN-16-2 on 8×8
    pixels is as fast on one core as on two), and where another program takes a core, a hundred times as long. The
    kernels' wait less: two train that network 1.5 times as fast as one.
    """
    each = 100_000_000 if name == "kernels" else 500_000_000
    return max(1, min(torch.get_num_threads(), macs_per_step // each))


def threads(name: Found, num: int) -> AbstractContextManager[None]:
    """While open, the engine computes with `num` threads."""
    return kernels.threads(num) if name == "kernels" else runtime.threads(num)


def _batch_size(images: Tensor | Stream) -> int:
    return max(1, min(AT_ONCE, AT_ONCE * 32 * 32 // (images.shape[-2] * images.shape[-1])))


def with_tta(engine: Engine, tta: TTA, temperature: float) -> Engine:
    """`engine`, its answer to a picture the mean of those to several views of it: "flip", also its mirror image.
    So are its embeddings.

    Averaged are the probabilities softmax(logits / temperature), as Simonyan & Zisserman 2015 (section 3.2) have it;
    the logits given are those of the mean, so that the same temperature leads back to it.
    """
    if tta == "none":
        return engine

    def averaged(views: list[Tensor]) -> Tensor:
        """Each [N, num_classes], logits."""
        log_probs = torch.log_softmax(torch.stack(views).double() / temperature, 2)
        return (temperature * (log_probs.logsumexp(0) - math.log(len(views)))).float()

    def views_of(images: Tensor | Stream) -> Iterator[tuple[Tensor, Tensor]]:
        return ((part, part.flip(3)) for part in images.split(_batch_size(images)))

    def compute(images: Tensor | Stream) -> Tensor:
        parts = [averaged([engine.compute(view) for view in views]) for views in views_of(images)]
        return torch.cat(parts) if parts else engine.compute(images)

    def embed(images: Tensor | Stream) -> tuple[Tensor, Tensor]:
        both = [zip(*map(engine.embed, views), strict=True) for views in views_of(images)]
        if not both:
            return engine.embed(images)
        parts = [(averaged(list(logits)), torch.stack(embeddings).mean(0)) for logits, embeddings in both]
        return torch.cat([logits for logits, _ in parts]), torch.cat([embeddings for _, embeddings in parts])

    reason = f"{engine.reason}, probabilities averaged over each picture and its mirror image"
    return Engine(engine.name, reason, compute, embed)


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last where it was measured to help: training is 1.1 to 1.3 times as fast on a CPU (docs/numbers.md)."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def to_device(model: nn.Module, device: torch.device, name: Found) -> nn.Module:
    """`model` itself, its weights as that engine reads them: the kernels as a network is made, [K][C][3][3]."""
    model.to(device)
    if name == "torch":
        model.to(memory_format=memory_format(device))
    return model
