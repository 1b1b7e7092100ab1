"""The loop: it knows no task, stops whole, and goes on bit for bit."""

import copy
import dataclasses
import os
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wideresnet import training
from wideresnet.errors import Diverged, Interrupted
from wideresnet.model import WideResNetClassifier
from wideresnet.recipes import RECIPES, Recipe, change
from wideresnet.training import State, StepLoss, fit, make_optimizer, start, update_average

SMALL = change(RECIPES["fast"], {"epochs": 4, "batch_size": 16, "lr": 0.05})
X = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
Y = X @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.3


def line_batches(epoch: int) -> Iterator[Tensor]:
    """Batches of a regression: row numbers, which only this task's loss understands."""
    yield from torch.randperm(64, generator=torch.Generator().manual_seed(epoch)).split(16)


def squared_error(model: nn.Module, batch: Tensor) -> StepLoss:
    difference = model(X[batch]) - Y[batch]
    return StepLoss(difference.square().mean(), len(batch), {"absolute_error": difference.detach().abs().sum()})


def score(model: nn.Module) -> Mapping[str, float]:
    with torch.no_grad():
        error = float((model(X) - Y).square().mean())
    return {"val_error": error, "score": -error}


def new_line(recipe: Recipe = SMALL, dropout: float = 0.0) -> State:
    torch.manual_seed(0)
    return start(nn.Sequential(nn.Linear(3, 1), nn.Dropout(dropout)), recipe)


def run(state: State, recipe: Recipe = SMALL, **replaced: Any) -> list[tuple[int, bool]]:
    """Trains `state` on the regression; (epoch, is best) of each save."""
    saves: list[tuple[int, bool]] = []
    options: dict[str, Any] = {
        "batches": line_batches,
        "loss": squared_error,
        "validate": score,
        "save": lambda state, is_best: saves.append((state.epoch, is_best)),
        "recipe": recipe,
        "steps_per_epoch": 4,
        "seed": 0,
    } | replaced
    fit(state, options.pop("batches"), options.pop("loss"), options.pop("validate"), **options)
    return saves


def test_a_regression_trains_through_the_loop_unchanged() -> None:
    recipe = change(SMALL, {"epochs": 30})
    state = new_line(recipe)
    saves = run(state, recipe)
    assert state.rows[-1]["val_error"] < 0.01
    assert [row["epoch"] for row in state.rows] == list(range(1, 31))
    assert {"train_loss", "train_absolute_error", "lr", "images_per_s", "seconds"} <= state.rows[0].keys()
    assert "score" not in state.rows[0]
    assert [epoch for epoch, _ in saves] == list(range(1, 31))


def test_the_mean_over_an_epoch_weighs_every_example_the_same_though_the_last_batch_is_short() -> None:
    still = change(SMALL, {"epochs": 1, "lr": 0.0})
    state = new_line(still)
    whole = squared_error(state.model, torch.arange(64)).mean.item()
    run(state, still, batches=lambda _: iter(torch.arange(64).split(24)), steps_per_epoch=3)
    assert state.rows[0]["train_loss"] == pytest.approx(whole, rel=1e-6)


def test_the_best_epoch_is_kept_the_later_of_equals_or_the_last_where_the_recipe_says_so() -> None:
    scores = iter([0.1, 0.5, 0.3, 0.5])
    saves = run(new_line(), validate=lambda _: {"score": next(scores)})
    assert saves == [(1, True), (2, True), (3, False), (4, True)]  # of equals the later
    last = dataclasses.replace(SMALL, select="last")
    scores = iter([0.1, 0.5, 0.3, 0.2])
    assert all(best for _, best in run(new_line(last), last, validate=lambda _: {"score": next(scores)}))


def test_a_run_stopped_after_an_epoch_goes_on_bit_for_bit_dropout_too() -> None:
    whole = new_line(dropout=0.3)
    run(whole)
    kept: dict[str, Any] = {}

    def keep(state: State, _: bool) -> None:
        if state.epoch == 2:
            kept["tensors"] = copy.deepcopy(training.to_tensors(state))
            kept["progress"] = {"epoch": 2, "best_score": state.best_score, "rows": list(state.rows)}

    run(new_line(dropout=0.3), save=keep)
    resumed = new_line(dropout=0.3)
    training.from_tensors(resumed, kept["tensors"], kept["progress"])
    torch.manual_seed(123)  # whatever happened in between
    run(resumed)
    for name, value in training.to_tensors(whole).items():
        assert torch.equal(value, training.to_tensors(resumed)[name]), name
    assert [row["val_error"] for row in whole.rows] == [row["val_error"] for row in resumed.rows]


def test_a_loss_that_is_not_a_number_stops_with_step_lr_and_advice_and_nothing_is_saved_after() -> None:
    calls = 0

    def breaks(model: nn.Module, batch: Tensor) -> StepLoss:
        nonlocal calls
        calls += 1
        result = squared_error(model, batch)
        return StepLoss(result.mean * float("nan"), result.num_examples) if calls == 7 else result

    state = new_line()
    with pytest.raises(Diverged, match=r"loss is nan at step 7 \(epoch 2\), lr 0\.0.*lower --lr"):
        run(state, loss=breaks)
    assert state.epoch == 1
    assert all(value.isfinite().all() for value in training.to_tensors(state).values())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_after_the_step_with_its_own_exit_code(number: int, code: int) -> None:
    def interrupted(epoch: int) -> Iterator[Tensor]:
        for i, batch in enumerate(line_batches(epoch)):
            if (epoch, i) == (2, 1):
                os.kill(os.getpid(), number)
            yield batch

    state = new_line()
    with pytest.raises(Interrupted, match="stopped in epoch 2;") as caught:
        run(state, batches=interrupted)
    assert caught.value.exit_code == code
    assert state.epoch == 1


def test_weight_decay_spares_bn_and_biases_or_not_as_the_recipe_has_it() -> None:
    model = WideResNetClassifier(10, 10, 1)
    groups = make_optimizer(model, RECIPES["fast"]).param_groups
    assert [group["weight_decay"] for group in groups] == [5e-4, 0.0]
    assert all(p.dim() > 1 for p in groups[0]["params"])
    assert all(p.dim() == 1 for p in groups[1]["params"])
    everything = make_optimizer(model, RECIPES["paper"]).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in everything] == [(len(list(model.parameters())), 5e-4)]


def test_an_update_is_nesterov_s_with_l2_as_the_paper_s_framework_defines_it() -> None:
    recipe = change(RECIPES["paper"], {"lr": 0.1, "epochs": 1, "momentum": 0.9, "weight_decay": 0.01})
    parameter = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    optimizer = make_optimizer(nn.ParameterList([parameter]), recipe)
    expected, velocity = parameter.detach().clone(), torch.zeros(1, 2)
    for gradient in (torch.tensor([[0.5, 1.0]]), torch.tensor([[-1.0, 0.2]])):
        parameter.grad = gradient.clone()
        optimizer.step()
        g = gradient + 0.01 * expected  # Sutskever et al. 2013 as torch's SGD writes it
        velocity = 0.9 * velocity + g
        expected = expected - 0.1 * (g + 0.9 * velocity)
    torch.testing.assert_close(parameter.detach(), expected)


def test_the_average_follows_its_definition_and_copies_the_buffers() -> None:
    model, average = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    expected = average.weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            model.weight.copy_(torch.tensor([float(step), -1.0]))
        model.running_mean = torch.tensor([7.0 * step, 1.0])
        update_average(average, model, 0.3, step)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(average.weight.detach(), expected)
    assert torch.equal(average.running_mean, model.running_mean)  # type: ignore[arg-type]
