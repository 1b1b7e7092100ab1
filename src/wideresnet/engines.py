"""Which engine computes, and why: the only place that decides. An engine is one call: uint8 pictures → logits."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from wideresnet import kernels, runtime
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
    """`compute`: uint8 [N, C, size, size], any N, in memory or not → logits float32 [N, num_classes] on the CPU."""

    name: str
    reason: str
    compute: Callable[[Tensor | Stream], Tensor]


def choose(model: nn.Module, preprocess: Preprocess, device: torch.device, engine: Name = "auto") -> Engine:
    """Our kernels on a CPU, where they were built and know the network; else torch, on `device`.

    `model` is put into eval mode and moved there. Raises UsageError if the engine asked for cannot compute it.
    """
    model = (model.model if isinstance(model, kernels.Accelerated) else model).to(device).eval()
    name, reason = _found(model, device, engine)
    model = through(to_device(model, device, name), name)
    # The kernels are as fast with 64 at a time (docs/numbers.md), which take a quarter of the memory.
    share = 4 if name == "kernels" else 1

    @torch.inference_mode()
    def compute(images: Tensor | Stream) -> Tensor:
        parts = [
            model(preprocess.normalise(part.to(device)).contiguous(memory_format=memory_format(device))).float().cpu()
            for part in images.split(max(1, _batch_size(images) // share))
        ]
        return torch.cat(parts) if parts else _answer_to_none(model, preprocess, device)

    return Engine(name, reason, compute)


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


def _answer_to_none(model: nn.Module, preprocess: Preprocess, device: torch.device) -> Tensor:
    """float32 [0, num_classes]: how many classes there are is seen in an answer, and kept nowhere else."""
    logits: Tensor = model(torch.zeros(1, preprocess.channels, preprocess.size, preprocess.size, device=device))
    return logits[:0].float().cpu()


def _batch_size(images: Tensor | Stream) -> int:
    return max(1, min(AT_ONCE, AT_ONCE * 32 * 32 // (images.shape[-2] * images.shape[-1])))


def with_tta(engine: Engine, tta: TTA, temperature: float) -> Engine:
    """`engine`, its answer to a picture the mean of those to several views of it: "flip", also its mirror image.

    Averaged are the probabilities softmax(logits / temperature), as Simonyan & Zisserman 2015 (section 3.2) have it;
    the logits given are those of the mean, so that the same temperature leads back to it.
    """
    if tta == "none":
        return engine

    def of_part(images: Tensor) -> Tensor:
        views = torch.stack([engine.compute(view) for view in (images, images.flip(3))])  # [2, N, num_classes]
        log_probs = torch.log_softmax(views.double() / temperature, 2)
        return (temperature * (log_probs.logsumexp(0) - math.log(2))).float()

    def compute(images: Tensor | Stream) -> Tensor:
        parts = [of_part(part) for part in images.split(_batch_size(images))]
        return torch.cat(parts) if parts else engine.compute(images)

    reason = f"{engine.reason}, probabilities averaged over each picture and its mirror image"
    return Engine(engine.name, reason, compute)


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last where it was measured to help: training is 1.1 to 1.3 times as fast on a CPU (docs/numbers.md)."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def to_device(model: nn.Module, device: torch.device, name: Found) -> nn.Module:
    """`model` itself, its weights as that engine reads them: the kernels as a network is made, [K][C][3][3]."""
    model.to(device)
    if name == "torch":
        model.to(memory_format=memory_format(device))
    return model
