"""`Subject` → one HTML file as text, with its pictures, figures and styles inside. It lays out what others computed."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from wideresnet.evaluation import Evaluation
from wideresnet.evaluation.unknown import SCORES
from wideresnet.report import figures

# What a page shows at most, to stay below 2 MB; all the figures are in metrics.csv and --json.
MISTAKES = 24
PAIRS = 8
DIFFERING = 12
EXAMPLES = 4
AUGMENTED = 24
MATRIX_CLASSES = 20
OPEN_ROWS = 20  # of a table by class; the others unfold
THUMBNAIL_PX = 176
TINY_PX = 64  # up to here a picture is kept pixel by pixel


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Search:
    """What a search for hyper-parameters found, for its sections."""

    trials: Sequence[figures.Row]  # the rows of trials.csv, in the order they ended
    best: int  # number of the best
    axes: Mapping[str, bool]  # field → whether it was searched by factors, not by steps
    importance: Mapping[str, float]  # field → share; empty where the trials are too few to tell


Shown = tuple[np.ndarray, str]  # a picture, uint8 [H, W, 3], and what is said under it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoxClass:
    """A row of the table by class; None where it has no box."""

    name: str
    count: int
    ap: float | None
    ap50: float | None
    precision: float | None  # at the threshold
    recall: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoxFigures:
    """What a detector found, for its sections."""

    data: str
    split: str
    num_images: int
    num_boxes: int
    averages: Mapping[str, float | None]  # "AP", "AP50", …
    threshold: float
    classes: Sequence[BoxClass]
    colours: Sequence[tuple[str, str]]  # "#rrggbb" and the class whose boxes have it; none where texts tell
    curves: Mapping[str, np.ndarray]  # class → precision [101] at the recalls 0, 0.01, …, 1
    beside: Sequence[tuple[Shown, Shown]]  # what is there, and what was found
    missed: Sequence[Shown]
    false_alarms: Sequence[Shown]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """What a report is about. A part left empty has no section."""

    title: str
    command: str  # that repeats it
    highlights: Sequence[tuple[str, str]] = ()  # few and short, under the headline: network, device, time
    facts: Sequence[tuple[str, str]] = ()  # what was chosen and why, versions…
    evaluation: Evaluation | None = None
    folds: Sequence[Evaluation] = ()  # of a cross-validation; `evaluation` is then of all of them
    search: Search | None = None
    boxes: BoxFigures | None = None
    pictures: Callable[[int], np.ndarray] | None = None  # index in the evaluated split → [H, W, 3] uint8
    ood_pictures: Callable[[int], np.ndarray] | None = None  # index in the unknown ones → [H, W, 3] uint8
    corrupted: Sequence[Shown] = ()  # one picture, clean and in each corruption
    history: Sequence[figures.Row] = ()  # the rows of metrics.csv
    class_names: Sequence[str] = ()  # for `splits`; left out, the evaluation's
    splits: Mapping[str, Sequence[int]] = field(default_factory=dict)  # split → number of pictures of each class
    splits_note: str = ""
    augmented: np.ndarray | None = None  # [M, H, W, 3] uint8
    augmented_labels: Sequence[str] = ()  # M class names
    notes: Sequence[str] = ()  # warnings: leaks, files left out


def environment() -> Environment:
    """What every page of ours is made in."""
    made = Environment(
        loader=PackageLoader("wideresnet", "report"),
        autoescape=True,  # every name is a stranger's: a class called <b> is shown, not obeyed
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": percent, "number": _number, "picture": _picture, "short": _short}
    made.filters["large"] = lambda image: _picture(image, image.shape[1], image.shape[0])
    return made


def build(subject: Subject) -> str:
    """The page, encodable as UTF-8 whatever the names hold. Raises ValueError if `splits` fits no class names."""
    page = (
        environment()
        .get_template("template.html.j2")
        .render(
            subject=subject,
            curves=_curves(subject.history),
            search=_searched(subject.search),
            found=subject.boxes,
            pr_curves=None if subject.boxes is None else figures.precision_recall(subject.boxes.curves),
            split_table=_split_table(subject),
            augmented=_augmented(subject),
            open_rows=OPEN_ROWS,
            **_evaluated(subject),
        )
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # a file name that is no text holds lone surrogates


def _curves(history: Sequence[figures.Row]) -> list[tuple[str, str]]:
    """(caption, SVG) of each curve that has a point."""
    drawn = []
    if figures.has(history, "train_loss", "val_loss"):
        drawn.append(("Loss", figures.loss_curve(history)))
    if figures.has(history, "train_accuracy", "val_accuracy"):
        drawn.append(("Accuracy", figures.accuracy_curve(history)))
    if figures.has(history, "val_ap"):
        drawn.append(("Average precision on val", figures.ap_curve(history)))
    if figures.has(history, "lr"):
        drawn.append(("Learning rate", figures.lr_curve(history)))
    return drawn


def _searched(search: Search | None) -> dict[str, Any] | None:
    """What the template asks about a search: drawings, and the trials best first."""
    if search is None:
        return None
    best_first = sorted(search.trials, key=lambda row: (row["state"] != "done", -float(row["score"] or 0)))
    return {
        "history": figures.search_history(search.trials),
        "slices": [(field, figures.search_slice(search.trials, field, log)) for field, log in search.axes.items()],
        "importance": sorted(search.importance.items(), key=lambda item: -item[1]),
        "trials": best_first,
        "fields": list(search.axes),
        "best": search.best,
    }


def _evaluated(subject: Subject) -> dict[str, Any]:
    """What the template asks about the evaluation; each property computed once."""
    evaluation = subject.evaluation
    if evaluation is None:
        return {"evaluation": None}
    names = evaluation.class_names
    classes = list(zip(names, evaluation.per_class, evaluation.recall_intervals, strict=True))
    hardest = sorted(classes, key=lambda row: 2.0 if row[1].recall is None else row[1].recall)
    predicted, confidence = evaluation.predicted, evaluation.confidence
    raw = evaluation.raw
    other = None if evaluation.against is None else evaluation.against.predicted
    curve, abstaining = evaluation.risk_coverage, evaluation.abstaining
    two, errs = evaluation.two_classes, evaluation.correct < evaluation.num_images
    return {
        "evaluation": evaluation,
        "summary": evaluation.summary,
        "comparison": evaluation.comparison,
        "other_of": lambda index: "" if other is None else names[other[index]],
        "differing": DIFFERING,
        "groups": evaluation.per_group,
        "two": two,
        "roc": two and figures.roc(two),
        "precision_recall": two and figures.precision_against_recall(two.recall, two.precision, "the class looked for"),
        "raw": raw,
        "risk_coverage": figures.risk_coverage(curve, abstaining) if errs or abstaining else None,
        "abstaining": abstaining,
        "aurc": curve.area,
        "averages": evaluation.averages,
        "classes": hardest,
        "matrix": _matrix(evaluation) if evaluation.num_classes > 1 else None,
        "reliability": figures.reliability(evaluation.reliability, None if raw is None else raw.reliability),
        "unknown_scores": None if evaluation.ood is None else figures.unknown_scores(evaluation.ood),
        "unnoticed": [] if evaluation.ood is None else evaluation.ood.most_known(DIFFERING),
        "score_in_words": None if evaluation.ood is None else SCORES[evaluation.ood.score],
        "corruption_curve": None
        if evaluation.corruptions is None
        else figures.corruption_curve(evaluation.corruptions),
        "mistakes": evaluation.worst_mistakes(MISTAKES),
        "pairs": evaluation.confused_pairs(PAIRS, EXAMPLES),
        "label_of": lambda index: names[evaluation.labels[index]],
        "predicted_of": lambda index: names[predicted[index]],
        "confidence_of": lambda index: float(confidence[index]),
    }


def _matrix(evaluation: Evaluation) -> dict[str, Any]:
    """The confusion matrix, or of many classes the part with most confusions and a column for all the others."""
    counts = evaluation.confusion
    whole = evaluation.num_classes <= MATRIX_CLASSES
    shown = list(range(evaluation.num_classes)) if whole else evaluation.confused_classes(MATRIX_CLASSES)
    rows = []
    for label in shown:
        total = int(counts[label].sum())
        cells = [
            {"count": int(counts[label, other]), "share": counts[label, other] / max(total, 1), "right": other == label}
            for other in shown
        ]
        rows.append({"label": label, "cells": cells, "elsewhere": total - sum(cell["count"] for cell in cells)})
    longest = max((len(evaluation.class_names[label]) for label in shown), default=0)
    return {"whole": whole, "shown": shown, "rows": rows, "longest_name": longest}


def _split_table(subject: Subject) -> list[tuple[str, list[int]]] | None:
    """(class name, pictures in each split), in class order."""
    if not subject.splits:
        return None
    names = subject.class_names or (subject.evaluation.class_names if subject.evaluation else ())
    columns = [list(counts) for counts in subject.splits.values()]
    return [(name, [int(count) for count in counts]) for name, *counts in zip(names, *columns, strict=True)]


def _augmented(subject: Subject) -> list[tuple[np.ndarray, str]]:
    if subject.augmented is None:
        return []
    return list(zip(subject.augmented, subject.augmented_labels, strict=True))[:AUGMENTED]


def percent(share: float | None, decimals: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{decimals}f}\N{NARROW NO-BREAK SPACE}%"


def _number(count: int) -> str:
    return f"{count:,}"


def _short(value: float | str | None) -> str:
    """A hyper-parameter in three digits."""
    return "–" if value is None or value == "" else f"{float(value):.3g}"


def _picture(image: np.ndarray, most_wide: int = THUMBNAIL_PX, most_high: int = THUMBNAIL_PX) -> dict[str, Any]:
    """[H, W, 3] uint8 → {"uri", "height", "width", "pixels": whether to show it pixel by pixel}."""
    height, width = image.shape[:2]
    picture = Image.fromarray(np.ascontiguousarray(image))
    tiny = max(height, width) <= TINY_PX
    if not tiny:
        picture.thumbnail((most_wide, most_high), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    if tiny:
        picture.save(content, "PNG", optimize=True)
    else:
        picture.save(content, "WEBP", quality=80)
    uri = f"data:image/{'png' if tiny else 'webp'};base64,{base64.b64encode(content.getvalue()).decode()}"
    return {"uri": uri, "height": picture.height, "width": picture.width, "pixels": tiny}
