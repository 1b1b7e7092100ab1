"""Search over recipes: repeatable, resumable at any instant, pruned, and right about what mattered."""

import math
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from wideresnet import tuning
from wideresnet.errors import Diverged, ModelFileError, UsageError
from wideresnet.recipes import RECIPES, Recipe, change
from wideresnet.tuning import Axis, Report, Study, Trial

AXES = (
    Axis("lr", 0.01, 1, log=True),
    Axis("weight_decay", 1e-5, 1e-3, log=True),
    Axis("crop_padding", 0, 4, whole=True),
)
OWN = {"lr": 0.3, "weight_decay": 1e-4, "crop_padding": 1}
Objective = Callable[[int, Mapping[str, float], Report], float]


def hill(_: int, values: Mapping[str, float], report: Report) -> float:
    """Highest at lr 0.1; crop_padding matters a little, weight_decay not at all. Three epochs."""
    score = 0.9 - 0.1 * math.log10(values["lr"] / 0.1) ** 2 - 0.005 * abs(values["crop_padding"] - 2)
    for epoch in (1, 2, 3):
        report(score * epoch / 3)
    return score


def run(file: Path, num_trials: int = 12, objective: Objective = hill, seed: int = 0) -> Study:
    return tuning.search(file, AXES, OWN, objective, seed=seed, num_trials=num_trials, epochs=3)


