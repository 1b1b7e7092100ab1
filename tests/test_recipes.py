"""Recipes are values with sources; the schedule is the published one; the defaults are a table."""

import dataclasses
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from wideresnet import recipes
from wideresnet.errors import UsageError
from wideresnet.recipes import RECIPES, Defaults, Recipe, RecipeChanges, change, defaults, flips_are_safe, lr_at

PAPER, FAST = RECIPES["paper"], RECIPES["fast"]


def test_the_paper_s_recipe_is_the_paper_s() -> None:
    assert dataclasses.asdict(PAPER) == {
        "name": "paper",
        "epochs": 200,
        "batch_size": 128,
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "decay_norm_and_bias": True,
        "schedule": "steps",
        "warmup_epochs": 0.0,
        "milestones": (60, 120, 160),
        "gamma": 0.2,
        "label_smoothing": 0.0,
        "ema_decay": 0.0,
        "dropout_p": 0.0,
        "flip": True,
        "crop_padding": 4,
        "drop_last": True,
        "select": "last",
    }


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [(1, 0.1), (59, 0.1), (60, 0.02), (119, 0.02), (120, 0.004), (159, 0.004), (160, 0.0008), (200, 0.0008)],
)
def test_the_paper_s_steps_come_at_the_start_of_epochs_60_120_160(epoch: int, lr: float) -> None:
    for step in ((epoch - 1) * 390, epoch * 390 - 1):
        assert lr_at(PAPER, step, 390) == pytest.approx(lr, rel=1e-12)


@given(epochs=st.integers(2, 12), steps=st.integers(1, 9), warmup=st.floats(0.3, 1.9))
def test_cosine_rises_to_lr_and_falls_to_almost_nothing(epochs: int, steps: int, warmup: float) -> None:
    recipe = change(FAST, {"epochs": epochs, "warmup_epochs": warmup})
    lrs = [lr_at(recipe, step, steps) for step in range(epochs * steps)]
    peak = lrs.index(max(lrs))
    assert max(lrs) <= recipe.lr
    assert lrs[: peak + 1] == sorted(lrs[: peak + 1])
    assert lrs[peak:] == sorted(lrs[peak:], reverse=True)
    assert all(lr > 0 for lr in lrs)
    assert peak <= warmup * steps + 1
    for step in range(math.ceil(warmup * steps), epochs * steps):  # Loshchilov & Hutter 2017, eq. 5
        share = (step - warmup * steps) / (epochs * steps - warmup * steps)
        assert lrs[step] == pytest.approx(recipe.lr / 2 * (1 + math.cos(math.pi * share)), abs=1e-12)


@given(epochs=st.integers(2, 9), steps=st.integers(2, 11), share=st.floats(0.1, 0.9))
def test_one_cycle_equals_torch_s(epochs: int, steps: int, share: float) -> None:
    assume(share * epochs * steps > 1)  # torch divides by zero where the rising part is one step or none
    recipe = change(FAST, {"epochs": epochs, "schedule": "one-cycle", "warmup_epochs": share * epochs, "lr": 0.3})
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.3, total_steps=epochs * steps, pct_start=share, cycle_momentum=False
    )
    for step in range(epochs * steps):
        assert lr_at(recipe, step, steps) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9, abs=1e-12)
        optimizer.step()
        if step < epochs * steps - 1:
            theirs.step()


def test_fewer_epochs_keep_the_schedule_whole() -> None:
    assert change(PAPER, {"epochs": 20}).milestones == (7, 13, 17)
    assert change(PAPER, {"epochs": 20, "milestones": (5,)}).milestones == (5,)
    for epochs in range(1, 30):  # however few: it begins with the whole learning rate
        assert lr_at(change(PAPER, {"epochs": epochs}), 0, 5) == 0.1
    assert change(FAST, {"epochs": 60}).warmup_epochs == pytest.approx(12)


def test_an_unknown_field_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"no field 'learning_decay'"):
        change(FAST, {"learning_decay": 1})
    with pytest.raises(UsageError, match=r"'weightdecay'; did you mean 'weight_decay'\?"):
        change(FAST, {"weightdecay": 1})
    with pytest.raises(UsageError, match=r"--recipe papre; did you mean 'paper'\?"):
        recipes.find("papre")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("lr", -0.1),
        ("lr", math.nan),
        ("lr", math.inf),
        ("momentum", 1.0),
        ("label_smoothing", 1.0),
        ("ema_decay", 1.0),
        ("dropout_p", 1.0),
        ("crop_padding", -1),
        ("weight_decay", -1.0),
    ],
)
def test_an_impossible_value_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"{field}={value}: expected a value in \["):
        change(FAST, {field: value})


def test_what_a_user_may_change_is_every_field_but_the_name() -> None:
    assert set(RecipeChanges.__annotations__) == {f.name for f in dataclasses.fields(Recipe)} - {"name"}


@pytest.mark.parametrize(
    ("pictures", "side", "device", "expected"),
    [  # the corners of the table: data of the README, and its limits
        (1_437, 8, "cpu", Defaults("wrn_16_2", 8, 60, 64)),
        (50_000, 32, "cpu", Defaults("wrn_16_2", 32, 10, 128)),
        (2_000, 32, "cpu", Defaults("wrn_16_2", 32, 60, 64)),
        (3_454, 128, "cpu", Defaults("wrn_16_1", 64, 60, 64)),
        (80, 375, "cpu", Defaults("wrn_16_1", 64, 60, 16)),
        (1_000_000, 500, "cpu", Defaults("wrn_16_1", 64, 10, 128)),
        (50_000, 32, "cuda", Defaults("wrn_28_10", 32, 30, 128)),
        (1, 1, "cpu", Defaults("wrn_16_2", 1, 60, 16)),
        (0, 0, "cpu", Defaults("wrn_16_2", 1, 60, 16)),
    ],
)
def test_the_table_of_defaults_at_its_corners(pictures: int, side: int, device: str, expected: Defaults) -> None:
    assert defaults(pictures, side, device) == expected


@pytest.mark.parametrize(
    ("names", "safe"),
    [
        (["ants", "bees"], True),
        (["cat", "dog", "horse"], True),
        (["0", "1", "2"], False),
        (["A", "B"], False),
        (["left_hand", "right_hand"], False),
        (["turn-left", "straight"], False),
        (["one", "two"], False),
        (["sol", "düz"], False),
        (["sağ-el", "ayak"], False),
        (["daisy", "dandelion", "rose", "sunflower", "tulip"], True),
        (["leftover", "brightness"], True),
    ],
)
def test_pictures_are_mirrored_only_where_the_class_stays_the_same(names: list[str], safe: bool) -> None:
    assert flips_are_safe(names) is safe
