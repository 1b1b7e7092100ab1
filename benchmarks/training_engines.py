"""The settings that benchmarks/training.py compares: a network and a batch → a call that does one training step.

A step is forward, cross entropy, backward, and SGD with Nesterov's momentum and weight decay.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from inference_engines import accelerated
from torch import Tensor, nn

from wideresnet import kernels
from wideresnet.model import WideResNetClassifier
from wideresnet.processes import ALONE, World

SGD: Mapping[str, Any] = {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
WAYS: dict[str, dict[str, Any]] = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
Step = Callable[[], Tensor]  # → the loss before the update


@dataclass(frozen=True, slots=True)
class Setting:
    """How torch computes."""

    channels_last: bool = False
    compiled: bool = False
    bf16: bool = False  # autocast: another precision than ours


OURS = "ours"
SETTINGS = {
    "NCHW": Setting(),
    "channels last": Setting(channels_last=True),
    "compiled NCHW": Setting(compiled=True),
    "compiled channels last": Setting(compiled=True, channels_last=True),
    "bf16 NCHW": Setting(bf16=True),
    "bf16 channels last": Setting(bf16=True, channels_last=True),
    "bf16 compiled NCHW": Setting(bf16=True, compiled=True),
    "bf16 compiled channels last": Setting(bf16=True, compiled=True, channels_last=True),
}


def has_bf16() -> bool:
    """Whether the processor multiplies in bfloat16; without, torch emulates it, slower than float32."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def network(name: str) -> WideResNetClassifier:
    """wrn_DEPTH_WIDTH in training mode, always the same weights, as they are before the first step."""
    _, depth, widen_factor = name.split("_")
    torch.manual_seed(0)
    return WideResNetClassifier(10, int(depth), int(widen_factor)).train()


def batch_of(size: int, pixels: int) -> tuple[Tensor, Tensor]:
    """Images and labels."""
    images = torch.randn(size, 3, pixels, pixels, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(size) % 10


def fastest_sgd(model: nn.Module) -> str:
    """The one of torch's three implementations of the update that is fastest for these parameters: a key of WAYS."""
    best = {}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for name, way in WAYS.items():
        optimizer = torch.optim.SGD(model.parameters(), **SGD, **way)
        seconds = []
        for _ in range(4):
            started = time.perf_counter()
            optimizer.step()
            seconds.append(time.perf_counter() - started)
        best[name] = min(seconds[1:])  # the first allocates
    model.zero_grad(set_to_none=True)
    return min(best, key=best.__getitem__)


def torch_step(model: WideResNetClassifier, images: Tensor, labels: Tensor, setting: Setting, sgd: str) -> Step:
    """`sgd`: a key of WAYS."""
    if setting.channels_last:
        model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    computes: nn.Module = torch.compile(model, dynamic=False) if setting.compiled else model  # type: ignore[assignment]
    optimizer = torch.optim.SGD(model.parameters(), **SGD, **WAYS[sgd])

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=setting.bf16):
            loss = F.cross_entropy(computes(images).float(), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def our_update(model: WideResNetClassifier) -> Callable[[], object]:
    """The update that belongs to our kernels: the only place that knows which it is."""
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    return lambda: kernels.update(optimizer)


def our_step(model: WideResNetClassifier, images: Tensor, labels: Tensor, world: World = ALONE) -> Step:
    """With a world of several processes, `images` are this one's equal part of a batch, and the gradient is of all."""
    fast = accelerated(model)
    update = our_update(model)

    def step() -> Tensor:
        with kernels.threads(torch.get_num_threads()):  # as `wrn train` does
            model.zero_grad(set_to_none=True)
            loss = F.cross_entropy(fast(images), labels)
            (loss / world.size).backward()
            world.add_gradients(model.parameters())
            update()
            return loss.detach()

    return step


def fallbacks() -> list[str]:
    """What our kernels have left to torch in this process, as they said it: then "ours" is torch."""
    from wideresnet import runtime

    return sorted(line for line in runtime._said if line.startswith("kernels:"))
