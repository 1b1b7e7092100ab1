"""A run whose training has ended → its card, the figures of its best model, its report."""

import dataclasses
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import numpy as np

from wideresnet import (
    augment,
    checkpoint,
    classification,
    engines,
    files,
    metrics,
    networks,
    recipes,
    report,
    runs,
    training,
)
from wideresnet.checkpoint import Card
from wideresnet.data import Pictures
from wideresnet.errors import Diverged
from wideresnet.evaluation import Evaluation
from wideresnet.jobs.preparation import Prepared
from wideresnet.report import Subject


def card(prepared: Prepared, state: training.State, otherwise: Mapping[str, str] = MappingProxyType({})) -> Card:
    """What a model file says of its model. otherwise: under what its training went on than it was begun."""
    config = prepared.config
    trained = {
        "data": Path(config.data).name,
        "fingerprint": config.fingerprint,
        "seed": config.seed,
        "epoch": state.epoch,
        "recipe": dataclasses.asdict(config.recipe),
        "engine": config.engine,
        "versions": dict(config.versions),
    }
    if config.init_digest is not None:
        begun_with = f"{config.arch}'s published weights" if config.init is None else Path(config.init).name
        trained |= {"init": begun_with, "init_digest": config.init_digest}
    if config.freeze:
        trained |= {"freeze": list(config.freeze)}
    if config.folds:
        trained |= {"folds": config.folds, "fold": config.fold}
    if otherwise:
        trained |= {"changed": dict(otherwise)}
    if state.rollbacks:
        trained |= {"rollbacks": state.rollbacks}
    return Card(
        architecture=networks.architecture_of(state.judged),
        class_names=prepared.class_names,
        preprocess=prepared.preprocess,
        weights="raw" if state.average is None else "swa" if config.recipe.swa_epochs else "ema",
        trained=trained,
    )


def judge(prepared: Prepared, state: training.State, folder: Path) -> Evaluation:
    """Temperature from val; figures from test, looked at once, or from val where there is no test; the report."""
    parts, world = prepared.splits.parts, prepared.world
    file = world.from_main(checkpoint.load_model(folder / runs.MODEL) if world.is_main else None)
    assert file is not None
    engine = engines.choose(file.model, prepared.preprocess, prepared.device)
    temperature = _temperature(parts["val"], engine, prepared) if "val" in parts else 1.0
    split = next(name for name in ("test", "val", "train") if name in parts)
    pictures = parts[split]
    logits = classification.logits(pictures, engine, world).numpy()
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
    final = dataclasses.replace(file.card, temperature=temperature, figures=evaluation.figures())
    if world.is_main:
        checkpoint.save_model(folder / runs.MODEL, file.model.state_dict(), final, file.extra)
        files.write_whole(folder / runs.REPORT, report.build(_subject(prepared, state, final, evaluation)))
    return evaluation


def _temperature(val: Pictures, engine: engines.Engine, prepared: Prepared) -> float:
    """Fitted on val; 1 where the likelihood has no best one: a val part all of which is right asks for T = 0."""
    answers = classification.logits(val, engine, prepared.world).numpy()
    temperature = metrics.fit_temperature(answers, val.labels.numpy())
    if temperature not in metrics.TEMPERATURES:
        return temperature
    prepared.watch.line(
        f"note: val ({len(val)} pictures) is too small or too easy to fit a temperature; confidences stay raw"
    )
    return 1.0


def _subject(prepared: Prepared, state: training.State, card: Card, evaluation: Evaluation) -> Subject:
    """What report.html tells of a run."""
    config, parts = prepared.config, prepared.splits.parts
    recipe = config.recipe
    augmented, augmented_labels = _augmented(prepared)
    seconds = sum(row["seconds"] for row in state.rows)
    warmup = f", warm-up {recipe.warmup_epochs:g} epochs" if recipe.warmup_epochs else ""
    schedule = f"{recipe.epochs} epochs, batch {recipe.batch_size}, lr {recipe.lr:g}, {recipe.schedule}{warmup}"
    schedule = ", ".join([schedule, *recipes.extras(recipe)])
    by_val = recipe.select == "best" and "val" in parts
    chosen = f"epoch {card.trained['epoch']}, the {'best on val' if by_val else 'last'}"
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
            *([("Frozen", ", ".join(config.freeze))] if config.freeze else []),
            ("Pictures", f"resized to {config.size}×{config.size} pixels ({config.fit})"),
            ("Recipe", f"{recipe.name}: {schedule}"),
            ("Augmentation", augment.describe(recipe)),
            ("Model", f"{chosen}; temperature {card.temperature:.3f} from val" if "val" in parts else chosen),
            (
                "Time",
                f"{duration(seconds)} on {config.device}, engine: {config.engine}, threads: {config.threads}",
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
        augmented=augmented,
        augmented_labels=augmented_labels,
        notes=[*prepared.notes, *chosen_by_val],
    )


def _augmented(prepared: Prepared) -> tuple[np.ndarray, list[str]]:
    """Some pictures of the first batches as the network got them, uint8 [M, size, size, 3], and their labels."""
    config, names = prepared.config, prepared.class_names
    batches = classification.batches(prepared.train, prepared.preprocess, config.recipe, config.seed, prepared.device)
    num_batches = min(6, classification.steps_per_epoch(len(prepared.train), config.recipe))
    of_each = -(-report.AUGMENTED // num_batches)
    images, labels = list[np.ndarray](), list[str]()
    for batch in islice(batches(1), num_batches):
        shown = prepared.preprocess.shown(batch.images[:of_each]).permute(0, 2, 3, 1).cpu().numpy()
        images += list(np.broadcast_to(shown, (*shown.shape[:3], 3)))  # one channel is shown three times
        own = [names[label] for label in batch.labels[:of_each].tolist()]
        if batch.partners is not None:
            share = round(100 * batch.share)
            theirs = [names[label] for label in batch.partners[:of_each].tolist()]
            own = [f"{share} % {a}, {100 - share} % {b}" for a, b in zip(own, theirs, strict=True)]
        labels += own
    return np.stack(images), labels


def duration(seconds: float) -> str:
    """A time for a person: "45 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
