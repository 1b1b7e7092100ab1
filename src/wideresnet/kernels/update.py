"""SGD with momentum and weight decay, and the running average of the weights, in one pass over memory: csrc/update.cpp.

The optimizer stays torch's own: its groups say how, its state holds the momentum, and torch's step can follow any time.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from wideresnet import runtime
from wideresnet.kernels import library
from wideresnet.kernels.library import Row

NONE: Mapping[Tensor, Tensor] = MappingProxyType({})


@torch.no_grad()
def update(optimizer: torch.optim.SGD, averages: Mapping[Tensor, Tensor] = NONE, share: float = 0.0) -> None:
    """`optimizer.step()`; then average += share · (weight - average) for each weight and its average in `averages`.

    Where the kernels cannot, torch does just that, which is said once.
    """
    loaded = library.load()
    reason = f"our kernels are {loaded}" if isinstance(loaded, str) else _unfit(optimizer, averages)
    if isinstance(loaded, str) or reason is not None:
        runtime.say_once(f"kernels: {reason}; torch updates the weights")
        optimizer.step()
        if averages:
            torch._foreach_lerp_(list(averages.values()), list(averages), share)
        return
    rows, written, left = list[Row](), list(averages.values()), dict(averages)
    for group in optimizer.param_groups:
        numbers = group["lr"], group["weight_decay"], group["momentum"], group["nesterov"]
        for weight in group["params"]:
            if (gradient := weight.grad) is None:
                continue
            momentum, average = _momentum(optimizer, weight), left.pop(weight, None)
            place = None if average is None else average.data_ptr()
            places = weight.data_ptr(), gradient.data_ptr(), momentum.data_ptr(), place
            rows.append(Row(*places, weight.numel(), *numbers))
            written += (weight, momentum)
    rows += [Row(weight.data_ptr(), None, None, each.data_ptr(), weight.numel()) for weight, each in left.items()]
    loaded.sgd(rows, share, library.num_threads())
    torch.autograd.graph.increment_version(written)


def _momentum(optimizer: torch.optim.SGD, weight: Tensor) -> Tensor:
    """At its first step zeros, so that it becomes the gradient, as torch has it."""
    state = optimizer.state[weight]
    if state.get("momentum_buffer") is None:
        state["momentum_buffer"] = torch.zeros_like(weight)
    momentum: Tensor = state["momentum_buffer"]
    return momentum


def _unfit(optimizer: torch.optim.SGD, averages: Mapping[Tensor, Tensor]) -> str | None:
    """Why torch must do it."""
    tensors = [*averages, *averages.values()]
    for group in optimizer.param_groups:
        if not group["momentum"] or any(group[name] for name in ("dampening", "maximize", "differentiable")):
            return "SGD without momentum, with dampening or uphill"
        if isinstance(group["lr"], Tensor):
            return "a learning rate that is a tensor"
        learnt = [weight for weight in group["params"] if weight.grad is not None]
        tensors += learnt + [weight.grad for weight in learnt]
        tensors += [optimizer.state[weight].get("momentum_buffer") for weight in learnt]
    plain = all(
        each.dtype == torch.float32 and each.is_cpu and each.is_contiguous() for each in tensors if each is not None
    )
    return None if plain else "weights or gradients that are not contiguous float32 on the CPU"
