"""What checkpoints cost a training of WRN-28-10, and how long going on takes: docs/numbers.md, "Reliability".

python benchmarks/checkpoints.py [--rounds N]

Steps of the real loop's kind with and without a checkpoint written beside them, in turns; the difference, over the
default time between two, is the share.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from wideresnet import checkpoint, classification, engines, networks, recipes, runs, runtime, training
from wideresnet.classification import Batch
from wideresnet.jobs.running import CHECKPOINT_EVERY_S
from wideresnet.jobs.writing import Writer

ARCH, BATCH_SIZE, STEPS = "wrn_28_10", 128, 4


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    rounds = options.parse_args().rounds
    torch.manual_seed(0)
    recipe = recipes.change(recipes.find("paper"), {"batch_size": BATCH_SIZE})
    model = networks.create(ARCH, 10)
    found, reason = engines.for_training(model, recipe, torch.device("cpu"))
    state = training.start(model, recipe, engine=found)
    trained, loss = training.through(state, recipe), classification.loss(recipe)
    batch = Batch(torch.randn(BATCH_SIZE, 3, 32, 32), torch.arange(BATCH_SIZE) % 10)
    config = runs.Config(
        data="none",
        arch=ARCH,
        recipe=recipe,
        size=32,
        fit="crop",
        in_channels=3,
        mean=None,
        std=None,
        seed=0,
        device="cpu",
        threads=runtime.num_cores(),
        max_bad=0,
        engine=found,
        fingerprint="",
        versions={},
    )

    def steps() -> None:
        for _ in range(STEPS):
            state.begun.steps += 1
            training.update(state, trained, batch, loss, recipe, lr=1e-3, seed=0)

    with tempfile.TemporaryDirectory(dir=".") as folder, engines.threads(found, config.threads), runtime.memory_kept():
        run = Path(folder)
        steps()
        writer = Writer(run, config, CHECKPOINT_EVERY_S, changed={}, counts={})
        writer.last_is_whole = True
        without, beside, put, whole = list[float](), list[float](), list[float](), list[float]()
        with writer:
            for _ in range(rounds):
                without.append(seconds(steps))
                started = time.perf_counter()
                put.append(seconds(lambda: writer.put(state, None, lambda _: None)))
                steps()
                beside.append(time.perf_counter() - started)
                writer.wait()
            for _ in range(rounds):  # nothing beside it
                started = time.perf_counter()
                writer.put(state, None, lambda _: None)
                writer.wait()
                whole.append(time.perf_counter() - started)
        size = (run / runs.CHECKPOINT).stat().st_size
        read = [seconds(lambda: checkpoint.load_checkpoint(run / runs.CHECKPOINT)) for _ in range(3)]
        fresh = training.start(networks.create(ARCH, 10), recipe, engine=found)
        taken = seconds(lambda: training.from_tensors(fresh, *checkpoint.load_checkpoint(run / runs.CHECKPOINT)))
    cost = statistics.median(beside) - statistics.median(without)
    print(f"{ARCH}, batch {BATCH_SIZE}, {reason}: {statistics.median(without) / STEPS:.2f} s a step")
    print(
        f"checkpoint of {size / 1e6:.0f} MB: {min(whole):.2f} s alone; the training waits {min(put):.3f} s for copies,"
    )
    print(f"and loses {cost:.2f} s in all: {100 * cost / CHECKPOINT_EVERY_S:.2f} % of the time between two by default")
    print(f"reading it {min(read):.2f} s; a training that goes on is where it was after {taken:.2f} s")


if __name__ == "__main__":
    main()
