"""Inference on the CPU: our kernels against torch, ONNX Runtime, OpenVINO and ncnn, alternating in one process.

    python benchmarks/inference.py OUT.jsonl [--only wrn_16_2,wrn_28_10:16:32:2]
    python benchmarks/inference.py OUT.jsonl --table

measures one row after the other (NETWORK:BATCH:PIXELS:THREADS), each in a process of its own, and adds it to OUT.jsonl
when it is done; rows that are there are not measured again. At the end, or with --table alone, it prints the Markdown
of docs/numbers.md and draws OUT.svg. All rows take about half an hour on two cores with nothing beside.

    python benchmarks/inference.py memory                  # peak resident memory of a forward pass
    python benchmarks/inference.py predict MODEL FOLDER    # `wrn predict` from files to answers

The peers are not among this project's dependencies: pip install onnx onnxruntime openvino ncnn pnnx
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import inference_process
import numpy as np
import torch
from inference_engines import ENGINES, PEERS, Answer, accelerated, network
from inference_table import Compared, Measured, Row, Timing, draw, tables

from wideresnet.kernels import library
from wideresnet.model import WideResNetClassifier, count_macs

Done = TypeVar("Done", bound=Compared)

NETWORKS = ("wrn_16_1", "wrn_16_2", "wrn_28_2", "wrn_40_2", "wrn_16_4", "wrn_16_8", "wrn_28_10")
OTHERS = ("wrn_16_2", "wrn_16_4", "wrn_28_10")
ROWS = (
    *(Row(name, batch, 32, 2) for name in NETWORKS for batch in (1, 16, 64)),
    *(Row(name, 4, 64, 2) for name in OTHERS),
    *(Row(name, 16, 32, 1) for name in OTHERS),
)
ROUNDS, LEAST_S, MOST_S = (
    5,
    6.0,
    60.0,
)  # of a row: at least so many rounds and seconds; at most so many seconds, but 3 rounds
PAUSE_S = 0.05  # between engines: the threads of the one before spin for a while in the hope of more work
LARGEST_ERROR = 1e-3  # of the largest logit; float32 has 1e-6, half precision more than this


def measure(row: Row) -> Measured:
    """One row, in a process that has been started with its number of threads in the environment."""
    torch.set_num_threads(row.threads)
    model = network(row.network)
    x = torch.randn(row.batch, 3, row.pixels, row.pixels, generator=torch.Generator().manual_seed(1))
    peaks, true_macs = [sgemm_gflops(row.threads)], multiplied(model, x)
    timings: dict[str, Timing] = {}
    with tempfile.TemporaryDirectory() as folder:
        answers = ready(row, x, Path(folder), timings)
        with torch.inference_mode():
            seconds = alternate(answers)
    peaks.append(sgemm_gflops(row.threads))
    summed_up(seconds, timings)
    return Measured(
        row=row,
        engines={name: timings[name] for name in ENGINES},
        macs=count_macs(model, row.pixels, row.pixels),
        true_macs=true_macs,
        **circumstances(peaks, ("torch", "numpy", *PEERS)),
    )


def summed_up(seconds: Mapping[str, Sequence[float]], timings: dict[str, Timing]) -> None:
    """Fills the timings of those that were timed."""
    for name, values in seconds.items():
        best, median = min(values), statistics.median(values)
        timings[name] = Timing(min_s=best, median_s=median, calls=len(values), error=timings[name].error)


def circumstances(peaks: Sequence[Mapping[str, float]], packages: Iterable[str]) -> dict[str, Any]:
    """The fields of a Compared that say where it was measured. peaks: what sgemm did before and after."""
    loaded = library.load()
    assert isinstance(loaded, library.Library)
    return {
        "sgemm_gflops": {way: max(peak[way] for peak in peaks) for way in peaks[0]},
        "machine": machine(),
        "isa": next(iter(loaded.isas)),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def ready(row: Row, x: torch.Tensor, folder: Path, timings: dict[str, Timing]) -> dict[str, Answer]:
    """Engines that answer as float64 does. What is wrong with the others, and everyone's error, goes to `timings`."""
    some = x[:4]
    with torch.inference_mode():
        expected = network(row.network).double()(some.double()).numpy()
    answers = {}
    for name, build in ENGINES.items():
        try:
            answer = build(network(row.network), x, row.threads, folder)
            with torch.inference_mode():
                logits = np.asarray(answer(), dtype=np.float64)
        except Exception as error:  # whatever a peer raises is a row's cell, not the end of the row
            if name == "ours":
                raise
            timings[name] = Timing(failed=f"{type(error).__name__}: {error}".splitlines()[0])
            continue
        wrong = float(np.abs(logits[: len(some)] - expected).max() / np.abs(expected).max())
        timings[name] = Timing(error=wrong)
        if logits.shape == (row.batch, 10) and wrong <= LARGEST_ERROR:  # NaN is not
            answers[name] = answer
        else:
            timings[name] = Timing(error=wrong, failed=f"answers {list(logits.shape)} with an error of {wrong:.1e}")
    return answers


def alternate(answers: dict[str, Answer]) -> dict[str, list[float]]:
    """Seconds of each timed call: rounds over all engines, every other one backwards; in each a call to warm up, then
    about 0.1 s of timed ones. A call of a second or more has warmed up itself."""
    seconds: dict[str, list[float]] = {name: [] for name in answers}
    best: dict[str, float] = {}
    began, rounds = time.perf_counter(), 0
    while True:
        for name, answer in list(answers.items())[:: -1 if rounds % 2 else 1]:
            time.sleep(PAUSE_S)
            first = timed(answer)
            calls = min(max(int(0.1 / best.get(name, first)), 1), 100)
            seconds[name] += [first] if first >= 1 else [timed(answer) for _ in range(calls)]
            best[name] = min(seconds[name])
        rounds, took = rounds + 1, time.perf_counter() - began
        if (rounds >= ROUNDS and took >= LEAST_S) or (rounds >= 3 and took >= MOST_S):
            return seconds


def timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def multiplied(model: WideResNetClassifier, x: torch.Tensor) -> int:
    """Multiplications that our kernels really do for one image, by the plan that they made for this batch."""
    fast = accelerated(model)
    with torch.inference_mode():
        fast(x)
    *_, plan = fast._network(fast._chosen)._plans.values()  # the last used
    return sum(multiplications(op) for op in plan.ops)


def multiplications(op: library.Op) -> int:
    if op.kind == library.WINOGRAD:
        products = 81 if op.stride == 2 else (op.tile + 2) ** 2  # of a tile; 16 · 9 or 4 · 9 without transforms
        return int(products * -(-op.ho // op.tile) * -(-op.wo // op.tile) * op.c * op.k)
    if op.kind in (library.STEM, library.DIRECT):
        return int(op.size**2 * op.ho * op.wo * op.c * op.k)
    return int(op.c * op.k) if op.kind == library.HEAD else 0


def sgemm_gflops(threads: int) -> dict[str, float]:
    """The best that this machine was seen to do in float32: matrix products of torch, of numpy and of our own kernels,
    as MKL uses no AVX-512 on AMD. Best of several calls."""
    random = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(2048, 2048, generator=random) for _ in range(3))
    ways: dict[str, tuple[int, Callable[[], Any]]] = {
        "torch": (2048**3, lambda: torch.mm(a, b, out=c)),
        "numpy": (2048**3, lambda: np.matmul(a.numpy(), b.numpy(), out=c.numpy())),
        "ours": (64 * 64 * 512**2, our_matrix_product(threads)),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(3):
        for way, (_, call) in ways.items():
            time.sleep(PAUSE_S)
            first = timed(call)
            best[way] = min(best[way], first, *(timed(call) for _ in range(max(2, int(0.1 / first)))))
    return {way: 2e-9 * macs / best[way] for way, (macs, _) in ways.items()}


def our_matrix_product(threads: int) -> Callable[[], None]:
    """4096 × 512 times 512 × 512: a 1×1 convolution."""
    loaded = library.load()
    assert isinstance(loaded, library.Library)
    isa, side, channels = next(iter(loaded.isas)), 64, 512
    x, y = loaded.alloc(side * side * channels).normal_(), loaded.alloc(side * side * channels)
    op = library.Op(kind=library.DIRECT, n=1, h=side, w=side, ho=side, wo=side, c=channels, k=channels)
    op.size, op.stride, op.split, op.group, op.x, op.y = 1, 1, 4 * threads, 1, x.data_ptr(), y.data_ptr()
    weight = loaded.pack(isa, op, torch.randn(channels, channels), None, threads)
    op.weight = weight.data_ptr()
    ops = (library.Op * 1)(op)
    work = loaded.alloc(loaded.work_floats(isa, ops, threads))

    def run(_alive: Any = (x, y, weight)) -> None:
        loaded.run(isa, ops, threads, work)

    return run


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    pairs = [line.partition(":") for line in lines]
    found = {name.strip(): value.strip() for name, _, value in pairs}
    name, family, model = (found.get(key, "unknown") for key in ("model name", "cpu family", "model"))
    return f"{name} (family {family}, model {model}), {len(os.sched_getaffinity(0))} cores"


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()


def read(path: Path) -> list[Measured]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Measured.from_dict(json.loads(line)) for line in lines]


def chosen(rows: Sequence[Row], only: list[str]) -> list[Row]:
    """Those that `only` names, or all."""
    unknown = [name for name in only if not any(row.fits(name) for row in rows)]
    if unknown:
        raise SystemExit(f"no such row: {', '.join(unknown)}; rows are {', '.join(row.name for row in rows)}")
    return [row for row in rows if not only or any(row.fits(name) for name in only)]


def one_by_one(out: Path, wanted: Sequence[Row], done: list[Done], measure: Callable[[Row], Done]) -> None:
    """Measures what is wanted and not done, each row in a process of its own, and adds it to `out` and to `done`."""
    if wanted and any(each.machine != machine() for each in done):
        raise SystemExit(f"{out} has rows of {done[0].machine}; this is {machine()}: give another file")
    spawn = multiprocessing.get_context("spawn")
    for row in (row for row in wanted if row not in [each.row for each in done]):
        os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(row.threads)  # read as they start
        began = time.perf_counter()
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            measured = pool.submit(measure, row).result()
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(measured)) + "\n")
        done.append(measured)
        print(f"{row.name}  {measured.ratio('min_s'):.2f}  {time.perf_counter() - began:.0f} s", flush=True)


def speed(out: Path, only: list[str], table: bool) -> None:
    done = read(out)
    wanted = [] if table else chosen(ROWS, only)
    if missing := [name for name in PEERS if wanted and importlib.util.find_spec(name) is None]:
        raise SystemExit(f"not installed: {', '.join(missing)}; pip install {' '.join(PEERS)}")
    one_by_one(out, wanted, done, measure)
    done.sort(key=lambda each: ROWS.index(each.row))
    print(f"\n{tables(done)}")
    draw(done, out.with_suffix(".svg"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT.jsonl | memory | predict")
    what, rest = parser.parse_known_args()
    if what.out == "memory":
        inference_process.memory()
        return
    if what.out == "predict":
        inference_process.predict(rest)
        return
    parser.add_argument("--only", default="", help="rows, or the first parts of their names, with commas between")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    speed(Path(arguments.out), [name for name in arguments.only.split(",") if name], arguments.table)


if __name__ == "__main__":
    main()
