"""Which engine computes, and why: the only place that decides. An engine is one call: uint8 pictures → logits."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wideresnet.model import WideResNetClassifier
from wideresnet.preprocess import Preprocess

BATCH_SIZE = 256


@dataclass(frozen=True, slots=True)
class Engine:
    """`compute`: uint8 [N, C, size, size], any N → logits float32 [N, num_classes] on the CPU."""

    name: str
    reason: str
    compute: Callable[[Tensor], Tensor]


def choose(model: WideResNetClassifier, preprocess: Preprocess, device: torch.device) -> Engine:
    """torch, on `device`: there is no other engine yet. `model` is put into eval mode and moved there."""
    model = to_device(model, device).eval()

    @torch.inference_mode()
    def compute(images: Tensor) -> Tensor:
        parts = [
            model(preprocess.normalise(part.to(device)).contiguous(memory_format=memory_format(device))).float().cpu()
            for part in images.split(BATCH_SIZE)
        ]
        return torch.cat(parts) if parts else torch.empty(0, model.fc.out_features)

    return Engine("torch", f"torch {torch.__version__} on {device.type}", compute)


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last where it was measured to help: training is 1.1 to 1.3 times as fast on a CPU (docs/numbers.md)."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def to_device(model: WideResNetClassifier, device: torch.device) -> WideResNetClassifier:
    model.to(device)
    model.to(memory_format=memory_format(device))
    return model
