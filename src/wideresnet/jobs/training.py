"""`train` and `resume`: data → run folder, model file, report."""

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch

from wideresnet import (
    augment,
    checkpoint,
    classification,
    engines,
    files,
    metrics,
    recipes,
    report,
    runs,
    runtime,
    training,
)
from wideresnet import data as data_room
from wideresnet.checkpoint import Card
from wideresnet.data import Pictures
from wideresnet.dialects import parse_arch
from wideresnet.errors import DataError, Diverged, ModelFileError, TrainingStopped, UsageError, WideResNetError
from wideresnet.evaluation import Evaluation
from wideresnet.jobs.preparation import Prepared, check_class_sets, fit_to_data, make_recipe, prepare, seconds_per_epoch
from wideresnet.model import WideResNetClassifier, count_macs
from wideresnet.recipes import RecipeChanges
from wideresnet.report import Subject


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What training leaves: the folder, and the figures of its model on the test part (val where there is none)."""

    folder: Path
    evaluation: Evaluation


def train(
    data: str | Path,
    *,
    arch: str | None = None,
    recipe: str = "fast",
    size: int | None = None,
    in_channels: int = 3,
    fit: Literal["crop", "squash", "pad"] = "crop",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    time_budget_s: float | None = None,
    max_bad: int | None = 0,
    watch: runtime.Watch = runtime.PRINT,
    **changes: Unpack[RecipeChanges],
) -> Run:
    """Trains a network on `data` and leaves a run folder. What is not given comes from the data (`recipes.defaults`).

    size: pixels of the square that pictures are resized to. mean, std: per channel, in [0, 1] units. max_bad: how many
    unreadable pictures may be left out, None for any number. time_budget_s: as many epochs as fit. `changes`: fields
    of the recipe. Raises DataError, UsageError (nothing is written), TrainingStopped or Interrupted (can be resumed).
    """
    torch_device = runtime.choose_device(device)
    runs.check_out(None if out is None else Path(out))
    if size is not None and size < 1:
        raise UsageError(f"size={size}: expected a number of pixels from 1")
    if time_budget_s is not None and changes.get("epochs") is not None:
        raise UsageError("--epochs and --time-budget say the same thing twice; give one")
    listing = data_room.read(data)
    check_class_sets(listing)
    share = 0.8 if recipes.find(recipe).select == "best" else 0.9  # of data that comes without parts
    num_train = len(listing.splits.get("train", ())) or round(share * sum(map(len, listing.splits.values()))) or 1
    side = data_room.shorter_side(listing.splits.values())
    default = recipes.defaults(num_train, side, torch_device.type)
    arch, size = arch or default.arch, default.size if size is None else size
    macs = _macs(arch, size)
    made = make_recipe(
        recipe, changes, default=default, size=size, class_names=listing.class_names, num_train=num_train
    )

    config = runs.Config(
        data=listing.place,
        arch=arch,
        recipe=made,
        size=size,
        fit=fit,
        in_channels=in_channels,
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
        seed=seed,
        device=str(torch_device),
        threads=runtime.threads_for(macs * made.batch_size),
        max_bad=max_bad,
        engine="torch",
        fingerprint="",
        versions=runtime.versions(),
    )
    prepared = prepare(config, listing, watch)
    prepared = fit_to_data(prepared)
    with runtime.threads(config.threads):
        epoch_s = seconds_per_epoch(prepared)
    if time_budget_s is not None:
        kept = {name: changes.get(name) for name in ("warmup_epochs", "milestones")}
        epochs = max(1, int(time_budget_s * 0.95 / epoch_s))
        fitted = recipes.change(prepared.config.recipe, {**kept, "epochs": epochs})
        prepared = dataclasses.replace(prepared, config=dataclasses.replace(prepared.config, recipe=fitted))
    folder = runs.create(listing.name, None if out is None else Path(out))
    runs.write_config(folder, prepared.config)
    _say_plan(prepared, folder, epoch_s, side)
    return _finish(prepared, prepared.new_state(), folder)


def resume(folder: str | Path, *, watch: runtime.Watch = runtime.PRINT) -> Run:
    """Goes on with a run from its last whole epoch, bitwise as if it had not been stopped.

    Raises ModelFileError if `folder` is no run, DataError if the data has changed since, UsageError if device or
    versions have.
    """
    folder = Path(folder)
    config = runs.read_config(folder)
    runtime.choose_device(config.device)
    now = runtime.versions()
    then = config.versions
    if changed := [f"{name} {then.get(name)} → {now[name]}" for name in now if then.get(name) != now[name]]:
        raise UsageError(
            f"{folder}: made under other versions ({', '.join(changed)}), so going on would not be bitwise the same. "
            "Install those, or train anew"
        )
    state_file = folder / runs.CHECKPOINT
    tensors, progress = checkpoint.load_checkpoint(state_file) if state_file.exists() else ({}, None)
    if progress is None and (folder / runs.METRICS).exists():  # written after the first checkpoint
        raise ModelFileError(f"{folder}: its {runs.CHECKPOINT} is gone, so it cannot go on; train anew")
    if progress is not None and progress["config"] != config.digest:
        raise ModelFileError(f"{folder / runs.CONFIG}: not the config this run was made with; put the old one back")
    prepared = prepare(config, data_room.read(config.data), watch)
    if prepared.config.fingerprint != config.fingerprint:
        raise DataError(f"{config.data}: not the data that {folder} was trained on (pictures or labels differ)")
    state = prepared.new_state()
    if progress is not None:
        training.from_tensors(state, tensors, progress)
    watch.line(f"going on with {folder} after epoch {state.epoch} of {config.recipe.epochs}")
    return _finish(prepared, state, folder)


def _macs(arch: str, size: int) -> int:
    """Multiply-accumulates for one picture; an impossible network is told here, before any picture is read."""
    try:
        with torch.device("meta"):
            return count_macs(WideResNetClassifier(2, **parse_arch(arch)), size, size)
    except ValueError as error:
        raise UsageError(f"--arch {arch}: {error}") from error


def _say_plan(prepared: Prepared, folder: Path, epoch_s: float, side: int) -> None:
    config, say = prepared.config, prepared.watch.line
    counts = ", ".join(f"{len(pictures):,} {split}" for split, pictures in prepared.splits.parts.items())
    for note in prepared.notes:
        say(f"note: {note}")
        runs.log(folder, f"note: {note}")
    recipe = config.recipe
    say(
        f"{config.arch} at {config.size} pixels for {counts} pictures of {len(prepared.class_names)} classes "
        f"(about {side} pixels, {config.device}); {prepared.splits.note}"
    )
    say(
        f"recipe {recipe.name}: {recipe.epochs} epochs, batch {recipe.batch_size}, lr {recipe.lr:g}, "
        f"{'mirror images' if recipe.flip else 'no mirror images'}; "
        f"about {duration(epoch_s * recipe.epochs)} → {folder}"
    )


def _finish(prepared: Prepared, state: training.State, folder: Path) -> Run:
    """Trains what is left to train, then judges the best model on held-out pictures and reports."""
    recipe, parts = prepared.config.recipe, prepared.splits.parts
    extra = {"seen": data_room.marks(prepared.train)}

    def save(state: training.State, is_best: bool) -> None:
        # The model first: a kill between the two writes leaves a best model that is as new or newer, never lost.
        if is_best:
            checkpoint.save_model(folder / runs.MODEL, state.judged.state_dict(), _card(prepared, state), extra)
        progress: dict[str, Any] = {"epoch": state.epoch, "best_score": state.best_score, "rows": state.rows}
        progress["config"] = prepared.config.digest
        checkpoint.save_checkpoint(folder / runs.CHECKPOINT, training.to_tensors(state), progress)
        runs.write_metrics(folder, state.rows)
        runs.log(folder, "  ".join(f"{key} {value}" for key, value in state.rows[-1].items()))

    config, device = prepared.config, prepared.device
    try:
        with runtime.threads(config.threads):
            training.fit(
                state,
                classification.batches(prepared.train, prepared.preprocess, recipe, config.seed, device),
                classification.loss(recipe),
                classification.validation(parts.get("val"), prepared.preprocess, device),
                recipe=recipe,
                steps_per_epoch=classification.steps_per_epoch(len(prepared.train), recipe),
                seed=config.seed,
                save=save,
                watch=prepared.watch,
            )
        return _judge(prepared, state, folder)
    except Diverged:
        raise  # going on would come to the same
    except WideResNetError as error:
        error.args = (f"{error}. Go on with: wrn train --resume {shlex.quote(str(folder))}",)
        raise
    except RuntimeError as error:  # as torch says it, on a CPU and on a GPU
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise TrainingStopped(f"out of memory in {folder}: train anew with a smaller --batch-size or --size") from error


def _card(prepared: Prepared, state: training.State) -> Card:
    config = prepared.config
    model = state.judged
    assert isinstance(model, WideResNetClassifier)
    trained = {
        "data": Path(config.data).name,
        "fingerprint": config.fingerprint,
        "seed": config.seed,
        "epoch": state.epoch,
        "recipe": dataclasses.asdict(config.recipe),
        "engine": config.engine,
        "versions": dict(config.versions),
    }
    return Card(
        architecture=model.architecture,
        class_names=prepared.class_names,
        preprocess=prepared.preprocess,
        weights="raw" if state.average is None else "ema",
        trained=trained,
    )


def _judge(prepared: Prepared, state: training.State, folder: Path) -> Run:
    """Temperature from val; figures from test, looked at once, or from val where there is no test; the report."""
    parts, file = prepared.splits.parts, checkpoint.load_model(folder / runs.MODEL)
    engine = engines.choose(file.model, prepared.preprocess, prepared.device)
    temperature = _temperature(engine, parts["val"], prepared.watch) if "val" in parts else 1.0
    split = next(name for name in ("test", "val", "train") if name in parts)
    pictures = parts[split]
    logits = engine.compute(pictures.images).numpy()
    if not np.isfinite(logits).all():
        raise Diverged(f"the network's answers on {split} are not finite; try a lower --lr")
    evaluation = Evaluation(
        data=Path(prepared.config.data).name,
        split=split,
        engine=engine.reason,
        class_names=prepared.class_names,
        names=pictures.names,
        labels=pictures.labels.numpy(),
        logits=logits,
        temperature=temperature,
    )
    card = dataclasses.replace(file.card, temperature=temperature, figures=evaluation.figures())
    checkpoint.save_model(folder / runs.MODEL, file.model.state_dict(), card, file.extra)
    files.write_whole(folder / runs.REPORT, report.build(_subject(prepared, state, card, evaluation)))
    return Run(folder, evaluation)


def _temperature(engine: engines.Engine, val: Pictures, watch: runtime.Watch) -> float:
    """Fitted on val; 1 where the likelihood has no best one: a val part all of which is right asks for T = 0."""
    temperature = metrics.fit_temperature(engine.compute(val.images).numpy(), val.labels.numpy())
    if temperature not in metrics.TEMPERATURES:
        return temperature
    watch.line(f"note: val ({len(val)} pictures) is too small or too easy to fit a temperature; confidences stay raw")
    return 1.0


def _subject(prepared: Prepared, state: training.State, card: Card, evaluation: Evaluation) -> Subject:
    """What report.html tells of a run."""
    config, parts = prepared.config, prepared.splits.parts
    recipe, shown = config.recipe, min(24, len(prepared.train))
    draws = augment.draw(
        len(prepared.train), flip=recipe.flip, crop_padding=recipe.crop_padding, seed=config.seed, epoch=1
    )
    sample = torch.linspace(0, len(prepared.train) - 1, shown).long()
    images = augment.apply(prepared.train.images[sample], draws, sample)
    augmented = dataclasses.replace(prepared.train.take(sample), images=images)
    seconds = sum(row["seconds"] for row in state.rows)
    warmup = f", warm-up {recipe.warmup_epochs:g} epochs" if recipe.warmup_epochs else ""
    schedule = f"{recipe.epochs} epochs, batch {recipe.batch_size}, lr {recipe.lr:g}, {recipe.schedule}{warmup}"
    by_val = recipe.select == "best" and "val" in parts
    chosen = f"epoch {card.trained['epoch']}, the {'best on val' if by_val else 'last'}"
    mirrored = ", mirror images" if recipe.flip else ""
    flatters = "there is no test part: these figures are of val, which chose the epoch too, and so flatter a little"
    chosen_by_val = [flatters] if by_val and evaluation.split == "val" else []
    return Subject(
        title=f"{evaluation.data}: {config.arch}",
        command=config.command,
        highlights=[
            ("Network", config.arch),
            ("Trained in", f"{duration(seconds)} on {config.device}"),
            ("Trained on", f"{len(prepared.train):,} pictures"),
        ],
        facts=[
            ("Network", f"{config.arch}, {sum(p.numel() for p in state.model.parameters()):,} parameters"),
            ("Pictures", f"resized to {config.size}×{config.size} pixels ({config.fit})"),
            ("Recipe", f"{recipe.name}: {schedule}"),
            ("Augmentation", f"shifts of up to {recipe.crop_padding} pixels{mirrored}"),
            ("Model", f"{chosen}; temperature {card.temperature:.3f} from val" if "val" in parts else chosen),
            (
                "Time",
                f"{duration(seconds)} of training on {config.device}, threads: {config.threads}",
            ),
            ("Data", f"{config.data}, fingerprint {config.fingerprint[:12]}"),
            ("Seed", str(config.seed)),
            ("Versions", ", ".join(f"{name} {version}" for name, version in config.versions.items())),
        ],
        evaluation=evaluation,
        pictures=parts[evaluation.split].shown,
        history=state.rows,
        splits={name: pictures.counts(len(prepared.class_names)) for name, pictures in parts.items()},
        splits_note=prepared.splits.note,
        augmented=np.stack([augmented.shown(i) for i in range(shown)]),
        augmented_labels=[prepared.class_names[label] for label in prepared.train.labels[sample].tolist()],
        notes=[*prepared.notes, *chosen_by_val],
    )


def duration(seconds: float) -> str:
    """A time for a person: "45 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
