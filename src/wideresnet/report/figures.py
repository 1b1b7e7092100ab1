"""Numbers → inline SVG whose colours and fonts are the page's own, so that it follows light and dark; one picture of
its own is a PNG. Draws with matplotlib's objects, never through pyplot; opens no window and writes no file."""

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from wideresnet.corruptions import CorruptionFigures
from wideresnet.evaluation import Abstaining, OodFigures
from wideresnet.metrics import ReliabilityBins, RiskCoverage, TwoClasses

# A row of metrics.csv: as numbers, or as csv.DictReader gives it (text, and "" for what was not measured).
Row = Mapping[str, float | str | None]

# matplotlib knows no CSS variables: it draws in these colours, and `_svg` puts the page's in their place.
_ACCENT, _INK, _SOFT, _FAINT, _LINE = "#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005"
_COLOURS = {_ACCENT: "accent", _INK: "ink", _SOFT: "soft", _FAINT: "faint", _LINE: "line"}
_HEIGHT = 240  # px; a figure is about as wide on a phone as drawn, so that its text keeps its size
_LEFT, _RIGHT, _BOTTOM, _TOP = 48, 12, 44, 30  # px around the axes, the same for all, so that neighbours line up


def column(history: Sequence[Row], key: str) -> np.ndarray:
    """One column of metrics.csv, [epochs] float64; NaN where absent or blank."""
    values = (row.get(key) for row in history)
    return np.array([math.nan if value is None or value == "" else float(value) for value in values])


def has(history: Sequence[Row], *keys: str) -> bool:
    """Whether any of these columns holds a number."""
    return any(np.isfinite(column(history, key)).any() for key in keys)


def loss_curve(history: Sequence[Row]) -> str:
    figure, axes = _empty(340)
    _train_and_val(axes, history, "loss")
    return _svg(figure, "Loss of the training and validation pictures after each epoch")


def accuracy_curve(history: Sequence[Row]) -> str:
    figure, axes = _empty(340)
    _train_and_val(axes, history, "accuracy")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter(_percent(decimals=0 if high - low > 0.05 else 1))
    return _svg(figure, "Accuracy on the training and validation pictures after each epoch")


def corruption_curve(found: CorruptionFigures) -> str:
    """Accuracy from clean (0) to severity 5, a line for each group of corruptions."""
    figure, axes = _empty(400, height=280, left=62)
    styles = ((_ACCENT, "-"), (_INK, "-"), (_FAINT, "-"), (_ACCENT, (0, (2, 2))))
    for (group, accuracy), (colour, style) in zip(found.by_group.items(), styles, strict=True):
        line = [found.clean_accuracy, *accuracy]
        axes.plot(range(6), line, color=colour, linestyle=style, linewidth=2, label=group, clip_on=False)
    axes.set(xlim=(0, 5), ylim=(0, 1), xlabel="severity; 0 is clean", ylabel="accuracy")
    axes.yaxis.set_major_formatter(_percent(decimals=0))
    _legend(axes, columns=4)
    return _svg(figure, "Accuracy on corrupted pictures against the severity, by group of corruptions")


