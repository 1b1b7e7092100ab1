"""The loop: it knows no task, stops whole, and goes on bit for bit."""

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from wideresnet import classification, runtime, training
from wideresnet.classification import Batch
from wideresnet.errors import Diverged, Interrupted
from wideresnet.model import WideResNetClassifier
from wideresnet.recipes import RECIPES, Recipe, change, lr_at
from wideresnet.training import State, StepLoss, fit, make_optimizer, start, update_average

SMALL = change(RECIPES["fast"], {"epochs": 4, "batch_size": 16, "lr": 0.05})
X = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
Y = X @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.3


def line_batches(epoch: int, first: int = 0) -> Iterator[Tensor]:
    """Batches of a regression: row numbers, which only this task's loss understands."""
    yield from torch.randperm(64, generator=torch.Generator().manual_seed(epoch)).split(16)[first:]


def squared_error(model: nn.Module, batch: Tensor) -> StepLoss:
    difference = model(X[batch]) - Y[batch]
    return StepLoss(difference.square().mean(), len(batch), {"absolute_error": difference.detach().abs().sum()})


def score(model: nn.Module) -> Mapping[str, float]:
    model.eval()
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
    run(state, still, batches=lambda *_: iter(torch.arange(64).split(24)), steps_per_epoch=3)
    assert state.rows[0]["train_loss"] == pytest.approx(whole, rel=1e-6)


def test_the_best_epoch_is_kept_the_later_of_equals_or_the_last_where_the_recipe_says_so() -> None:
    scores = iter([0.1, 0.5, 0.3, 0.5])
    saves = run(new_line(), validate=lambda _: {"score": next(scores)})
    assert saves == [(1, True), (2, True), (3, False), (4, True)]  # of equals the later
    last = dataclasses.replace(SMALL, select="last")
    scores = iter([0.1, 0.5, 0.3, 0.2])
    assert all(best for _, best in run(new_line(last), last, validate=lambda _: {"score": next(scores)}))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema_decay": 0.9},
        {"precision": "fp16", "accumulate": 3, "clip_norm": 0.5, "swa_epochs": 3},
        {"precision": "bf16", "accumulate": 2, "sam_rho": 0.1, "early_stopping": 3},
        {"schedule": "steps", "milestones": (2, 3), "forget_momentum": True},
    ],
    ids=lambda changes: " ".join(changes) or "plain",
)
@pytest.mark.parametrize(
    ("step", "where"),
    [(10, "after step 2 of 4 of epoch 3"), (12, "after step 4 of 4 of epoch 3"), (None, "after epoch 2")],
)
def test_a_stopped_run_goes_on_at_that_very_step_bit_for_bit_dropout_too(
    changes: dict[str, Any], step: int | None, where: str
) -> None:
    recipe = change(SMALL, {"warmup_epochs": 1.0, **changes})
    whole = new_line(recipe, dropout=0.3)
    run(whole, recipe)
    kept: dict[str, Any] = {}

    def stop(_what: str, done: int, *_: object) -> None:
        if done == step:
            signal.raise_signal(signal.SIGINT)

    def keep(state: State, is_best: bool) -> None:
        assert not (state.begun.steps and is_best), "no epoch that ended"
        kept["tensors"] = copy.deepcopy(training.to_tensors(state))
        kept["progress"] = json.loads(json.dumps(training.to_progress(state)))
        if step is None and state.epoch == 2:
            signal.raise_signal(signal.SIGINT)
            del kept["progress"]["begun"]  # as earlier versions wrote it, after whole epochs alone

    with pytest.raises(Interrupted, match=f"^stopped {where}$"):
        run(new_line(recipe, dropout=0.3), recipe, save=keep, watch=runtime.Watch(progress=stop))
    resumed = new_line(recipe, dropout=0.3)
    training.from_tensors(resumed, kept["tensors"], kept["progress"])
    assert resumed.where(4) == where
    torch.manual_seed(123)  # whatever happened in between
    run(resumed, recipe)
    assert training.to_tensors(whole).keys() == training.to_tensors(resumed).keys()
    for name, value in training.to_tensors(whole).items():
        assert torch.equal(value, training.to_tensors(resumed)[name]), name
    for row in (*whole.rows, *resumed.rows):
        del row["seconds"], row["images_per_s"]
    assert whole.rows == resumed.rows


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
    def interrupted(epoch: int, first: int) -> Iterator[Tensor]:
        for i, batch in enumerate(line_batches(epoch, first)):
            if (epoch, i) == (2, 1):
                os.kill(os.getpid(), number)
            yield batch

    state = new_line()
    with pytest.raises(Interrupted, match=r"stopped after step 2 of 4 of epoch 2$") as caught:
        run(state, batches=interrupted)
    assert caught.value.exit_code == code
    assert (state.epoch, state.begun.steps, state.begun.num_examples) == (1, 2, 32)


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


