"""Cross-validation: one config → one config a fold; the folds' evaluations → one over all pictures, and its report."""

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from wideresnet import data as data_room
from wideresnet import files, report, runs, runtime
from wideresnet.evaluation import Evaluation
from wideresnet.jobs.preparation import Decoded, split
from wideresnet.report import Subject

FIGURES = "folds.csv"


def configs(config: runs.Config) -> Iterator[runs.Config]:
    """The config of each fold's run: the same but for `fold`."""
    return (dataclasses.replace(config, fold=fold) for fold in range(1, config.folds + 1))


def fit_to_folds(config: runs.Config, pictures: Decoded) -> runs.Config:
    """`config` with batches that the smallest fold's train part can fill, the same for all; and its fingerprint.

    Raises DataError if a fold cannot be made: a class has too few pictures for so many.
    """
    smallest = config.recipe.batch_size
    for one in configs(config):
        smallest = min(smallest, len(split(one, pictures)[0].parts["train"]))
    recipe = dataclasses.replace(config.recipe, batch_size=smallest)
    return dataclasses.replace(config, recipe=recipe, fingerprint=pictures.fingerprint)


def conclude(
    config: runs.Config,
    pictures: Decoded,
    folder: Path,
    folds: Sequence[Evaluation],
    *,
    notes: Sequence[str],
    watch: runtime.Watch,
) -> Evaluation:
    """Writes the figures of each fold and one report; the evaluation over all pictures, each judged by the network that
    never saw it, with the confidence that network gives it. `notes`: what there is to know of single folds."""
    whole = data_room.without_test(pictures.parts)
    logits = np.zeros((len(whole), len(pictures.class_names)), np.float32)
    fold_rows = data_room.fold_rows(whole, pictures.class_names, config.folds, config.seed)
    for rows, fold in zip(fold_rows, folds, strict=True):
        logits[rows.numpy()] = fold.logits / fold.temperature
    evaluation = Evaluation(
        data=Path(config.data).name,
        split="held-out",
        engine=folds[0].engine,
        class_names=pictures.class_names,
        names=whole.names,
        labels=whole.labels.numpy(),
        logits=logits,
        groups=whole.groups,
    )
    accuracies = [fold.accuracy for fold in folds]
    mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
    spread = f"{100 * mean:.2f} % ± {100 * deviation:.2f} (mean and standard deviation of {len(folds)} folds)"
    watch.line(spread)
    files.write_whole(folder / FIGURES, files.csv_text(_row(k, fold) for k, fold in enumerate(folds, 1)))
    test, by_val = len(pictures.parts.get("test", ())), config.recipe.select == "best"
    aside = [f"the test part that was given ({test:,} pictures) was not looked at"] if test else []
    kept = "groups and identical pictures" if whole.groups else "identical pictures"
    chose = "; of its other folds each network kept a tenth as val, which chose its epoch" if by_val else ""
    subject = Subject(
        title=f"{evaluation.data}: {config.arch}, {config.folds} folds",
        command=config.command,
        highlights=[("Network", config.arch), ("Fold by fold", spread), ("Networks trained", str(config.folds))],
        facts=[
            ("Network", config.arch),
            ("Pictures", f"resized to {config.size}×{config.size} pixels ({config.fit})"),
            ("Recipe", f"{config.recipe.name}: {config.recipe.epochs} epochs, batch {config.recipe.batch_size}"),
            ("Versions", ", ".join(f"{name} {version}" for name, version in config.versions.items())),
        ],
        evaluation=evaluation,
        pictures=whole.shown,
        folds=folds,
        splits={f"fold {k}": [figures.count for figures in fold.per_class] for k, fold in enumerate(folds, 1)},
        splits_note=f"stratified, seed {config.seed}, {kept} together{chose}",
        notes=[*pictures.notes, *notes, *aside],
    )
    files.write_whole(folder / runs.REPORT, report.build(subject))
    return evaluation


def _row(number: int, fold: Evaluation) -> dict[str, float]:
    low, high = fold.interval
    figures = {"accuracy": fold.accuracy, "interval_low": low, "interval_high": high, "loss": fold.loss}
    return {"fold": number, "pictures": fold.num_images, "correct": fold.correct, **figures}
