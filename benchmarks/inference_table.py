"""What benchmarks/inference.py has measured → the tables of docs/numbers.md and the picture of README.md.

`draw` makes the picture of benchmarks/training.py too.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self


@dataclass(frozen=True, slots=True)
class Mark:
    """How an engine is drawn."""

    colour: str
    marker: str
    filled: bool = True


MARKS = {  # Okabe and Ito's colours, which the colour-blind tell apart too
    "ours": Mark("#d55e00", "o"),
    "torch": Mark("#999999", "s"),
    "torch.compile": Mark("#000000", "D"),
    "ONNX Runtime": Mark("#0072b2", "^"),
    "OpenVINO": Mark("#009e73", "v"),
    "ncnn": Mark("#cc79a7", "P"),
}
Of = Literal["min_s", "median_s"]
SAYS = "images/s, the best of the other engines = 1 (two threads, 32×32, float32)"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: `batch` images of pixels × pixels at a time."""

    network: str
    batch: int
    pixels: int
    threads: int

    @property
    def name(self) -> str:
        return f"{self.network}:{self.batch}:{self.pixels}:{self.threads}"

    def fits(self, pattern: str) -> bool:
        return f"{self.name}:".startswith(f"{pattern}:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One engine in one row; None where it has none, for the reason in `failed`. error: largest difference of a logit
    from float64's, of the largest logit."""

    min_s: float | None = None
    median_s: float | None = None
    calls: int = 0
    error: float | None = None
    failed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A row that has been measured, of inference or training. macs: multiplications of an image without transforms;
    sgemm_gflops by library."""

    row: Row
    engines: Mapping[str, Timing]
    macs: int
    sgemm_gflops: Mapping[str, float]
    machine: str
    isa: str
    versions: Mapping[str, str]
    commit: str
    date: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        engines = {name: Timing(**fields) for name, fields in values["engines"].items()}
        return cls(**{**values, "row": Row(**values["row"]), "engines": engines})

    def images_per_s(self, engine: str, of: Of) -> float:
        """NaN where it was not measured."""
        seconds: float | None = getattr(self.engines[engine], of)
        return math.nan if seconds is None else self.row.batch / seconds

    def best(self, of: Of, names: Iterable[str]) -> float:
        """Images/s of the best of these; NaN where all failed."""
        rates = [self.images_per_s(name, of) for name in names if not self.engines[name].failed]
        return max(rates, default=math.nan)

    def best_peer(self, of: Of) -> float:
        return self.best(of, [name for name in self.engines if name != "ours"])

    def ratio(self, of: Of) -> float:
        return self.images_per_s("ours", of) / self.best_peer(of)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Compared):
    """true_macs: the multiplications that our kernels did."""

    true_macs: int


def tables(measured: Sequence[Measured]) -> str:
    """The main table, the second one, and what it takes to read them."""
    peaks = sgemm_peaks(measured)
    main = [each for each in measured if each.row.pixels == 32 and each.row.threads == 2]
    parts = [_table(part, peaks) for part in (main, [each for each in measured if each not in main]) if part]
    errors = {name: max((each.engines[name].error or 0 for each in measured), default=0) for name in MARKS}
    says = [f"Largest error: {', '.join(f'{name} {error:.1e}' for name, error in errors.items())}."]
    says += circumstances(measured)
    return "\n\n".join([*parts, "\n".join(says)])


def circumstances(measured: Sequence[Compared]) -> Iterator[str]:
    """What it takes to read any table: the machine's speed and name, versions, what failed."""
    for threads, (gflops, way) in sorted(sgemm_peaks(measured).items(), reverse=True):
        yield f"sgemm with {threads} thread{'s' * (threads > 1)}: at most {gflops:.0f} GFLOP/s ({way})."
    for what in sorted({(each.machine, each.isa, each.date, each.commit, *each.versions.items()) for each in measured}):
        machine, isa, date, commit, *versions = what
        packages = ", ".join(" ".join(pair) for pair in versions)
        yield f"{machine}, ours with {isa}; {date}, commit {commit}; {packages}."
    for each in measured:
        yield from (f"{each.row.name}: {name}: {one.failed}." for name, one in each.engines.items() if one.failed)


def sgemm_peaks(measured: Sequence[Compared]) -> dict[int, tuple[float, str]]:
    """The best sgemm that was seen anywhere with so many threads, and whose."""
    peaks: dict[int, tuple[float, str]] = {}
    for each in measured:
        here = max((gflops, way) for way, gflops in each.sgemm_gflops.items())
        peaks[each.row.threads] = max(peaks.get(each.row.threads, here), here)
    return peaks


def _table(measured: Sequence[Measured], peaks: Mapping[int, tuple[float, str]]) -> str:
    """Images/s by each engine's fastest call; in brackets what the medians say."""
    fields = ["network", "batch, size, threads", *MARKS, "ours / best peer", "of sgemm: direct, true"]
    lines = [f"| {' | '.join(fields)} |", f"|{' --- |' * len(fields)}"]
    for each in measured:
        row, peak = each.row, peaks[each.row.threads][0] * 1e9
        rates = [each.images_per_s(name, "min_s") for name in MARKS]
        shares = [2 * macs * each.images_per_s("ours", "min_s") / peak for macs in (each.macs, each.true_macs)]
        cells = [
            row.network.upper().replace("_", "-"),
            f"{row.batch}, {row.pixels}, {row.threads}",
            *map(rate_cell, rates),
            f"**{each.ratio('min_s'):.2f}** ({each.ratio('median_s'):.2f})",
            ", ".join(f"{100 * share:.0f} %" for share in shares),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def rate_cell(images_per_s: float) -> str:
    if math.isnan(images_per_s):
        return "–"
    return f"{images_per_s:,.0f}" if images_per_s >= 100 else f"{images_per_s:.1f}"


def draw(
    measured: Sequence[Compared],
    path: Path,
    *,
    marks: Mapping[str, Mark] = MARKS,
    says: str = SAYS,
    salt: str = "inference",
    inches: float = 3.2,
) -> None:
    """The rows of 32×32 and two threads as dots: images/s of each engine, the best peer's being 1. Other ids within the
    file with another `salt`; `inches`: the width of the panel of a batch size."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = salt  # the same figures, the same file
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    main = [each for each in measured if each.row.pixels == 32 and each.row.threads == 2]
    if not main:
        return
    names = list(dict.fromkeys(each.row.network for each in main))
    batches = sorted({each.row.batch for each in main})
    figure, panels = plt.subplots(
        1,
        len(batches),
        figsize=(inches * len(batches), 1.5 + 0.4 * len(names)),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for panel, batch in zip(panels[0], batches, strict=True):
        for each in (each for each in main if each.row.batch == batch):
            y, best = names.index(each.row.network), each.best_peer("min_s")
            panel.plot([1, each.ratio("min_s")], [y, y], color=marks["ours"].colour, linewidth=2, alpha=0.4, zorder=1)
            for name, mark in marks.items():
                x = each.images_per_s(name, "min_s") / best
                inside = None if mark.filled else "white"
                size = 8 if name == "ours" else 5
                panel.plot(x, y, mark.marker, color=mark.colour, mfc=inside, markersize=size, zorder=2)
            panel.annotate(
                f"{each.ratio('min_s'):.1f}×", (each.ratio("min_s"), y), (7, -3.5), textcoords="offset points"
            )
        panel.axvline(1, color="#bbbbbb", linewidth=0.8, zorder=0)
        panel.set_title(f"batch {batch}", fontsize=10)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
    panels[0][0].set_yticks(range(len(names)), [name.upper().replace("_", "-") for name in names])
    panels[0][0].set_ylim(len(names) - 0.5, -0.5)
    panels[0][0].set_xlim(0, 1.2 * max(1.0, *(each.ratio("min_s") for each in main)))
    figure.supxlabel(says, fontsize=9)
    dots = [
        Line2D([], [], linestyle="", marker=mark.marker, color=mark.colour, mfc=None if mark.filled else "white")
        for mark in marks.values()
    ]
    columns = min(len(marks), 2 * len(batches))
    figure.legend(dots, list(marks), loc="upper center", ncols=columns, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.06 * math.ceil(len(marks) / columns)))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
