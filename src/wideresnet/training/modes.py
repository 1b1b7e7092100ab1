"""A network whose parameters say which of them are trained (`requires_grad`) → which modules are frozen, and the mode
that each is trained in."""

from collections.abc import Collection

from torch import nn


def frozen_modules(model: nn.Module) -> set[str]:
    """Names of the modules that have parameters, none of which is trained."""
    parameters = ((name, [p.requires_grad for p in module.parameters()]) for name, module in model.named_modules())
    return {name for name, trained in parameters if trained and not any(trained)}


def to_train_mode(model: nn.Module, frozen: Collection[str]) -> None:
    """`model.train()`, but for the modules `frozen`: they compute as in judging, so that BN keeps its statistics and
    nothing is dropped."""
    model.train()
    for name in frozen:
        model.get_submodule(name).eval()