def told(study: Study) -> list[tuple[object, ...]]:
    """All of a study but its times."""
    return [(t.number, t.state, t.values, t.score, t.epochs) for t in study.trials]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Thirteen trials, never interrupted: ten at random, three proposed."""
    return run(tmp_path_factory.mktemp("whole") / "study.db", 13)


def test_the_first_trial_is_the_recipe_s_own_and_the_best_is_never_below_it(whole: Study) -> None:
    study = whole
    assert dict(study.trials[0].values) == OWN
    assert study.best.score is not None
    assert study.best.score >= (study.trials[0].score or 0)
    assert len(study.trials) == 13
    for trial in study.trials:
        for axis in AXES:
            assert axis.low <= trial.values[axis.field] <= axis.high
            assert not axis.whole or isinstance(trial.values[axis.field], int)


def test_a_search_repeats_from_its_seed_and_another_seed_searches_elsewhere(tmp_path: Path, whole: Study) -> None:
    again = run(tmp_path / "again.db", 13)
    assert told(again) == told(whole)
    assert again.importance == whole.importance
    other = run(tmp_path / "other.db", 2, seed=1)
    assert other.trials[0].values == whole.trials[0].values
    assert other.trials[1].values != whole.trials[1].values


@pytest.mark.parametrize("at", [1, 12])
def test_a_search_cut_short_in_any_trial_goes_on_as_if_it_had_not_been(tmp_path: Path, whole: Study, at: int) -> None:
    def stopped(number: int, values: Mapping[str, float], report: Report) -> float:
        if number == at:
            report(0.1)
            raise KeyboardInterrupt
        return hill(number, values, report)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut.db", at + 1, stopped)
    assert told(run(tmp_path / "cut.db", at + 1)) == told(whole)[: at + 1]


def test_a_search_that_was_killed_in_the_middle_of_a_trial_goes_on(tmp_path: Path, whole: Study) -> None:
    program = (
        "import os, signal, sys; sys.path.insert(0, 'tests')\n"
        "from pathlib import Path\n"
        "from test_tuning import hill, run\n"
        "def killed(number, values, report):\n"
        "    if number == 3:\n"
        "        report(0.1); os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return hill(number, values, report)\n"
        f"run(Path({str(tmp_path / 'cut.db')!r}), 4, killed)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == -signal.SIGKILL
    assert told(run(tmp_path / "cut.db", 4)) == told(whole)[:4]


def test_a_longer_search_begins_as_the_shorter_one_did(tmp_path: Path, whole: Study) -> None:
    assert told(run(tmp_path / "study.db", 3)) == told(whole)[:3]
    assert told(run(tmp_path / "study.db", 4)) == told(whole)[:4]
    assert told(run(tmp_path / "study.db", 2)) == told(whole)[:4], "what has ended is kept"


def test_what_mattered_is_found(tmp_path: Path) -> None:
    def unpruned(number: int, values: Mapping[str, float], _: Report) -> float:
        return hill(number, values, lambda _: None)

    study = run(tmp_path / "study.db", 20, unpruned)
    assert sum(study.importance.values()) == pytest.approx(1)
    assert max(study.importance, key=lambda name: study.importance[name]) == "lr", study.importance
    assert study.importance["weight_decay"] < study.importance["lr"] / 2, study.importance


def test_no_importance_is_claimed_from_few_trials_or_from_equal_ones(tmp_path: Path) -> None:
    assert run(tmp_path / "few.db", 3).importance == {}
    assert run(tmp_path / "same.db", 8, lambda *_: 0.5).importance == {}


def test_a_trial_below_the_middle_of_the_others_is_stopped_early_but_not_in_the_first_third(tmp_path: Path) -> None:
    def falling(number: int, _: Mapping[str, float], report: Report) -> float:
        for _epoch in range(3):
            report(1 / number)
        return 1 / number

    study = run(tmp_path / "study.db", 7, falling)
    assert [(t.state, t.epochs) for t in study.trials] == [("done", 3)] * 4 + [("pruned", 2)] * 3
    assert study.best.number == 1


def test_a_trial_that_diverges_is_a_trial_and_a_search_of_nothing_else_has_no_best(tmp_path: Path) -> None:
    def wild(number: int, values: Mapping[str, float], report: Report) -> float:
        if number != 2:
            report(0.4)
            raise Diverged("loss is nan")
        return hill(number, values, report)

    study = run(tmp_path / "study.db", 4, wild)
    assert [t.state for t in study.trials] == ["diverged", "done", "diverged", "diverged"]
    assert [t.score is None for t in study.trials] == [True, False, True, True]
    assert study.best.number == 2
    with pytest.raises(Diverged, match=r"all 3 trials diverged.*lower --lr"):
        _ = Study(tuple(t for t in study.trials if t.state == "diverged")).best


def test_of_equal_scores_the_earlier_is_the_best() -> None:
    trials = [Trial(i, "done", {}, score, 1, 1.0) for i, score in enumerate((0.5, 0.7, 0.7), 1)]
    assert Study(tuple(trials)).best.number == 2


@pytest.mark.parametrize("recipe", [*RECIPES.values(), change(RECIPES["paper"], {"weight_decay": 0.0, "lr": 0.0})])
@pytest.mark.parametrize("size", [1, 3, 8, 32])
def test_every_axis_holds_the_recipe_s_own_value(recipe: Recipe, size: int) -> None:
    recipe = change(recipe, {"crop_padding": min(recipe.crop_padding, size - 1)})
    axes = tuning.axes_for(list(tuning.SEARCHED), recipe, size)
    for axis in axes:
        assert axis.low <= getattr(recipe, axis.field) <= axis.high, axis
        for value in (axis.low, axis.high):
            change(recipe, {axis.field: int(value) if axis.whole else value})  # both ends are values it can have
        assert axis.field != "crop_padding" or axis.high < size
    assert {"lr", "weight_decay"} <= {axis.field for axis in axes}


def test_an_odd_path_is_a_path(tmp_path: Path) -> None:
    file = tmp_path / "what? 100 % #1.db"
    run(file, 1)
    assert sqlite3.connect(file).execute("select count(*) from trials").fetchone() == (1,)


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no study at all, but long enough to be looked at" * 30)
    with pytest.raises(ModelFileError, match=r"study\.db: no study of a search, or damaged"):
        run(tmp_path / "study.db")


def test_a_field_that_cannot_be_searched_is_named_with_its_nearest() -> None:
    for fields, message in {
        ("learning_rate",): r"--search learning_rate; ",
        ("weight_deca",): r"--search weight_deca; did you mean 'weight_decay'\?",
        ("lr", "lr"): "--search lr: named twice",
        (): "nothing to search; expected some of lr, ",
    }.items():
        with pytest.raises(UsageError, match=message):
            tuning.check_fields(fields)
    with pytest.raises(UsageError, match="'steps' has no warm-up"):
        tuning.check_fields(("warmup_epochs",), RECIPES["paper"])


def test_a_missing_optuna_is_one_line_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"Optuna.*pip install 'wideresnet\[tune\]'"):
        tuning.check_installed()


def test_of_shifts_and_zoom_the_one_that_the_recipe_has_is_searched() -> None:
    zooms = change(RECIPES["fast"], {"zoom": 0.5, "crop_padding": 0})
    for recipe, own in ((RECIPES["paper"], "crop_padding"), (zooms, "zoom")):
        axes = tuning.axes_for(tuning.USUAL, recipe, 64)
        assert [axis.field for axis in axes if axis.field in {"crop_padding", "zoom"}] == [own]
        for axis in axes:
            change(recipe, {axis.field: axis.low})
            change(recipe, {axis.field: axis.high})
