"""`tune` and `resume_tune`: a search over the recipe's numbers; each trial trains as `train` does, judged on val.

The folder has tune.json (all it takes to go on), study.db, trials.csv, report.html and log.txt; no model: the best
recipe is a command, and what it trains is judged on test, which no trial has seen.
"""

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import nn

from wideresnet import data as data_room
from wideresnet import engines, files, kinds, networks, processes, recipes, report, runs, runtime, tuning
from wideresnet.errors import DataError, Interrupted, ModelFileError, TrainingStopped, UsageError
from wideresnet.jobs import transfer
from wideresnet.jobs.judging import duration
from wideresnet.jobs.planning import changed, check_unchanged, plan
from wideresnet.jobs.preparation import Prepared, fit_to_data, prepare, seconds_per_epoch
from wideresnet.jobs.running import fit_prepared, out_of_memory
from wideresnet.processes import ALONE
from wideresnet.reading import Reading
from wideresnet.recipes import RecipeChanges
from wideresnet.report import Search, Subject
from wideresnet.tuning import Axis, Report, Study, Trial

SETUP, STUDY, TRIALS = "tune.json", "study.db", "trials.csv"


@dataclass(frozen=True, slots=True, eq=False)
class Tune:
    """What a search leaves: its folder, every trial, and the command that trains with the best one's numbers."""

    folder: Path
    study: Study
    command: str


@dataclass(frozen=True, slots=True)
class _Setup:
    """What it takes to go on: the config of the first trial, what is searched, how many trials in all."""

    config: runs.Config
    search: tuple[str, ...]
    trials: int


@kinds.checked
def tune(
    data: str | Path,
    *,
    trials: int = 20,
    search: Sequence[str] | None = None,
    arch: str | None = None,
    recipe: str | None = None,
    size: int | None = None,
    in_channels: int | None = None,
    fit: Literal["crop", "squash", "pad"] = "crop",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    init: str | Path | None = None,
    from_model: str | Path | None = None,
    pretrained: bool = False,
    freeze: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    engine: engines.Name = "auto",
    out: str | Path | None = None,
    max_bad: int | None = 0,
    labels: int | None = None,
    cache: data_room.Cache = "auto",
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    download: bool = False,
    max_pixels: int | None = None,
    watch: runtime.Watch = runtime.PRINT,
    **changes: Unpack[RecipeChanges],
) -> Tune:
    """Searches the fields `search` of the recipe (`tuning.USUAL`) in `trials` trainings; the best val accuracy wins.

    The other options are those of `train`, and mean the same: the first trial is what `train` would do. The test part
    is never looked at. Raises as `train`, and UsageError if a field cannot be searched or Optuna is not installed.
    """
    tuning.check_installed()
    processes.check_alone("tune")
    search = tuning.USUAL if search is None else search
    tuning.check_fields(search)
    if trials < 1:
        raise UsageError(f"--trials {trials}: expected at least 1")
    out = None if out is None else Path(out)
    runs.check_out(out)
    if changes.get("select") is None:  # the recipe's own may be to train on val too: nothing would tell trials apart
        changes["select"] = "best"
    planned = plan(
        data,
        changes,
        arch=arch,
        recipe=recipe,
        size=size,
        in_channels=in_channels,
        fit=fit,
        mean=mean,
        std=std,
        init=transfer.named_once(init, from_model),
        pretrained=pretrained,
        freeze=freeze,
        seed=seed,
        device=device,
        engine=engine,
        max_bad=max_bad,
        labels=labels,
        folds=None,
        reading=Reading(
            image_column=image_column,
            label_column=label_column,
            split_column=split_column,
            group_column=group_column,
            download=download,
            max_pixels=max_pixels,
        ),
        watch=watch,
        world=ALONE,
    )
    config, listing = planned.config, planned.listing
    tuning.check_fields(search, config.recipe)
    if "dropout_p" in search and networks.libraries.named(config.arch) is not None:
        raise UsageError(f"--search dropout_p: is for our own blocks, {config.arch} has others; leave it out")
    tuning.axes_for(search, config.recipe, config.size)
    prepared = fit_to_data(prepare(config, listing, watch, source=planned.source, cache=cache))
    if "val" not in prepared.splits.parts:
        raise DataError(f"{listing.place}: no val part to judge a trial by; leave out --select last, or make one")
    config = prepared.config
    with engines.threads(config.engine, config.threads), runtime.memory_kept(), data_room.workers_watched():
        epoch_s = seconds_per_epoch(prepared)
    folder = runs.create(listing.name, out, under="tunes")
    setup = _Setup(config, tuple(search), trials)
    watch.line(
        f"{trials} trials of {config.arch} at {config.size} pixels on {len(prepared.train):,} pictures, "
        f"{prepared.kept}; {config.recipe.epochs} epochs each; {', '.join(search)}; "
        f"about {duration(epoch_s * config.recipe.epochs * trials)} at most → {folder}"
    )
    with runs.in_use(folder, watch.line):
        _write(folder, setup)
        return _search(prepared, setup, folder)


