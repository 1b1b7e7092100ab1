"""Averages of the weights, one network beside the other: a running one, SWA's, and the BN statistics that it needs."""

import copy
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import nn

from wideresnet.training.modes import to_train_mode


def share_of(decay: float, step: int) -> float:
    """What the weights after update `step` (from 1) count in their running average: 1-d, the average so far being d.

    d = min(decay, (1 + step) / (10 + step)), so that the first weights are soon forgotten (TensorFlow's
    ExponentialMovingAverage, `num_updates`).
    """
    return 1 - min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """average ← d·average + (1-d)·weights, 1-d being `share_of`; BN's buffers are copied, not averaged."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), share_of(decay, step))
    copy_buffers(average, model)


@torch.no_grad()
def copy_buffers(average: nn.Module, model: nn.Module) -> None:
    for ours, theirs in zip(average.buffers(), model.buffers(), strict=True):
        ours.copy_(theirs)


@torch.no_grad()
def average_epochs(average: nn.Module | None, model: nn.Module, num: int) -> nn.Module:
    """The mean of the weights after `num` epochs, of which `average` has all but the last: SWA's, each weighs the same.

    Izmailov et al. 2018, algorithm 1. BN's statistics are still to be made: `recompute_bn`.
    """
    if average is None:
        return copy.deepcopy(model).eval().requires_grad_(False)
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 / num)
    return average


@torch.no_grad()
def recompute_bn(
    model: nn.Module,
    computed: nn.Module,
    batches: Iterable[Any],
    loss: Callable[[nn.Module, Any], Any],
    frozen: Collection[str] = (),
) -> None:
    """BN's statistics ← the mean over these batches of each one's, as torch.optim.swa_utils.update_bn has it; those of
    the modules `frozen` stay. `computed` is `model`, or computes as it does on the same buffers."""
    to_train_mode(model, frozen)
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's sign for the plain mean
    for batch in batches:
        loss(computed, batch)
    model.eval()
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
