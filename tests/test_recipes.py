"""Recipes are values with sources; the schedule is the published one; the defaults are a table."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from wideresnet import recipes
from wideresnet.errors import UsageError
from wideresnet.recipes import (
    FIXED,
    RECIPES,
    Defaults,
    Recipe,
    RecipeChanges,
    change,
    defaults,
    flips_are_safe,
    lr_at,
    momentum_begins_anew,
)

PAPER, FAST = RECIPES["paper"], RECIPES["fast"]


OFF = {  # what came after the paper
    "times_default": 0.0,
    "early_stopping": 0,
    "swa_epochs": 0,
    "sam_rho": 0.0,
    "clip_norm": 0.0,
    "accumulate": 1,
    "precision": "fp32",
    "compile": False,
    "class_weights": False,
    "balanced": False,
    "sync_bn": False,
    "zoom": 1.0,
    "policy": "none",
    "jitter": (),
    "cutout": 0,
    "erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "layer_decay": 1.0,
    "on_nan": "stop",
}


def test_the_paper_s_recipe_is_the_paper_s() -> None:
    assert dataclasses.asdict(PAPER) == OFF | {
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
        "forget_momentum": True,  # train.lua, onStartEpoch: state.optim is made anew where the learning rate falls
        "label_smoothing": 0.0,
        "ema_decay": 0.0,
        "dropout_p": 0.0,
        "flip": True,
        "flip_by": "chance",  # train.lua, hflip: torch.random(0, 1) for each picture, each time
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


def test_the_paper_s_momentum_begins_anew_where_its_learning_rate_falls_and_no_other_s_does() -> None:
    for recipe in (*RECIPES.values(), change(PAPER, {"epochs": 20}), change(PAPER, {"forget_momentum": False})):
        falls = [e for e in range(2, 201) if lr_at(recipe, e - 1, 1) < lr_at(recipe, e - 2, 1)]
        forgets = recipe.name == "paper" and recipe.forget_momentum
        assert [e for e in range(1, 201) if momentum_begins_anew(recipe, e)] == (falls if forgets else [])
    assert not any(momentum_begins_anew(change(PAPER, {"schedule": "cosine"}), e) for e in range(1, 201))


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
        ("epochs", 10**60),  # no float, and no training, comes to its end
        ("momentum", 1.0),
        ("label_smoothing", 1.0),
        ("ema_decay", 1.0),
        ("dropout_p", 1.0),
        ("crop_padding", -1),
        ("zoom", 0.0),
        ("zoom", 1.5),
        ("cutout", -2),
        ("erasing", 1.01),
        ("mixup", -0.2),
        ("cutmix", math.inf),
        ("weight_decay", -1.0),
    ],
)
def test_an_impossible_value_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"{field}={value}: expected a value in \["):
        change(FAST, {field: value})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"policy": "trivail"}, r"policy='trivail'; did you mean 'trivial'\?"),
        ({"schedule": "cosin"}, r"schedule='cosin'; did you mean 'cosine'\?"),
        ({"flip_by": "change"}, r"flip_by='change'; did you mean 'chance'\?"),
        ({"jitter": (0.4, 0.4)}, r"jitter=\(0.4, 0.4\): expected four strengths from 0"),
        ({"jitter": (0.4, 0.4, 0.4, math.nan)}, "expected four strengths from 0"),
        ({"jitter": (0.4, 0.4, 0.4, 0.6)}, "at most half a turn"),
        ({"zoom": 0.5}, r"zoom=0.5 and crop_padding=4 both move pictures; give one"),
    ],
)
def test_augmentation_that_cannot_be_is_refused_with_what_was_expected(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        change(FAST, changes)


def test_what_a_user_may_change_is_every_field_but_those_that_are_the_row_s() -> None:
    assert set(RecipeChanges.__annotations__) == {f.name for f in dataclasses.fields(Recipe)} - set(FIXED)
    with pytest.raises(UsageError, match="no field 'times_default'"):
        change(FAST, {"times_default": 2.0})


def test_strong_is_fast_for_longer_with_trivialaugment_cutmix_and_an_average_of_the_weights() -> None:
    strong, fast = (dataclasses.asdict(RECIPES[name]) for name in ("strong", "fast"))
    assert {field: value for field, value in strong.items() if value != fast[field]} == {
        "name": "strong",
        "times_default": 3.0,
        "epochs": 3 * FAST.epochs,
        "warmup_epochs": 3 * FAST.warmup_epochs,
        "ema_decay": 0.999,
        "policy": "trivial",
        "cutmix": 1.0,  # Yun et al. 2019, section 4.1: α = 1
    }


def test_finetune_is_fast_with_a_tenth_of_its_lr_in_a_third_of_its_epochs() -> None:
    tuned = RECIPES["finetune"]
    shared = {"name", "times_default", "epochs", "lr", "warmup_epochs"}
    same = {f.name for f in dataclasses.fields(Recipe)} - shared
    assert all(getattr(tuned, name) == getattr(FAST, name) for name in same)
    assert tuned.lr == pytest.approx(FAST.lr / 10)
    assert tuned.times_default == pytest.approx(FAST.times_default / 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"early_stopping": 3, "select": "last"}, "early_stopping goes by val"),
        ({"early_stopping": 3, "swa_epochs": 2}, "early_stopping may end before"),
        ({"ema_decay": 0.9, "swa_epochs": 2}, "both average the weights"),
        ({"epochs": 10, "swa_epochs": 9}, r"swa_epochs=9 of 10 epochs begin before the warm-up \(2 epochs\)"),
        ({"epochs": 10, "swa_epochs": 10}, r"swa_epochs=10: expected a value in \[0, 9\]"),
        ({"sam_rho": 0.05, "precision": "fp16"}, "set --precision bf16 or fp32"),
        ({"class_weights": True, "balanced": True}, "would do so twice"),
        ({"batch_size": 16, "accumulate": 17}, r"accumulate=17: expected a value in \[1, 16\]"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"clip_norm": -1.0}, "clip_norm=-1"),
        ({"sam_rho": math.nan}, "sam_rho=nan"),
        ({"early_stopping": -1}, "early_stopping=-1"),
        ({"precision": "fp8"}, "precision='fp8'"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        change(FAST, changes)


@given(epochs=st.integers(2, 12), steps=st.integers(1, 9), data=st.data())
def test_swa_keeps_the_lr_that_the_schedule_has_when_it_begins(epochs: int, steps: int, data: st.DataObject) -> None:
    plain = change(FAST, {"epochs": epochs, "warmup_epochs": 0.0})
    recipe = dataclasses.replace(plain, swa_epochs=data.draw(st.integers(1, epochs - 1)))
    begin = (epochs - recipe.swa_epochs) * steps
    for step in range(epochs * steps):
        assert lr_at(recipe, step, steps) == lr_at(plain, min(step, begin), steps) > 0


@pytest.mark.parametrize(
    ("pictures", "side", "device", "expected"),
    [  # the corners of the table: data of the README, and its limits
        (1_437, 8, "cpu", Defaults("wrn_16_2", 8, 60, 64, 5e-4)),
        (50_000, 32, "cpu", Defaults("wrn_16_2", 32, 10, 128, 5e-4)),
        (2_000, 32, "cpu", Defaults("wrn_16_2", 32, 60, 64, 2e-3)),
        (3_454, 128, "cpu", Defaults("wrn_16_1", 64, 60, 64, 2e-3)),
        (80, 375, "cpu", Defaults("wrn_16_1", 64, 60, 16, 2e-3)),
        (1_000_000, 500, "cpu", Defaults("wrn_16_1", 64, 10, 128, 5e-4)),
        (50_000, 32, "cuda", Defaults("wrn_28_10", 32, 30, 128, 5e-4)),
        (1, 1, "cpu", Defaults("wrn_16_2", 1, 60, 16, 5e-4)),
        (0, 0, "cpu", Defaults("wrn_16_2", 1, 60, 16, 5e-4)),
    ],
)
def test_the_table_of_defaults_at_its_corners(pictures: int, side: int, device: str, expected: Defaults) -> None:
    assert defaults(pictures, side, device) == expected


@pytest.mark.parametrize(
    ("size", "epochs", "padding"),
    [(32, 10, 2), (32, 15, 2), (32, 16, 4), (64, 60, 8), (8, 60, 1), (8, 10, 0), (1, 1, 0)],
)
def test_a_short_training_shifts_its_pictures_half_as_far(size: int, epochs: int, padding: int) -> None:
    assert recipes.crop_padding(size, epochs) == padding


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