def unknown_scores(found: OodFigures) -> str:
    """How the scores of known and of unknown pictures are spread, and the threshold between."""
    figure, axes = _empty(400, height=280, left=62)
    both = np.concatenate([found.known, found.unknown])
    low, high = np.quantile(both, [0.002, 0.998])  # a few far away would press all the others flat
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    edges = np.linspace(low, high, 41)
    for scores, colour, label in ((found.known, _ACCENT, "known"), (found.unknown, _INK, "unknown")):
        shares = np.histogram(scores.clip(low, high), edges)[0] / len(scores)
        axes.stairs(shares, edges, color=colour, linewidth=2, label=label, clip_on=False)
        axes.stairs(shares, edges, color=colour, fill=True, alpha=0.15)
    if found.threshold is not None and low <= found.threshold <= high:
        style: dict[str, Any] = {"color": _SOFT, "linewidth": 1, "linestyle": (0, (4, 4)), "label": "threshold"}
        axes.axvline(found.threshold, **style)
    axes.set(xlim=(low, high), xlabel="score: to the right, more unknown", ylabel="pictures")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(_percent(decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    _legend(axes, columns=3)
    return _svg(figure, "How the scores of known and of unknown pictures are spread")


def ap_curve(history: Sequence[Row]) -> str:
    figure, axes = _empty(340)
    epochs = column(history, "epoch")
    for key, colour, label in (("val_ap50", _FAINT, "AP50"), ("val_ap", _ACCENT, "AP")):
        _line(axes, epochs, column(history, key), color=colour, label=label)
    axes.set_ylim(bottom=0)
    _legend(axes)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(_percent(decimals=0))
    return _svg(figure, "Average precision on the validation pictures after each epoch")


def precision_recall(curves: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """A drawing for each class: precision [101] at the recalls 0, 0.01, …, 1."""
    each = enumerate(curves.items(), 1)
    recall = [np.linspace(0, 1, len(precision)) for precision in curves.values()]
    return [(name, precision_against_recall(recall[i - 1], curve, f"class {i}")) for i, (name, curve) in each]


def precision_against_recall(recall: np.ndarray, precision: np.ndarray, what: str) -> str:
    figure, axes = _empty(300, height=220, left=62)
    axes.plot(recall, precision, color=_ACCENT, linewidth=2, clip_on=False)
    axes.fill_between(recall, precision, color=_ACCENT, alpha=0.12, linewidth=0)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    _in_percent(axes)
    return _svg(figure, f"Precision against recall, {what}")


def roc(two: TwoClasses) -> str:
    figure, axes = _empty(300, height=220, left=62)
    axes.plot([0, 1], [0, 1], color=_SOFT, linewidth=1, linestyle=(0, (4, 4)), clip_on=False)
    axes.plot(two.false_positive_rate, two.true_positive_rate, color=_ACCENT, linewidth=2, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="of the others, taken for one", ylabel="found")
    _in_percent(axes)
    return _svg(figure, "ROC: found against false alarms, at every threshold")


def risk_coverage(curve: RiskCoverage, chosen: Abstaining | None) -> str:
    """The share of wrong answers against that of pictures answered; the threshold chosen on val as a dot."""
    figure, axes = _empty(340, height=280, left=62)
    axes.plot(curve.coverage, curve.risk, color=_ACCENT, linewidth=2, clip_on=False, drawstyle="steps-post")
    if chosen is not None and chosen.answered:
        axes.scatter([chosen.coverage], [chosen.wrong / chosen.answered], 60, color=_INK, clip_on=False, zorder=3)
    most = float(curve.risk.max())
    axes.set(xlim=(0, 1), ylim=(0, max(1.1 * most, 0.01)), xlabel="pictures answered", ylabel="wrong answers")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(_percent(decimals=0))
    axes.yaxis.set_major_formatter(_percent(decimals=0 if most > 0.25 else 1))
    return _svg(figure, "Wrong answers against pictures answered, the surest first")


def lr_curve(history: Sequence[Row]) -> str:
    figure, axes = _empty(260)
    _line(axes, column(history, "epoch"), column(history, "lr"), color=_INK)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return _svg(figure, "Learning rate of each epoch")


def lr_plot(lrs: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggested: float) -> bytes:
    """PNG of the learning-rate range test: each step's loss, the smoothed one, the suggested rate. One point a step."""
    figure = Figure(figsize=(7, 4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(lrs, losses, color="#b8bec7", linewidth=1, label="loss of each batch")
    axes.plot(lrs, smoothed, color="#2458c5", linewidth=2, label="smoothed")
    axes.axvline(suggested, color="#c5501f", linewidth=1.5, linestyle="--", label=f"suggested: {suggested:g}")
    axes.set_xscale("log")
    # The steps in which it diverges would press all the others flat.
    axes.set_ylim(0, 1.2 * max(smoothed[0], min(smoothed)))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def reliability(bins: ReliabilityBins, raw: ReliabilityBins | None = None) -> str:
    """One dot a bin, its area its number of pictures; a stem from the dot to the diagonal, where it should lie. raw: of
    the same answers without the temperature, as rings."""
    figure, axes = _empty(340, height=320, left=62)
    axes.plot([0, 1], [0, 1], color=_SOFT, linewidth=1, linestyle=(0, (4, 4)), clip_on=False)
    there = bins.counts > 0
    confidence, accuracy, counts = bins.confidence[there], bins.accuracy[there], bins.counts[there]
    axes.vlines(confidence, accuracy, confidence, color=_ACCENT, linewidth=1.5, clip_on=False)
    areas = 12 + 600 * counts / bins.counts.sum()
    axes.scatter(confidence, accuracy, areas, color=_ACCENT, alpha=0.75, linewidths=0, clip_on=False, zorder=3)
    if raw is not None:
        shown = raw.counts > 0
        ring: dict[str, Any] = {"facecolors": "none", "edgecolors": _SOFT, "linewidths": 1.2, "clip_on": False}
        axes.scatter(raw.confidence[shown], raw.accuracy[shown], 36, **ring)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="how sure it was", ylabel="how often it was right")
    _in_percent(axes)
    return _svg(figure, "Reliability diagram: share of right answers against confidence")


def search_history(trials: Sequence[Row]) -> str:
    """A dot for the score of each trial, filled if it ran to the end; a line for the best so far."""
    figure, axes = _empty(620, left=62)
    number = column(trials, "trial")
    axes.step(number, column(trials, "best"), where="post", color=_ACCENT, linewidth=2, clip_on=False)
    _dots(axes, trials, number)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set(xlim=(0.5, len(trials) + 0.5), xlabel="trial", ylabel="score")
    _score_axis(axes)
    return _svg(figure, "Score of each trial, and the best so far")


def search_slice(trials: Sequence[Row], field: str, log: bool) -> str:
    """The score against one hyper-parameter, a dot a trial, whatever the others were."""
    figure, axes = _empty(340, left=62)
    _dots(axes, trials, column(trials, field))
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=8))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.set(xlabel=field, ylabel="score")
    _score_axis(axes)
    return _svg(figure, f"Score against {field}")


def _dots(axes: Axes, trials: Sequence[Row], x: np.ndarray) -> None:
    score, done = column(trials, "score"), np.array([row["state"] == "done" for row in trials])
    style: dict[str, Any] = {"clip_on": False, "zorder": 3, "linewidths": 1.5}
    axes.scatter(x[~done], score[~done], 30, facecolors="none", edgecolors=_FAINT, **style)
    axes.scatter(x[done], score[done], 36, facecolors=_ACCENT, edgecolors=_ACCENT, alpha=0.75, **style)


def _score_axis(axes: Axes) -> None:
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(_percent(decimals=0 if high - low > 0.05 else 1))


def _empty(width: int, height: int = _HEIGHT, left: int = _LEFT) -> tuple[Figure, Axes]:
    """A bare figure of so many CSS pixels with the house's axes: no box, faint horizontal lines, no ticks."""
    figure = Figure(figsize=(width / 72, height / 72))  # an SVG of 72 dpi: points are pixels
    figure.subplots_adjust(left / width, _BOTTOM / height, 1 - _RIGHT / width, 1 - _TOP / height)
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.grid(axis="y", color=_LINE, linewidth=1, clip_on=False)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=_SOFT, labelsize=11, pad=6)
    axes.xaxis.label.set(color=_SOFT, fontsize=11)
    axes.yaxis.label.set(color=_SOFT, fontsize=11)
    return figure, axes


def _train_and_val(axes: Axes, history: Sequence[Row], what: str) -> None:
    epochs = column(history, "epoch")
    for split, colour in (("train", _FAINT), ("val", _ACCENT)):
        if has(history, f"{split}_{what}"):
            _line(axes, epochs, column(history, f"{split}_{what}"), color=colour, label=split)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    _legend(axes)


def _legend(axes: Axes, columns: int = 2) -> None:
    above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.4, "borderpad": 0}
    axes.legend(
        **above, ncols=columns, columnspacing=1.2, frameon=False, fontsize=11, labelcolor=_INK, handlelength=1.6
    )