@kinds.checked
def resume_tune(
    folder: str | Path,
    *,
    trials: int | None = None,
    allow_changed: Sequence[str] = (),
    cache: data_room.Cache = "auto",
    watch: runtime.Watch = runtime.PRINT,
) -> Tune:
    """Goes on with a search until `trials` have ended in all, or as many as it was begun with.

    A trial that was stopped begins anew; it and those after it are to the bit what they would have been, but for what
    `allow_changed` allows (`resume`). Raises
    ModelFileError if `folder` is no search, DataError if the data has changed since, UsageError if versions have.
    """
    tuning.check_installed()
    processes.check_alone("tune")
    folder = Path(folder)
    setup = _read(folder)
    if trials is not None and trials < 1:
        raise UsageError(f"--trials {trials}: expected at least 1")
    if (folder / TRIALS).exists() and not (folder / STUDY).exists():
        raise ModelFileError(f"{folder}: its {STUDY} is gone, so it cannot go on; tune anew")
    config, otherwise = changed(setup.config, ALONE)
    check_unchanged(folder, otherwise, allow_changed, f"wrn tune --resume {shlex.quote(str(folder))}")
    for name, how in otherwise.items():
        watch.line(f"note: going on with other {name} ({how}): trials are not bitwise what they would have been")
    if config.recipe.compile:
        runtime.check_compiler(torch.device(config.device))
    listing, source = data_room.read(config.data, config.reading, watch), transfer.source_of(config)
    prepared = prepare(config, listing, watch, source=source, cache=cache)
    if prepared.config.fingerprint != config.fingerprint:
        raise DataError(f"{config.data}: not the data that {folder} was searched on (pictures or labels differ)")
    with runs.in_use(folder, watch.line):
        if trials is not None and trials != setup.trials:
            setup = dataclasses.replace(setup, trials=trials)
            _write(folder, setup)
        return _search(prepared, setup, folder)


def _search(prepared: Prepared, setup: _Setup, folder: Path) -> Tune:
    """Runs the trials that are left, then reports on all."""
    config, say = setup.config, prepared.watch.line
    axes = tuning.axes_for(setup.search, config.recipe, config.size)
    own = {axis.field: getattr(config.recipe, axis.field) for axis in axes}

    def objective(number: int, values: Mapping[str, float], report: Report) -> float:
        return _train(prepared, values, report, f"trial {number}/{setup.trials}")

    def ended(trials: Sequence[Trial]) -> None:
        files.write_whole(folder / TRIALS, files.csv_text(_rows(trials)))
        line = f"trial {trials[-1].number}: {_outcome(trials[-1])}  {_values(trials[-1].values)}"
        say(line)
        runs.log(folder, line)

    try:
        study = tuning.search(
            folder / STUDY,
            axes,
            own,
            objective,
            seed=config.seed,
            num_trials=setup.trials,
            epochs=config.recipe.epochs,
            ended=ended,
        )
    except KeyboardInterrupt:  # between two trainings; within one it is `Interrupted`
        raise Interrupted(f"stopped; go on with: wrn tune --resume {shlex.quote(str(folder))}") from None
    except (TrainingStopped, Interrupted) as error:
        error.args = (f"{error}. Go on with: wrn tune --resume {shlex.quote(str(folder))}",)
        raise
    except (RuntimeError, MemoryError) as error:
        raise out_of_memory(error, folder) from error
    best = dataclasses.replace(config, recipe=recipes.change(config.recipe, study.best.values))
    files.write_whole(folder / runs.REPORT, report.build(_subject(prepared, setup, axes, study, best.command)))
    return Tune(folder, study, best.command)


