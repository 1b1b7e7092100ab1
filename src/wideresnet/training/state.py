"""All that a training carries from one step to the next, how it begins, and its form on disk."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from wideresnet import engines
from wideresnet.recipes import Recipe


@dataclass(frozen=True, slots=True)
class StepLoss:
    """The mean loss of a batch, a scalar with its gradient; how many examples; sums over them, to be averaged.

    The mean is over the examples, however they weigh: of a batch computed in parts it is the parts' by their lengths.
    """

    mean: Tensor
    num_examples: int
    sums: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(slots=True)
class Begun:
    """What the epoch under way has come to; between two epochs, nothing."""

    steps: int = 0
    num_examples: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # over those examples
    seconds: float = 0.0

    def count(self, mean: float, result: StepLoss) -> None:
        """Adds a step."""
        # Sums, not means: batches may differ in length, and a mean of means would weigh some images more.
        self.steps += 1
        self.num_examples += result.num_examples
        totals: dict[str, float | Tensor] = {"loss": mean * result.num_examples, **result.sums}
        for name, total in totals.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(total)


@dataclass(slots=True)
class State:
    """All that bitwise resume needs, between two steps. `average` is None without an EMA and before SWA begins."""

    model: nn.Module
    optimizer: torch.optim.SGD
    average: nn.Module | None
    scaler: torch.amp.GradScaler  # of the loss in fp16; else it does nothing
    engine: engines.Found = "torch"  # what computes the steps
    epoch: int = 0  # epochs done
    begun: Begun = field(default_factory=Begun)  # of the epoch after those
    best_score: float | None = None
    improved: int = 0  # the epoch whose score first was the best
    rows: list[dict[str, Any]] = field(default_factory=list)  # one an epoch, as in metrics.csv
    parts: int = 1  # that each batch is computed in: the recipe's `accumulate`, or more where memory ran out
    first_loss: float | None = None  # of the first step, by which later ones are told to explode
    lr_factor: float = 1.0  # of the schedule's learning rate: below 1 where the training went back (`goes_back`)
    rollbacks: int = 0
    spare: list[Tensor] = field(default_factory=list)  # room for the buffers as they were before a step; no state

    @property
    def judged(self) -> nn.Module:
        """What is validated and saved: the average of the weights where there is one."""
        return self.model if self.average is None else self.average

    def where(self, steps_per_epoch: int) -> str:
        """How far the training has come, in words."""
        if self.begun.steps:
            return f"after step {self.begun.steps} of {steps_per_epoch} of epoch {self.epoch + 1}"
        return f"after epoch {self.epoch}"


def start(
    model: nn.Module,
    recipe: Recipe,
    lr_scales: Mapping[str, float] | None = None,
    engine: engines.Found = "torch",
) -> State:
    """`lr_scales`: parameter → what its learning rate is of the schedule's; 1 for those that are not named."""
    average = copy.deepcopy(model).eval().requires_grad_(False) if recipe.ema_decay else None
    scaler = torch.amp.GradScaler(device_of(model).type, enabled=recipe.precision == "fp16")
    optimizer = make_optimizer(model, recipe, lr_scales or {})
    return State(model, optimizer, average, scaler, engine, parts=recipe.accumulate)


def make_optimizer(
    model: nn.Module, recipe: Recipe, lr_scales: Mapping[str, float] = MappingProxyType({})
) -> torch.optim.SGD:
    """SGD with the recipe's momentum; BN's scales and shifts and biases decay only if the recipe says so.

    What is frozen is left out; `lr_scales` as in `start`, each in groups of its own (`lr_scale`, the highest first).
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = list[dict[str, Any]]()
    for scale in sorted({lr_scales.get(name, 1.0) for name, _ in named}, reverse=True):
        decayed, kept = list[nn.Parameter](), list[nn.Parameter]()
        for name, parameter in named:
            if lr_scales.get(name, 1.0) == scale:
                (decayed if parameter.dim() > 1 or recipe.decay_norm_and_bias else kept).append(parameter)
        groups.append({"params": decayed, "weight_decay": recipe.weight_decay, "lr_scale": scale})
        groups.append({"params": kept, "weight_decay": 0.0, "lr_scale": scale})
    return torch.optim.SGD(
        [group for group in groups if group["params"]], lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov
    )


def to_progress(state: State) -> dict[str, Any]:
    """The rest of the state, as JSON."""
    return {
        "epoch": state.epoch,
        "begun": asdict(state.begun),
        "best_score": state.best_score,
        "improved": state.improved,
        "rows": list(state.rows),
        "parts": state.parts,
        "first_loss": state.first_loss,
        "lr_factor": state.lr_factor,
        "rollbacks": state.rollbacks,
    }


def to_tensors(state: State) -> dict[str, Tensor]:
    """The state as tensors under stable names, for the checkpoint."""
    tensors = {f"model/{key}": value for key, value in state.model.state_dict().items()}
    if state.average is not None:
        tensors |= {f"average/{key}": value for key, value in state.average.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        if "momentum_buffer" in state.optimizer.state[parameter]:
            tensors[f"momentum/{name}"] = state.optimizer.state[parameter]["momentum_buffer"]
    for name, value in state.scaler.state_dict().items():  # nothing but in fp16
        tensors[f"scaler/{name}"] = torch.tensor(value, dtype=torch.float64)
    return tensors


def from_tensors(state: State, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
    """Sets a fresh `state` to what a checkpoint holds, exactly."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    state.model.load_state_dict(part("model/"))
    if average := part("average/"):
        if state.average is None:
            state.average = copy.deepcopy(state.model).eval().requires_grad_(False)
        state.average.load_state_dict(average)
    momentum = part("momentum/")
    for name, parameter in state.model.named_parameters():
        if name in momentum:
            buffer = torch.empty_like(parameter).copy_(momentum[name])  # in the parameter's own memory format
            state.optimizer.state[parameter]["momentum_buffer"] = buffer
    if scaler := part("scaler/"):
        kinds = state.scaler.state_dict()  # some are whole numbers
        state.scaler.load_state_dict({name: type(kinds[name])(value.item()) for name, value in scaler.items()})
    state.epoch, state.best_score = progress["epoch"], progress["best_score"]
    state.improved = progress.get("improved", 0)  # earlier versions stopped nothing early,
    state.begun = Begun(**progress.get("begun", {}))  # and kept whole epochs alone
    state.rows = list(progress["rows"])
    for name in ("parts", "first_loss", "lr_factor", "rollbacks"):  # which earlier versions had not
        setattr(state, name, progress.get(name, getattr(state, name)))


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
