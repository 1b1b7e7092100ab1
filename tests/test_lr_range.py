"""The learning-rate range test: its curve, what it suggests, and that it leaves a picture and nothing else."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_jobs import QUICK
from test_training import PLAIN, X, Y, line_batches
from torch import nn

from wideresnet import jobs, lr_range
from wideresnet.errors import Diverged, UsageError
from wideresnet.recipes import Recipe, change
from wideresnet.training import StepLoss, start

OPTIONS = {"arch": "wrn_10_1", "watch": QUICK["watch"]}


NOISE = torch.randn(64, 1, generator=torch.Generator().manual_seed(2))


def noisy(model: nn.Module, rows: torch.Tensor) -> StepLoss:
    """Least squares that no line fits: the loss stays above 1 / 4."""
    return StepLoss((model(X[rows]) - Y[rows] - NOISE[rows]).square().mean(), len(rows))


def on_a_line(recipe: Recipe = PLAIN, seed: int = 0) -> lr_range.LrRange:
    torch.manual_seed(0)
    return lr_range.run(start(nn.Linear(3, 1), recipe), line_batches, noisy, recipe=recipe, seed=seed)


def test_rates_grow_by_one_factor_and_the_test_ends_where_the_loss_has_diverged() -> None:
    found = on_a_line()
    ratios = [b / a for a, b in zip(found.lrs, found.lrs[1:], strict=False)]
    assert ratios == pytest.approx([(lr_range.HIGHEST / lr_range.LOWEST) ** (1 / 199)] * len(ratios))
    assert found.lrs[0] == lr_range.LOWEST
    assert len(found.lrs) == len(found.losses) == len(found.smoothed) < lr_range.NUM_STEPS
    assert found.smoothed[-1] > 4 * min(found.smoothed)
    assert all(value <= 4 * min(found.smoothed[: i + 1]) for i, value in enumerate(found.smoothed[:-1]))


def test_what_is_suggested_is_a_tenth_of_the_best_and_below_where_gradient_descent_diverges() -> None:
    found = on_a_line()
    assert found.suggested == pytest.approx(found.lrs[found.smoothed.index(min(found.smoothed))] / 10, rel=0.05)
    hessian = 2 * torch.cat([X, torch.ones(64, 1)], 1).T @ torch.cat([X, torch.ones(64, 1)], 1) / 64
    highest = 2 / float(torch.linalg.eigvalsh(hessian)[-1])
    assert highest / 1000 < found.suggested < highest / 5, (found.suggested, highest)


def test_the_same_seed_gives_the_same_curve() -> None:
    assert on_a_line() == on_a_line()


@given(losses=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), decay=st.floats(0, 0.99))
def test_the_smoothed_loss_is_the_mean_with_weights_that_fade_by_one_factor(losses: list[float], decay: float) -> None:
    weights = [decay**age for age in reversed(range(len(losses)))]
    expected = sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
    assert lr_range.smooth(losses, decay)[-1] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_a_loss_that_is_never_finite_is_said() -> None:
    def never(model: nn.Module, batch: torch.Tensor) -> StepLoss:
        result = noisy(model, batch)
        return StepLoss(result.mean * float("nan"), result.num_examples)

    with pytest.raises(Diverged, match="not finite from the first step on"):
        lr_range.run(start(nn.Linear(3, 1), PLAIN), line_batches, never, recipe=PLAIN, seed=0)


def test_the_recipe_s_own_update_is_tried() -> None:
    assert on_a_line(change(PLAIN, {"clip_norm": 1e-3})).losses != on_a_line().losses


def test_finding_the_lr_of_digits_leaves_a_picture_a_command_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = jobs.find_lr("digits", **OPTIONS)
    assert 0.01 < found.lr < 0.5, found.lr  # 0.2 is the recipe's
    assert [path.name for path in Path("runs").iterdir()] == ["digits-lr.png"]
    with Image.open(found.plot) as picture:
        assert picture.format == "PNG"
        assert picture.width > 800
    assert found.command.startswith("wrn train digits --arch wrn_10_1 ")
    assert f" --lr {found.lr} " in found.command


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.1}, "leave --lr out"),
        ({"out": "run"}, r"expected a name ending in \.png"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        jobs.find_lr("digits", **OPTIONS, **changes)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