def _train(prepared: Prepared, values: Mapping[str, float], report: Report, what: str) -> float:
    """One trial: the recipe with these values, trained as `train` does it, but nothing is kept. The score of its best
    epoch."""
    recipe = recipes.change(prepared.config.recipe, values)
    progress = prepared.watch.progress
    watch = runtime.Watch(progress=lambda epoch, *rest: progress(f"{what}, {epoch}", *rest))
    config = dataclasses.replace(prepared.config, recipe=recipe)
    prepared = dataclasses.replace(prepared, config=config, watch=watch)
    judge, state = prepared.task.validation(prepared), prepared.new_state()

    def validate(model: nn.Module) -> dict[str, float]:
        row = judge(model)
        report(row["score"])
        return row

    fit_prepared(prepared, state, validate, lambda *_: None)
    assert state.best_score is not None  # there is a val part
    return state.best_score


def _outcome(trial: Trial) -> str:
    if trial.state == "diverged":
        return "diverged"
    score = f"{100 * (trial.score or 0):.2f} %"
    return score if trial.state == "done" else f"{score}, stopped after epoch {trial.epochs}"


def _values(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in values.items())


def _rows(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """trials.csv: what came of each, the best so far, and the numbers it was given, in full."""
    rows, best = list[dict[str, Any]](), None
    for trial in trials:
        if trial.state == "done" and trial.score is not None:
            best = max(trial.score, best or 0.0)
        row = {"trial": trial.number, "state": trial.state, "score": trial.score, "best": best}
        rows.append({**row, "epochs": trial.epochs, "seconds": trial.seconds, **trial.values})
    return rows


def _subject(prepared: Prepared, setup: _Setup, axes: Sequence[Axis], study: Study, command: str) -> Subject:
    """What report.html tells of a search."""
    config, best, own, num = setup.config, study.best, study.trials[0], len(study.trials)
    pruned, diverged = (sum(trial.state == state for trial in study.trials) for state in ("pruned", "diverged"))
    counts = ", ".join([str(num), *[f"{n} {what}" for n, what in ((pruned, "pruned"), (diverged, "diverged")) if n]])
    done_epochs, all_epochs = sum(trial.epochs for trial in study.trials), num * config.recipe.epochs
    ranges = [f"{axis.field} {axis.low:.3g} to {axis.high:.3g}{', by factors' if axis.log else ''}" for axis in axes]
    val = len(prepared.splits.parts["val"])
    flatters = (
        f"the best of {num} scores was chosen by the same {val:,} pictures of val, and so flatters; "
        "train with the command below for a figure on pictures that chose nothing"
    )
    enough = f"{tuning.MIN_FOR_IMPORTANCE} trials that ran to the end and came to different scores"
    few = f"which number mattered is not said: that takes {enough}"
    return Subject(
        title=f"{Path(config.data).name}: {num} trials of {config.arch}",
        command=command,
        highlights=[
            ("Best on val", f"{_outcome(best)} (trial {best.number})"),
            ("The recipe as it was", _outcome(own)),
            ("Trials", counts),
        ],
        facts=[
            ("Best", _values(best.values)),
            ("Searched", "; ".join(ranges)),
            (
                "Trained",
                f"{done_epochs:,} of {all_epochs:,} epochs, the others pruned away; "
                f"{duration(sum(trial.seconds for trial in study.trials))} on {config.device}",
            ),
            ("Network", config.arch),
            ("Pictures", f"resized to {config.size}×{config.size} pixels ({config.fit}); {prepared.splits.note}"),
            ("Search", f"Optuna's TPE, median pruning; seed {config.seed} for it and for each trial"),
            ("Versions", ", ".join(f"{name} {version}" for name, version in config.versions.items())),
        ],
        search=Search(
            trials=_rows(study.trials),
            best=best.number,
            axes={axis.field: axis.log for axis in axes},
            importance=study.importance,
        ),
        splits={name: part.counts(len(prepared.class_names)) for name, part in prepared.splits.parts.items()},
        class_names=prepared.class_names,
        splits_note=prepared.splits.note,
        notes=[*prepared.notes, flatters, *([] if study.importance else [few])],
    )


def _write(folder: Path, setup: _Setup) -> None:
    values = {"config": setup.config.to_dict(), "search": setup.search, "trials": setup.trials}
    files.write_json(folder / SETUP, values)


def _read(folder: Path) -> _Setup:
    path = folder / SETUP
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return _Setup(runs.config_from(values["config"]), tuple(values["search"]), int(values["trials"]))
    except FileNotFoundError:
        raise ModelFileError(f"{folder}: not a search (no {SETUP}); those that were made lie under tunes/") from None
    except (OSError, ValueError, TypeError, KeyError, UsageError) as error:
        raise ModelFileError(f"{path}: not a search's setup as this version writes it: {error}") from error
