"""Whole processes of benchmarks/training.py: how much memory a training step takes, and whether two processes of one
thread are faster than one of two threads.

Imports nothing of size before it is known what a process is for: its memory is measured.
"""

import json
import os
import statistics
import subprocess
import sys
import time

from inference_process import child, reset_peak, resident

MEMORY_ROWS = tuple((name, batch) for name in ("wrn_16_2", "wrn_16_4", "wrn_28_10") for batch in (32, 128))
PROCESSES_ROWS = (("wrn_16_2", 128), ("wrn_16_4", 128))
ENGINES = ("torch", "ours")
ROUNDS, SECONDS = 3, 5.0  # of each way to use the cores; of steps in each
KINDS = {"one process, two threads": (1, 2), "two processes, a thread each": (2, 1)}  # processes, threads of each


def memory() -> None:
    """Prints the Markdown rows of docs/numbers.md: MB resident, each engine in a process that has it alone."""
    print("MB resident, above what the imports take")
    print(
        "| network | batch | engine | weights, gradients, momentum | peak of a step |\n| --- | --- | --- | --- | --- |"
    )
    for network, batch in MEMORY_ROWS:
        for engine in ENGINES:
            got = child("--memory", engine, network, str(batch), script=__file__)[1]
            cells = [f"{value / 1e6:,.0f}" for value in (got["state"], got["peak"] - got["imported"])]
            print(f"| {network} | {batch} | {engine} | {' | '.join(cells)} |", flush=True)
            for line in got["fell_back"]:
                print(f"ours is not ours: {line}", file=sys.stderr)


def measure_memory(engine: str, name: str, batch: int) -> None:
    """Two steps to warm up, then one that is measured; bytes above what the imports take."""
    import torch
    import torch.nn.functional as F
    from training_engines import SETTINGS, batch_of, fallbacks, network, our_step, torch_step

    from wideresnet import runtime

    weight = torch.zeros(1, 1, 3, 3, requires_grad=True)
    F.conv2d(torch.zeros(1, 1, 3, 3), weight).sum().backward()  # sets up what it computes with
    imported = reset_peak()
    with runtime.memory_kept():  # as `wrn train` does
        model, (images, labels) = network(name), batch_of(batch, 32)
        if engine == "ours":
            step = our_step(model, images, labels)
        else:
            step = torch_step(model, images, labels, SETTINGS["channels last"], "fused")
        step()
        step()
        reset_peak()
        step()
        peak = resident("VmHWM")
    state = 3 * sum(p.numel() * p.element_size() for p in model.parameters())
    result = {"imported": imported, "state": state, "peak": peak, "fell_back": fallbacks()}
    print(json.dumps(result), file=sys.stderr)


def processes() -> None:
    """Prints the Markdown rows of docs/numbers.md: images/s of ours, the same batch in all, ways alternating."""
    print(f"images/s, best (median) of {ROUNDS} starts, the median step of each")
    print(f"| network | batch | {' | '.join(KINDS)} | ratio |\n|{' --- |' * (3 + len(KINDS))}")
    for network, batch in PROCESSES_ROWS:
        rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(ROUNDS):
            for kind in list(KINDS)[:: -1 if number % 2 else 1]:
                rates[kind].append(batch / _median_step_s(network, batch, *KINDS[kind]))
        best = [max(values) for values in rates.values()]
        cells = [f"{max(values):,.0f} ({statistics.median(values):,.0f})" for values in rates.values()]
        print(f"| {network} | {batch} | {' | '.join(cells)} | {best[1] / best[0]:.2f} |", flush=True)


def _median_step_s(network: str, batch: int, num: int, threads: int) -> float:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num}"] if num > 1 else []
    command = [sys.executable, *launcher, __file__, "--steps", network, str(batch), str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    said = json.loads(done.stdout.splitlines()[-1])
    for line in said["fell_back"]:
        print(f"ours is not ours: {line}", file=sys.stderr)
    return float(said["median_s"])


def run_steps(name: str, batch: int, threads: int) -> None:
    """One of the processes, each on its part of the batch; BN sees that part alone. The main one says how long a step
    takes."""
    import torch
    from training_engines import batch_of, fallbacks, network, our_step

    from wideresnet import processes, runtime

    torch.set_num_threads(threads)
    with processes.joined() as world, runtime.memory_kept():
        model = network(name)
        images, labels = batch_of(batch, 32)
        step = our_step(model, world.share(images), world.share(labels), world)
        seconds: list[float] = []
        num = 3  # to warm up
        for _ in range(2):
            seconds = []
            for _ in range(num):
                started = time.perf_counter()
                step()
                seconds.append(time.perf_counter() - started)
            num = world.largest(max(5, int(SECONDS / seconds[-1])))  # the same in all, which wait for one another
        if world.is_main:
            print(json.dumps({"median_s": statistics.median(seconds), "fell_back": fallbacks()}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--memory":
        measure_memory(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        run_steps(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
