"""Training steps on the CPU: our kernels against torch's settings, alternating in one process.

    python benchmarks/training.py OUT.jsonl [--only wrn_16_2,wrn_28_10:32]
    python benchmarks/training.py OUT.jsonl --table

measures one row after the other (NETWORK:BATCH:PIXELS:THREADS), each in a process of its own, and adds it to OUT.jsonl
when it is done; rows that are there are not measured again. At the end, or with --table alone, it prints the Markdown
of docs/numbers.md and draws OUT.svg. Every setting is tried briefly, then ours and the fastest take turns. At batch 128
a setting is left out that was slower by a fifth at batch 32. Half of the time goes to torch.compile, the first time.

    python benchmarks/training.py memory        # peak resident memory of a step
    python benchmarks/training.py processes     # two processes of one thread against one of two threads
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
import training_process
from inference import NETWORKS, PAUSE_S, alternate, chosen, circumstances, one_by_one, sgemm_gflops, summed_up, timed
from inference_table import Row, Timing, draw
from training_engines import (
    OURS,
    SETTINGS,
    Setting,
    Step,
    batch_of,
    fallbacks,
    fastest_sgd,
    has_bf16,
    network,
    our_step,
    torch_step,
)
from training_table import MARKS, SAYS, Measured, tables

from wideresnet import runtime
from wideresnet.model import count_macs

BATCHES = (32, 128)
ROWS = tuple(Row(name, batch, 32, 2) for name in NETWORKS for batch in BATCHES)
TRIED_S = 1.0  # of each setting; at least one step after two that warm up, of which the second counts if it is long
NEAR = 1.05  # times as slow as the fastest: takes turns with ours
HOPELESS = 1.25  # times as slow as the fastest of its precision at the smaller batch: not tried at the larger
# Of the loss of the second step, which knows the gradient; float32 has 1e-6 to 1e-4, as roundings flip ReLUs.
LARGEST_ERROR = {False: 5e-3, True: 1e-1}


def measure(row: Row, hopeless: Mapping[str, str]) -> Measured:
    """One row, in a process that has been started with its number of threads in the environment. `hopeless`: settings
    that are not tried, and why."""
    torch.set_num_threads(row.threads)
    peaks = [sgemm_gflops(row.threads)]
    sgd = fastest_sgd(network(row.network))
    with runtime.memory_kept():  # as `wrn train` does; faster for all
        steps, seconds, timings = tried(row, sgd, hopeless)
        steps = {name: steps[name] for name in finalists(seconds)}  # the others' memory is free
        for name, values in alternate(steps).items():
            seconds[name] += values
    peaks.append(sgemm_gflops(row.threads))
    summed_up(seconds, timings)
    return Measured(
        row=row,
        engines={name: timings[name] for name in MARKS},
        macs=count_macs(network(row.network), row.pixels, row.pixels),
        sgd=sgd,
        fell_back=fallbacks(),
        **circumstances(peaks, ("torch", "numpy")),
    )


def tried(
    row: Row, sgd: str, hopeless: Mapping[str, str]
) -> tuple[dict[str, Step], dict[str, list[float]], dict[str, Timing]]:
    """Steps that train as torch does in float32, and seconds of some of each; errors, and what is wrong with others."""
    steps: dict[str, Step] = {}
    seconds: dict[str, list[float]] = {}
    timings: dict[str, Timing] = {}
    expected, fastest = None, list[float]()
    images, labels = batch_of(row.batch, row.pixels)
    plain: dict[str, Setting | None] = {**SETTINGS, OURS: None}
    for name, setting in plain.items():
        if reason := hopeless.get(name):
            timings[name] = Timing(failed=reason)
            continue
        model = network(row.network)
        step = our_step(model, images, labels) if setting is None else torch_step(model, images, labels, setting, sgd)
        try:
            step()
            started = time.perf_counter()
            loss = step().item()
            took = time.perf_counter() - started
        except RuntimeError as error:  # torch.compile may fail where there is no compiler; that is a cell, not the end
            if setting is None:
                raise
            timings[name] = Timing(failed=f"{type(error).__name__}: {error}".splitlines()[0])
            continue
        expected = loss if expected is None else expected
        wrong = abs(loss - expected) / abs(expected)
        timings[name] = Timing(error=wrong)
        if not wrong <= LARGEST_ERROR[setting is not None and setting.bf16]:  # NaN is not
            timings[name] = Timing(error=wrong, failed=f"the loss after an update is {loss}, torch's {expected}")
            continue
        steps[name] = step
        # Long steps are not repeated, but where something else may have been in the way.
        again = max(3, int(TRIED_S / took)) if took < TRIED_S else 3 if took > 2 * min([took, *fastest]) else 0
        seconds[name] = [took, *(timed(step) for _ in range(again))]
        fastest.append(min(seconds[name]))
        time.sleep(PAUSE_S)
    return steps, seconds, timings


def finalists(seconds: Mapping[str, list[float]]) -> list[str]:
    """Ours, the two fastest of torch's settings in float32, and what is near the fastest of its precision or of all."""
    best = {name: min(values) for name, values in seconds.items() if name != OURS}
    fp32 = sorted((name for name in best if not SETTINGS[name].bf16), key=best.__getitem__)
    near = [name for name in fp32[2:] if best[name] <= NEAR * best[fp32[0]]]
    fast = [name for name in best if SETTINGS[name].bf16 and best[name] <= NEAR * min(best.values())]
    return [OURS, *fp32[:2], *near, *fast]


def hopeless_ones(row: Row, done: list[Measured]) -> dict[str, str]:
    """Settings not worth a try, and why."""
    found = {} if has_bf16() else {name: "no bfloat16 in this processor" for name, s in SETTINGS.items() if s.bf16}
    smaller = [each for each in done if each.row.network == row.network and each.row.batch < row.batch]
    for each in smaller[:1]:
        for bf16 in (False, True):
            rates = {name: each.images_per_s(name, "min_s") for name, s in SETTINGS.items() if s.bf16 == bf16}
            best = max((rate for rate in rates.values() if not math.isnan(rate)), default=0)  # without NaN
            for name, rate in rates.items():
                if rate < best / HOPELESS:
                    found[name] = f"not tried: {best / rate:.2f} times as slow as another at batch {each.row.batch}"
    return found


def speed(out: Path, only: list[str], table: bool) -> None:
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    done = [Measured.from_dict(json.loads(line)) for line in lines]
    for row in [] if table else chosen(ROWS, only):
        one_by_one(out, [row], done, partial(measure, hopeless=hopeless_ones(row, done)))
    done.sort(key=lambda each: ROWS.index(each.row))
    print(f"\n{tables(done)}")
    draw(done, out.with_suffix(".svg"), marks=MARKS, says=SAYS, salt="training", inches=4.8)


def main() -> None:
    if sys.argv[1:] == ["memory"]:
        training_process.memory()
        return
    if sys.argv[1:] == ["processes"]:
        training_process.processes()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT.jsonl | memory | processes", type=Path)
    parser.add_argument("--only", default="", help="rows, or the first parts of their names, with commas between")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    speed(arguments.out, [name for name in arguments.only.split(",") if name], arguments.table)


if __name__ == "__main__":
    main()