@pytest.mark.parametrize("forget", [True, False])
def test_from_a_milestone_on_a_recipe_that_forgets_momentum_trains_as_an_optimiser_made_there(forget: bool) -> None:
    recipe = change(SMALL, {"schedule": "steps", "milestones": (3,), "forget_momentum": forget})
    state, before = new_line(recipe), dict[str, Tensor]()

    def keep(state: State, _: bool) -> None:
        if state.epoch == 2:
            before.update({name: value.detach().clone() for name, value in state.model.state_dict().items()})

    run(state, recipe, save=keep)
    anew = new_line(recipe)
    anew.model.load_state_dict(before)
    anew.epoch = 2
    run(anew, dataclasses.replace(recipe, forget_momentum=False))
    same = all(torch.equal(a, b) for a, b in zip(state.model.parameters(), anew.model.parameters(), strict=True))
    assert same is forget


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


PLAIN = change(RECIPES["paper"], {"epochs": 1, "lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0})


def step(state: State, recipe: Recipe, batch: Any, loss: Any = squared_error) -> StepLoss:
    return training.update(state, state.model, batch, loss, recipe, lr=recipe.lr, seed=0)


@given(length=st.integers(1, 40), num=st.integers(1, 9))
def test_the_parts_of_a_batch_are_all_of_it_in_order_and_of_almost_equal_length(length: int, num: int) -> None:
    parts = list(training.in_parts(torch.arange(length), num))
    assert torch.equal(torch.cat([part for _, part in parts]), torch.arange(length))
    assert sum(share for share, _ in parts) == pytest.approx(1)
    lengths = [len(part) for _, part in parts]
    assert len(parts) == min(num, length)
    assert max(lengths) - min(lengths) <= 1
    assert all(share == size / length for (share, _), size in zip(parts, lengths, strict=True))


@given(length=st.integers(1, 64), num=st.integers(2, 7))
def test_the_gradient_of_a_batch_in_parts_is_that_of_the_whole(length: int, num: int) -> None:
    found = []
    for accumulate in (1, num):
        recipe = change(PLAIN, {"batch_size": 64, "accumulate": accumulate})
        state = start(nn.Linear(3, 1).double(), recipe)
        with torch.no_grad():
            for parameter in state.model.parameters():
                parameter.fill_(0.25)
        batch = torch.randperm(64, generator=torch.Generator().manual_seed(length))[:length]

        def exact(model: nn.Module, rows: Tensor) -> StepLoss:
            difference = model(X[rows].double()) - Y[rows].double()
            return StepLoss(difference.square().mean(), len(rows), {"absolute_error": difference.detach().abs().sum()})

        result = training.gradients(state.model, batch, exact, recipe, state.scaler)
        gradients = torch.cat([p.grad.flatten() for p in state.model.parameters() if p.grad is not None])
        found.append((gradients, result.mean, result.sums["absolute_error"], result.num_examples))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("limit", [0.0, 0.5, 1e6])
def test_a_gradient_longer_than_clip_norm_is_scaled_down_to_it_over_all_parameters(limit: float) -> None:
    recipe = change(PLAIN, {"clip_norm": limit})
    state = start(nn.Linear(3, 1), recipe)
    before = copy.deepcopy(state.model)
    squared_error(before, torch.arange(16)).mean.backward()
    slope = torch.cat([p.grad.flatten() for p in before.parameters() if p.grad is not None])
    assert slope.norm() > 0.5, "this test needs a steep start"
    step(state, recipe, torch.arange(16))
    moved = torch.cat(
        [(new - old).flatten() for new, old in zip(state.model.parameters(), before.parameters(), strict=True)]
    )
    expected = slope if not 0 < limit < slope.norm() else slope * limit / slope.norm()
    torch.testing.assert_close(moved.detach(), -0.1 * expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_sam_goes_down_the_slope_at_the_worst_weights_near_by(accumulate: int) -> None:
    recipe = change(PLAIN, {"sam_rho": 0.3, "accumulate": accumulate})
    line = nn.Linear(3, 1, bias=False)
    state = start(line, recipe)
    x, y = X.double(), Y.double()
    w = line.weight.detach().double().clone()
    for _ in range(5):
        step(state, recipe, torch.arange(64))
        slope = 2 * (x @ w.T - y).T @ x / 64  # Foret et al. 2021, algorithm 1, on least squares
        worst = w + 0.3 * slope / slope.norm()
        w = w - 0.1 * 2 * (x @ worst.T - y).T @ x / 64
    torch.testing.assert_close(line.weight.detach().double(), w, rtol=1e-5, atol=1e-6)


def test_sam_counts_a_batch_once_in_bn_and_drops_the_same_values_in_both_passes() -> None:
    found, seen = [], list[Tensor]()
    for rho in (0.0, 0.5):
        recipe = change(PLAIN, {"sam_rho": rho})
        torch.manual_seed(0)
        dropout = nn.Dropout(0.5)
        state = start(nn.Sequential(nn.BatchNorm1d(3), dropout, nn.Linear(3, 1)), recipe)
        dropout.register_forward_hook(lambda _, __, out: seen.append(out == 0))
        step(state, recipe, torch.arange(16))
        found.append(dict(state.model.named_buffers()))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert len(seen) == 3
    assert torch.equal(seen[1], seen[2])


def test_swa_is_the_mean_of_the_last_epochs_at_one_lr_with_statistics_of_its_own() -> None:
    recipe = change(SMALL, {"epochs": 5, "swa_epochs": 3, "warmup_epochs": 1.0})
    torch.manual_seed(0)
    state = start(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)), recipe)
    weights, judged = list[dict[str, Tensor]](), list[nn.Module]()

    def keep(state: State, _: bool) -> None:
        weights.append({name: value.detach().clone() for name, value in state.model.named_parameters()})
        judged.append(copy.deepcopy(state.judged))

    run(state, recipe, save=keep)
    assert len({row["lr"] for row in state.rows[2:]}) == 1
    assert state.rows[2]["lr"] == lr_at(recipe, 8, 4) > 0
    assert [module.training for module in judged[2:]] == [False] * 3
    for n in (1, 2, 3):
        for name, value in judged[1 + n].named_parameters():
            expected = torch.stack([weights[1 + i][name] for i in range(1, n + 1)]).mean(0)
            torch.testing.assert_close(value, expected)
    batches = list(line_batches(5))
    bn = judged[-1][0]  # type: ignore[index]
    torch.testing.assert_close(bn.running_mean, torch.stack([X[b].mean(0) for b in batches]).mean(0))
    torch.testing.assert_close(bn.running_var, torch.stack([X[b].var(0) for b in batches]).mean(0))
    assert bn.momentum == 0.1


def test_training_ends_after_so_many_epochs_without_a_better_score_and_stays_ended() -> None:
    recipe = change(SMALL, {"epochs": 9, "early_stopping": 2})
    scores = iter([0.1, 0.5, 0.5, 0.4, 0.9, 0.9])
    state, said = new_line(recipe), list[str]()
    saves = run(state, recipe, validate=lambda _: {"score": next(scores)}, watch=runtime.Watch(line=said.append))
    assert saves == [(1, True), (2, True), (3, True), (4, False)]
    assert said == ["ended after epoch 4: no better score since epoch 2"]
    resumed = new_line(recipe)
    training.from_tensors(resumed, training.to_tensors(state), json.loads(json.dumps(training.to_progress(state))))
    assert run(resumed, recipe) == []


@pytest.mark.parametrize(("precision", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_that_of_the_multiplications_and_the_weights_stay_float32(
    precision: str, kind: torch.dtype
) -> None:
    recipe = change(PLAIN, {"precision": precision})
    state, kinds = start(nn.Linear(3, 1), recipe), list[torch.dtype]()
    state.model.register_forward_hook(lambda _, __, out: kinds.append(out.dtype))
    exact = start(copy.deepcopy(state.model), PLAIN)
    step(state, recipe, torch.arange(64))
    step(exact, PLAIN, torch.arange(64))
    assert kinds[0] == kind
    assert all(p.dtype == torch.float32 for p in state.model.parameters())
    bound = 0 if precision == "fp32" else 2e-2  # bfloat16 has 8 bits
    torch.testing.assert_close(state.model.weight, exact.model.weight, rtol=bound, atol=bound)


def test_fp16_leaves_out_a_step_whose_scaled_gradient_overflows_and_scales_less_the_next_time() -> None:
    recipe = change(PLAIN, {"precision": "fp16", "lr": 1e-3})
    state = start(nn.Linear(3, 1), recipe)
    before = copy.deepcopy(state.model.state_dict())

    def steep(model: nn.Module, batch: Tensor) -> StepLoss:  # in fp16 the scaled gradient of its output overflows
        return StepLoss((model(X[batch]) * 4).sum(), len(batch))

    scale = state.scaler.get_scale()
    assert step(state, recipe, torch.arange(64), steep).mean.isfinite()
    assert all(torch.equal(before[name], value) for name, value in state.model.state_dict().items())
    assert state.scaler.get_scale() == scale / 2
    for _ in range(20):
        step(state, recipe, torch.arange(64), steep)
    assert not torch.equal(before["weight"], state.model.state_dict()["weight"])


def test_a_compiled_network_learns_the_same_and_its_keys_stay() -> None:
    recipe = change(SMALL, {"epochs": 1, "compile": True})
    state, plain = new_line(recipe), new_line()
    run(state, recipe)
    run(plain, change(SMALL, {"epochs": 1}))
    assert training.to_tensors(state).keys() == training.to_tensors(plain).keys()
    assert state.rows[0]["train_loss"] == pytest.approx(plain.rows[0]["train_loss"], rel=1e-4)
    assert "OptimizedModule" in type(training.compiled(state.model, recipe)).__name__
    assert training.compiled(state.model, SMALL) is state.model


def test_without_a_compiler_compiling_is_refused_in_one_line(tmp_path: Path) -> None:
    words = ["train", "digits", "--compile", "--arch", "wrn_10_1", "--epochs", "1", "--device", "cpu"]
    environment = {**os.environ, "CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "wideresnet", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "wrn: --compile: torch.compile does not work here (" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def pictures_batches(_epoch: int, first: int) -> Iterator[Batch]:
    images = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    batches = [Batch(images[i : i + 16], torch.arange(i, i + 16) % 2) for i in range(0, 48, 16)]
    return iter(batches[first:])


@pytest.mark.parametrize("sam_rho", [0.0, 0.05])
def test_a_step_without_the_memory_for_it_is_as_that_of_a_training_begun_in_so_many_parts(sam_rho: float) -> None:
    recipe = change(RECIPES["fast"], {"epochs": 2, "batch_size": 16, "lr": 0.1, "sam_rho": sam_rho})
    plain = classification.loss(recipe)

    def greedy(model: nn.Module, batch: Batch) -> StepLoss:
        """Has room for the answers to four pictures, and finds out once BN has seen them all."""
        result = plain(model, batch)
        if len(batch) > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return result

    def trained(loss: training.Loss, accumulate: int, lines: list[str]) -> State:
        torch.manual_seed(3)
        made = change(recipe, {"accumulate": accumulate})
        state = training.start(WideResNetClassifier(2, 10, 1, dropout_p=0.2), made)
        watch = runtime.Watch(line=lines.append)
        run(state, made, batches=pictures_batches, loss=loss, steps_per_epoch=3, validate=lambda _: {}, watch=watch)
        return state

    lines = list[str]()
    found, expected = trained(greedy, 1, lines), trained(plain, 4, [])
    assert [line for line in lines if "out of memory at step 1; from it on each batch of 16" in line], lines
    assert found.parts == expected.parts == 4
    for name, value in training.to_tensors(expected).items():
        assert torch.equal(value, training.to_tensors(found)[name]), name
    with pytest.raises(torch.cuda.OutOfMemoryError):  # two pictures are the fewest
        trained(lambda *_: _no_memory(), 1, [])


def _no_memory() -> StepLoss:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory.")


def test_a_signal_while_an_epoch_is_judged_stops_at_once_and_goes_on_by_judging_it_again() -> None:
    whole, kept, judged = new_line(), dict[str, Any](), list[int]()
    run(whole, SMALL)

    def interrupted(model: nn.Module) -> dict[str, float]:
        signal.raise_signal(signal.SIGTERM)
        judged.append(1)
        return dict(score(model))

    def keep(state: State, is_best: bool) -> None:
        assert not is_best
        kept["tensors"] = copy.deepcopy(training.to_tensors(state))
        kept["progress"] = json.loads(json.dumps(training.to_progress(state)))

    with pytest.raises(Interrupted, match=r"stopped after step 4 of 4 of epoch 1$") as caught:
        run(new_line(), SMALL, validate=interrupted, save=keep)
    assert caught.value.exit_code == 143
    assert not judged, "it was not judged to the end"
    resumed = new_line()
    training.from_tensors(resumed, kept["tensors"], kept["progress"])
    run(resumed, SMALL)
    for name, value in training.to_tensors(whole).items():
        assert torch.equal(value, training.to_tensors(resumed)[name]), name
    assert [row["train_loss"] for row in whole.rows] == [row["train_loss"] for row in resumed.rows]


def test_an_average_that_is_judged_is_judged_to_the_end_for_it_would_count_twice() -> None:
    averaged, judged = change(SMALL, {"swa_epochs": 2}), list[int]()

    def interrupted(model: nn.Module) -> dict[str, float]:
        judged.append(1)
        if len(judged) == SMALL.epochs:
            signal.raise_signal(signal.SIGINT)
            judged.append(1)
        return dict(score(model))

    with pytest.raises(Interrupted, match=rf"stopped after epoch {SMALL.epochs}$"):
        run(new_line(averaged), averaged, validate=interrupted)
    assert len(judged) == SMALL.epochs + 1


def test_who_asks_a_training_to_stop_as_it_diverges_is_not_set_back_instead() -> None:
    def breaks(model: nn.Module, batch: Tensor) -> StepLoss:
        signal.raise_signal(signal.SIGINT)
        result = squared_error(model, batch)
        return StepLoss(result.mean * float("inf"), result.num_examples)

    for on_nan, error in {"rollback": Interrupted, "stop": Diverged}.items():
        with pytest.raises(error, match="loss is inf at step 1"):
            run(new_line(), change(SMALL, {"on_nan": on_nan}), loss=breaks)
