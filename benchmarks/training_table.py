"""What benchmarks/training.py has measured → the table and the picture of docs/numbers.md."""

from collections.abc import Sequence
from dataclasses import dataclass

from inference_table import Compared, Mark, Of, circumstances, rate_cell, sgemm_peaks
from training_engines import OURS, SETTINGS

# Blue: NCHW, green: channels last; square: eager, diamond: compiled; hollow: half precision.
MARKS = {OURS: Mark("#d55e00", "o")} | {
    name: Mark("#009e73" if s.channels_last else "#0072b2", "D" if s.compiled else "s", filled=not s.bf16)
    for name, s in SETTINGS.items()
}
SAYS = "images/s of training steps, torch's best setting in float32 = 1 (two threads, 32×32)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Compared):
    """sgd: torch's fastest update; fell_back: why torch computed what is called ours, empty where it did not. macs are
    of a forward pass, a Timing's error of the loss of the second step."""

    sgd: str
    fell_back: Sequence[str]

    def best_peer(self, of: Of) -> float:
        """Images/s of torch's best setting in float32; `best` of all settings knows half precision too."""
        return self.best(of, [name for name, s in SETTINGS.items() if not s.bf16])


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
            f"{rates[OURS] / each.best('min_s', SETTINGS):.2f}",
            f"{100 * share:.0f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    says = []
    for name in MARKS:
        errors = [each.engines[name].error or 0 for each in measured]
        says.append(f"{name}: loss of the second step within {max(errors, default=0):.1e} of torch's in float32.")
    says += circumstances(measured)
    for each in measured:
        says += [f"{each.row.name}: torch's update: {each.sgd}."]
        says += [f"{each.row.name}: ours is not ours: {line}." for line in each.fell_back]
    return "\n".join([*lines, "", *says])
