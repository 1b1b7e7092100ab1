"""Paired short trainings with our kernels and with torch: does the accuracy differ by more than seeds do?

    python benchmarks/training_accuracy.py FOLDER [--epochs 4] [--pictures 10000] [--seeds 3] [--data PLACE]

WRN-16-2 on some of CIFAR-10's training pictures, the `fast` recipe, the last epoch judged once on the 10,000 test
pictures. Both engines have the same seed, so the same first weights, batches and crops; they take turns, and every
other seed begins with the other one. Each training that ends is a row of FOLDER/results.jsonl; the same command again
goes on where it stopped, and prints the table of docs/numbers.md. PLACE: $WRN_SHARED/data/cifar10, or an .npz as
`wrn train` takes it.
"""

import argparse
import csv
import json
import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inference import commit, machine
from ingredients import part

import wideresnet as wrn
from wideresnet import runtime

ENGINES = ("kernels", "torch")
ARCH, RECIPE = "wrn_16_2", "fast"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    engine: str
    seed: int
    epochs: int
    pictures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """accuracy: a share of the test pictures. steps_s: of the epochs alone; seconds: of the whole call, judging too."""

    task: Task
    accuracy: float
    loss: float  # of training, the last epoch
    steps_s: float
    seconds: float
    machine: str
    commit: str

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Result":
        return cls(**{**values, "task": Task(**values["task"])})


def train(data: Path, task: Task) -> Result:
    options: dict[str, Any] = {"engine": task.engine, "epochs": task.epochs, "select": "last"}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run = wrn.train(
            data, arch=ARCH, recipe=RECIPE, seed=task.seed, device="cpu", out=out, watch=runtime.QUIET, **options
        )
        seconds = time.perf_counter() - started
        with (out / "metrics.csv").open(encoding="utf-8") as file:
            epochs = list(csv.DictReader(file))
    if run.evaluation.split != "test":
        raise SystemExit(f"{data}: judged on {run.evaluation.split}, for it has no test part")
    return Result(
        task=task,
        accuracy=run.evaluation.accuracy,
        loss=float(epochs[-1]["train_loss"]),
        steps_s=sum(float(epoch["seconds"]) for epoch in epochs),
        seconds=seconds,
        machine=machine(),
        commit=commit(),
    )


def table(results: list[Result]) -> str:
    """Markdown: a line a seed, then means ± standard deviations over seeds; seconds are those of the epochs."""
    by_task = {(each.task.seed, each.task.engine): each for each in results}
    seeds = sorted({seed for seed, _ in by_task})
    pairs = [(seed, by_task[seed, "kernels"], by_task[seed, "torch"]) for seed in seeds]
    lines = [
        "| seed | ours | torch | difference | ours, s | torch, s | torch / ours |\n|" + " --- |" * 7,
        *(
            f"| {seed} | {100 * ours.accuracy:.2f} % | {100 * theirs.accuracy:.2f} % "
            f"| {100 * (ours.accuracy - theirs.accuracy):+.2f} | {ours.steps_s:.0f} | {theirs.steps_s:.0f} "
            f"| {theirs.steps_s / ours.steps_s:.2f} |"
            for seed, ours, theirs in pairs
        ),
    ]
    if len(pairs) > 1:
        columns = (
            [100 * ours.accuracy for _, ours, _ in pairs],
            [100 * theirs.accuracy for _, _, theirs in pairs],
            [100 * (ours.accuracy - theirs.accuracy) for _, ours, theirs in pairs],
        )
        cells = [f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" for values in columns]
        ours_s, torch_s = (statistics.mean(each.steps_s for each in results if each.task.engine == e) for e in ENGINES)
        lines.append(f"| mean | {' | '.join(cells)} | {ours_s:.0f} | {torch_s:.0f} | **{torch_s / ours_s:.2f}** |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("WRN_SHARED", "shared")) / "data" / "cifar10")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = arguments.folder / "results.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = {result.task: result for result in (Result.from_dict(json.loads(line)) for line in lines)}
    data = part(arguments.data, arguments.pictures, arguments.folder)
    wanted = [
        Task(engine=engine, seed=seed, epochs=arguments.epochs, pictures=arguments.pictures)
        for seed in range(arguments.seeds)
        for engine in ENGINES[:: -1 if seed % 2 else 1]
    ]
    for task in (task for task in wanted if task not in done):
        done[task] = train(data, task)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(done[task])) + "\n")
        print(f"{task}  {100 * done[task].accuracy:.2f} %  {done[task].steps_s:.0f} s", flush=True)
    print(f"\n{table([done[task] for task in wanted])}")


if __name__ == "__main__":
    main()