def _line(axes: Axes, epochs: np.ndarray, values: np.ndarray, **style: Any) -> None:
    measured = np.isfinite(values)  # validation may come every few epochs: join what there is
    alone = int(measured.sum()) == 1  # a line through one point shows nothing
    axes.plot(epochs[measured], values[measured], linewidth=2, clip_on=False, marker="o" if alone else "", **style)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    if len(epochs) > 1:
        axes.set_xlim(epochs[0], epochs[-1])
    axes.set_xlabel("epoch")


def _in_percent(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_percent(decimals=0))


def _percent(decimals: int) -> FuncFormatter:
    return FuncFormatter(lambda share, _: f"{100 * share:.{decimals}f}\N{NARROW NO-BREAK SPACE}%")


def _svg(figure: Figure, label: str) -> str:
    """SVG element without size, style sheet, metadata or prologue; ids are its own among the page's figures."""
    text = io.StringIO()
    unnamed = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(text, format="svg", metadata=unnamed)
    drawing = text.getvalue()
    view_box = re.search(r'viewBox="([\d. ]+)"', drawing)
    assert view_box is not None  # matplotlib always writes one
    body = drawing[drawing.index(">", view_box.end()) + 1 :]
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)  # its rule `*` would reach the whole page
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)  # the family is the page's
    for drawn, css in _COLOURS.items():
        body = body.replace(drawn, f"var(--{css})")
    body = body.replace("xlink:href", "href")
    used = set(re.findall(r'href="#([^"]+)"', body))  # those carry a hash; the others (axes_1) recur in each figure
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", body)
    return f'<svg viewBox="{view_box[1]}" role="img" aria-label="{html.escape(label)}">{body}'
