"""The task of classification: a config and its data → network, batches, loss, validation; a run whose training has
ended → the figures of its best model, and its report."""

import dataclasses
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from wideresnet import (
    checkpoint,
    classification,
    engines,
    files,
    metrics,
    networks,
    prediction,
    report,
    runs,
    training,
)
from wideresnet.checkpoint import Card
from wideresnet.data import Pictures
from wideresnet.errors import Diverged
from wideresnet.evaluation import Evaluation
from wideresnet.jobs import transfer, unknown
from wideresnet.jobs.evaluation import count_seen
from wideresnet.jobs.judging import facts, flattered, highlights
from wideresnet.processes import synchronise_bn
from wideresnet.report import Subject

if TYPE_CHECKING:
    from wideresnet.jobs.preparation import Prepared


def network(prepared: "Prepared") -> nn.Module:
    """As it is before the first step, drawn by torch's global generator."""
    config, recipe, source = prepared.config, prepared.config.recipe, prepared.source
    arch = config.arch if source is None else source.file.card.architecture
    num_classes = len(prepared.class_names)
    model = networks.create(arch, num_classes, in_channels=config.in_channels, dropout_p=recipe.dropout_p)
    if recipe.sync_bn and prepared.world.size > 1:
        synchronise_bn(model)
    if source is not None:
        transfer.take_over(model, prepared.class_names, source)
    networks.freeze(model, config.freeze)
    return model


def batches(prepared: "Prepared") -> classification.Batches:
    config = prepared.config
    return classification.batches(
        prepared.train, prepared.preprocess, config.recipe, config.seed, prepared.device, world=prepared.world
    )


def loss(prepared: "Prepared") -> training.Loss:
    recipe, weights = prepared.config.recipe, None
    if recipe.class_weights:
        labels, num_classes = prepared.train.labels, len(prepared.class_names)
        weights = classification.class_weights(labels, num_classes).to(prepared.device)
    return classification.loss(recipe, weights)


def validation(prepared: "Prepared") -> Callable[[nn.Module], dict[str, float]]:
    """What the loop judges an epoch by: the val part."""
    val = prepared.splits.parts.get("val")
    return classification.validation(val, prepared.preprocess, prepared.device, prepared.world)


def judge(prepared: "Prepared", state: training.State, folder: Path) -> Evaluation:
    """Temperature from val; figures from test, looked at once, or from val where there is no test; the report."""
    parts, world = prepared.splits.parts, prepared.world
    file = world.from_main(checkpoint.load_model(folder / runs.MODEL) if world.is_main else None)
    assert file is not None
    engine = engines.choose(file.model, prepared.preprocess, prepared.device)
    split = next(name for name in ("test", "val", "train") if name in parts)
    pictures, held_out = parts[split], "val" if "val" in parts else split
    answers, embeddings = classification.embed(parts[held_out], engine, world)
    temperature, kept = _of_val(parts["val"], answers.numpy(), prepared) if "val" in parts else (1.0, {})
    logits = (answers if split == held_out else classification.logits(pictures, engine, world)).numpy()
    if not np.isfinite(logits).all():
        raise Diverged(f"the network's answers on {split} are not finite; try a lower --lr")
    told, tensors = unknown.fitted(prepared, engine, held_out, (answers.numpy(), embeddings))
    evaluation = Evaluation(
        data=Path(prepared.config.data).name,
        split=split,
        engine=engine.reason,
        class_names=prepared.class_names,
        names=pictures.names,
        labels=pictures.labels.numpy(),
        logits=logits,
        temperature=temperature,
        groups=pictures.groups,
        seen=count_seen(pictures, file.extra),
        chosen=split == "val",
    )
    figures = dataclasses.replace(evaluation, groups=()).figures()  # whose names, of patients perhaps, stay here
    final = dataclasses.replace(file.card, temperature=temperature, figures=figures, unknown=told)
    before = {key: value for key, value in file.extra.items() if not key.startswith(prediction.UNKNOWN)}
    if world.is_main:
        checkpoint.save_model(folder / runs.MODEL, file.model.state_dict(), final, {**before, **kept, **tensors})
        files.write_whole(folder / runs.REPORT, report.build(_subject(prepared, state, final, evaluation)))
    return evaluation


def _of_val(val: Pictures, answers: np.ndarray, prepared: "Prepared") -> tuple[float, dict[str, Tensor]]:
    """The temperature, 1 where the likelihood has no best one (a val part all of which is right asks for T = 0); and
    what is kept of the answers."""
    labels = val.labels.numpy()
    temperature = metrics.fit_temperature(answers, labels)
    if temperature in metrics.TEMPERATURES:
        prepared.watch.line(
            f"note: val ({len(val)} pictures) is too small or too easy to fit a temperature; confidences stay raw"
        )
        temperature = 1.0
    probs = metrics.softmax(answers.astype(np.float64) / temperature)
    return temperature, prediction.val_answers(probs.max(axis=1), answers.argmax(axis=1) == labels)


def _subject(prepared: "Prepared", state: training.State, card: Card, evaluation: Evaluation) -> Subject:
    """What report.html tells of a run."""
    config, parts = prepared.config, prepared.splits.parts
    augmented, augmented_labels = _augmented(prepared)
    fitted = f"; temperature {card.temperature:.3f} from val" if card.temperature != 1 else ""
    return Subject(
        title=f"{evaluation.data}: {config.arch}",
        command=config.command,
        highlights=highlights(prepared, state),
        facts=facts(prepared, state, card, fitted),
        evaluation=evaluation,
        pictures=parts[evaluation.split].shown,
        history=state.rows,
        splits={name: pictures.counts(len(prepared.class_names)) for name, pictures in parts.items()},
        splits_note=prepared.splits.note,
        augmented=augmented,
        augmented_labels=augmented_labels,
        notes=[*prepared.notes, *flattered(prepared, state, evaluation.split)],
    )


def _augmented(prepared: "Prepared") -> tuple[np.ndarray, list[str]]:
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
