"""Arguments of other kinds than expected are either meant, and taken so, or refused by name."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Unpack

import numpy as np
import pytest
import torch

import wideresnet as wrn
from wideresnet import kinds, runs, runtime
from wideresnet.errors import UsageError
from wideresnet.recipes import RecipeChanges

QUICK: dict[str, Any] = {"arch": "wrn_10_1", "labels": 12, "watch": runtime.QUIET}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": "3"}, "epochs='3': expected a whole number or None"),
        ({"epochs": 3.5}, r"epochs=3\.5: expected a whole number"),
        ({"epochs": True}, "epochs=True: expected a whole number"),
        ({"size": "64"}, "size='64': expected a whole number"),
        ({"labels": True}, "labels=True: expected a whole number"),
        ({"lr": "0.1"}, "lr='0.1': expected a number or None"),
        ({"flip": 1}, "flip=1: expected True or False"),
        ({"milestones": 60}, r"milestones=60: expected whole numbers, as \(60, 120\)"),
        ({"milestones": "60"}, "milestones='60': expected whole numbers"),
        ({"milestones": (2, "3")}, r"milestones\[1\]='3': expected a whole number"),
        ({"mean": 0.5}, r"mean=0\.5: expected numbers, as \(0\.5, 0\.5\)"),
        ({"mean": np.float64(0.5)}, "mean=.*: expected numbers"),
        ({"arch": Path("wrn_10_1")}, "arch=.*Path.*: expected text"),
        ({"device": 0}, "device=0: expected text"),
        ({"recipe": 3}, "recipe=3: expected text"),
        ({"out": 7}, "out=7: expected text or a path"),
        ({"track": ["tensorboard", 1]}, r"track\[1\]=1: expected text"),
        ({"cache": False}, "cache=False: expected one of auto, memory, disk, off"),
        ({"policy": 1}, "policy=1: expected one of none, trivial, rand"),
        ({"watch": print}, "watch=.*: expected a Watch"),
        ({"time_budget_s": "20min"}, "time_budget_s='20min': expected a number"),
        ({"time_budget_s": -1}, "time_budget_s=-1: expected seconds above 0"),
        ({"time_budget_s": float("inf")}, "time_budget_s=inf: expected seconds above 0"),
        ({"epoch": 3}, "recipe has no field 'epoch'; did you mean 'epochs'"),
    ],
    ids=str,
)
def test_an_argument_of_another_kind_is_refused_by_its_name_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"^{message}"):
        wrn.train("digits", **{**QUICK, **options})
    assert not any(tmp_path.iterdir())


def test_data_and_models_that_are_no_names_are_refused_by_every_job() -> None:
    jobs: list[Any] = [wrn.train, wrn.find_lr, wrn.tune, wrn.resume, wrn.resume_tune, wrn.load]
    for job in jobs:
        with pytest.raises(UsageError, match="=None: expected text or a path"):
            job(None)
    with pytest.raises(UsageError, match=r"^data=array\(.*…: expected text or a path"):
        wrn.evaluate("runs/x", np.zeros((9, 9)))  # type: ignore[arg-type]


def test_numbers_of_numpy_paths_for_texts_and_iterators_mean_what_they_say(tmp_path: Path) -> None:
    options = {"epochs": np.int64(2), "lr": np.float32(0.25), "flip": np.bool_(False), "weight_decay": None}
    options |= {"mean": (value for value in np.full(3, 0.5)), "std": np.full(3, 0.25), "recipe": "paper"}
    options |= {"milestones": iter([2]), "out": str(tmp_path / "r"), "seed": np.uint8(3), "track": "tensorboard"}
    run = wrn.train("digits", **{**QUICK, **options})
    config = runs.read_config(run.folder)
    assert (config.recipe.epochs, config.recipe.lr, config.recipe.flip, config.seed) == (2, 0.25, False, 3)
    assert (config.recipe.milestones, config.mean, config.std) == ((2,), (0.5,) * 3, (0.25,) * 3)
    assert (config.recipe.weight_decay, config.track) == (5e-4, ("tensorboard",))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    one: int
    many: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner
    names: Mapping[str, str]
    word: Literal["a", "b"] = "a"


@kinds.checked
def echo(numbers: Sequence[float], *, place: Path | None = None, **changes: Unpack[RecipeChanges]) -> Any:
    return numbers, place, changes


def test_what_means_a_number_or_does_what_is_asked_for_is_taken_as_that() -> None:
    tensor: Any = torch.tensor([0.5, 0.25])
    whole: Any = (2.0, np.array(3))
    half: Any = np.array(0.5)
    assert echo(tensor, lr=half, milestones=whole) == ((0.5, 0.25), None, {"lr": 0.5, "milestones": (2, 3)})
    words = {f"word {i}" for i in range(9)}
    assert kinds.fitted(words, Sequence[str], "track") == tuple(sorted(words)), "in one order in every process"
    silent = SimpleNamespace(line=print, progress=print)
    assert kinds.fitted(silent, runtime.Watch, "watch") is silent
    with pytest.raises(UsageError, match="expected a Watch with its fields"):
        kinds.fitted(wrn.Watch, runtime.Watch, "watch")
    with pytest.raises(UsageError, match="mean="):
        kinds.fitted({0.5, 0.25}, Sequence[float], "mean")


def test_an_iterator_is_run_through_once_and_handed_on_whole() -> None:
    def drawn() -> Iterator[int]:
        yield from (1, 2)

    numbers: Any = drawn()
    assert echo(numbers, lr=1) == ((1, 2), None, {"lr": 1})
    with pytest.raises(UsageError, match="place='here': expected a path or None"):
        echo([], place="here")  # type: ignore[arg-type]


def test_a_mapping_becomes_a_dataclass_and_what_is_wrong_with_it_is_named_by_its_path() -> None:
    values = {"inner": {"one": 1, "many": [1, 0.5]}, "names": {"x": "y"}}
    made = kinds.fitted(values, Outer, "")
    assert made == Outer(inner=Inner(one=1, many=(1, 0.5)), names={"x": "y"})
    assert type(made.inner.many[0]) is int, "a digest over the written form stays what it was"
    for broken, message in (
        ([], r"^\[\]: expected a Outer with its fields"),
        ({**values, "inner": 3}, "^inner=3: expected a Inner with its fields"),
        ({**values, "inner": {}}, r"^inner\.one: missing"),
        ({**values, "inner": {"one": "1"}}, r"^inner\.one='1': expected a whole number"),
        ({**values, "names": {"x": 1}}, r"^names\.x=1: expected text"),
        ({**values, "later": 1}, "^later: no field that this version knows; was it written by a newer one?"),
    ):
        with pytest.raises(UsageError, match=message):
            kinds.fitted(broken, Outer, "")
