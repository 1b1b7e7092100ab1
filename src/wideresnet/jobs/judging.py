"""What every trained model is told of, whatever its task: its card, and the facts of its report."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from wideresnet import augment, networks, recipes, training
from wideresnet.checkpoint import Card

if TYPE_CHECKING:
    from wideresnet.jobs.preparation import Prepared


def card(prepared: "Prepared", state: training.State, otherwise: Mapping[str, str] = MappingProxyType({})) -> Card:
    """What a model file says of its model. otherwise: under what its training went on than it was begun."""
    config = prepared.config
    trained = {
        "data": Path(config.data).name if config.detector is None else prepared.name,
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
        task="detection" if config.detector else "classification",
        weights="raw" if state.average is None else "swa" if config.recipe.swa_epochs else "ema",
        trained=trained,
    )


def facts(prepared: "Prepared", state: training.State, card: Card, chosen: str) -> list[tuple[str, str]]:
    """Of the report; chosen: what the task says of how its model was chosen."""
    config, recipe = prepared.config, prepared.config.recipe
    warmup = f", warm-up {recipe.warmup_epochs:g} epochs" if recipe.warmup_epochs else ""
    schedule = f"{recipe.epochs} epochs, batch {recipe.batch_size}, lr {recipe.lr:g}, {recipe.schedule}{warmup}"
    schedule = ", ".join([schedule, *recipes.extras(recipe)])
    return [
        ("Network", f"{network(prepared)}, {sum(p.numel() for p in state.model.parameters()):,} parameters"),
        *([("Frozen", ", ".join(config.freeze))] if config.freeze else []),
        ("Pictures", f"resized to {config.size}×{config.size} pixels ({config.fit})"),
        ("Recipe", f"{recipe.name}: {schedule}"),
        ("Augmentation", augment.describe(recipe, boxes=config.detector is not None)),
        ("Model", f"epoch {card.trained['epoch']}, the {'best on val' if by_val(prepared, state) else 'last'}{chosen}"),
        ("Time", f"{trained_in(prepared, state)}, engine: {config.engine}, threads: {config.threads}"),
        ("Data", f"{config.data}, fingerprint {config.fingerprint[:12]}"),
        ("Seed", str(config.seed)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in config.versions.items())),
    ]


def highlights(prepared: "Prepared", state: training.State) -> list[tuple[str, str]]:
    return [
        ("Network", network(prepared)),
        ("Trained in", trained_in(prepared, state)),
        ("Trained on", f"{len(prepared.train):,} pictures"),
    ]


def network(prepared: "Prepared") -> str:
    """Its name, for people."""
    config = prepared.config
    return config.arch if config.detector is None else f"{config.arch} under {config.detector.head}"


def by_val(prepared: "Prepared", state: training.State) -> bool:
    """Whether val chose the epoch: one without a box has no score."""
    scored = any(row.get("val_accuracy", row.get("val_ap")) is not None for row in state.rows)
    return prepared.config.recipe.select == "best" and scored


def flattered(prepared: "Prepared", state: training.State, split: str) -> list[str]:
    """A note where figures are of the part that chose the epoch."""
    flatters = "there is no test part: these figures are of val, which chose the epoch too, and so flatter a little"
    return [flatters] if by_val(prepared, state) and split == "val" else []


def trained_in(prepared: "Prepared", state: training.State) -> str:
    return f"{duration(sum(row['seconds'] for row in state.rows))} on {prepared.config.device}"


def duration(seconds: float) -> str:
    """A time for a person: "45 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
