"""What benchmarks/training.py has measured → the table and the picture of docs/numbers.md."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from inference_table import Mark, Row, Timing, rate_cell, sgemm_peaks
from training_engines import OURS, SETTINGS

# Blue: NCHW, green: channels last; square: eager, diamond: compiled; hollow: half precision.
MARKS = {OURS: Mark("#d55e00", "o")} | {
    name: Mark("#009e73" if s.channels_last else "#0072b2", "D" if s.compiled else "s", filled=not s.bf16)
    for name, s in SETTINGS.items()
}
SAYS = "images/s of training steps, torch's best setting in float32 = 1 (two threads, 32×32)"
Of = Literal["min_s", "median_s"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """macs: of a forward pass of one image, as a direct convolution counts; sgd: torch's fastest update; fell_back: why
    torch computed what is called ours, empty where it did not; a Timing's error: of the loss of the second step."""

    row: Row
    engines: Mapping[str, Timing]
    macs: int
    sgemm_gflops: Mapping[str, float]
    sgd: str
    fell_back: Sequence[str]
    machine: str
    isa: str
    versions: Mapping[str, str]
    commit: str
    date: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Measured":
        engines = {name: Timing(**fields) for name, fields in values["engines"].items()}
        return cls(**{**values, "row": Row(**values["row"]), "engines": engines})

    def images_per_s(self, engine: str, of: Of) -> float:
        """NaN where it was not measured."""
        seconds: float | None = getattr(self.engines[engine], of)
        return math.nan if seconds is None else self.row.batch / seconds

    def best_peer(self, of: Of) -> float:
        """Images/s of torch's best setting in float32."""
        return self._best(of, [name for name, s in SETTINGS.items() if not s.bf16])

    def best_of_all(self, of: Of) -> float:
        """The same, half precision too."""
        return self._best(of, list(SETTINGS))

    def ratio(self, of: Of) -> float:
        return self.images_per_s(OURS, of) / self.best_peer(of)

    def _best(self, of: Of, names: Sequence[str]) -> float:
        rates = [self.images_per_s(name, of) for name in names if not self.engines[name].failed]
        return max(rates, default=math.nan)


def tables(measured: Sequence[Measured]) -> str:
    """The table, and what it takes to read it."""
    peaks = sgemm_peaks(measured)
    fields = ["network", "batch", *MARKS, "ours / best float32", "ours / best of all", "of sgemm"]
    lines = [f"| {' | '.join(fields)} |\n|{' --- |' * len(fields)}"]
    for each in measured:
        rates = {name: each.images_per_s(name, "min_s") for name in MARKS}
        # Each of the two gradients takes as many multiplications as the forward pass.
        share = 3 * 2 * each.macs * rates[OURS] / (1e9 * peaks[each.row.threads][0])
        cells = [
            each.row.network.upper().replace("_", "-"),
            str(each.row.batch),
            *map(rate_cell, rates.values()),
            f"**{each.ratio('min_s'):.2f}** ({each.ratio('median_s'):.2f})",
            f"{rates[OURS] / each.best_of_all('min_s'):.2f}",
            f"{100 * share:.0f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    says = []
    for name in MARKS:
        errors = [each.engines[name].error or 0 for each in measured]
        says.append(f"{name}: loss of the second step within {max(errors, default=0):.1e} of torch's in float32.")
    for threads, (gflops, way) in sorted(peaks.items(), reverse=True):
        says.append(f"sgemm with {threads} threads: at most {gflops:.0f} GFLOP/s ({way}).")
    for what in sorted({(each.machine, each.isa, each.date, each.commit, *each.versions.items()) for each in measured}):
        machine, isa, date, commit, *versions = what
        packages = ", ".join(" ".join(pair) for pair in versions)
        says.append(f"{machine}, ours with {isa}; {date}, commit {commit}; {packages}.")
    for each in measured:
        says += [f"{each.row.name}: torch's update: {each.sgd}."]
        says += [f"{each.row.name}: ours is not ours: {line}." for line in each.fell_back]
        says += [f"{each.row.name}: {name}: {one.failed}." for name, one in each.engines.items() if one.failed]
    return "\n".join([*lines, "", *says])
