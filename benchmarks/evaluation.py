"""What it costs to know a model, beside plain forward passes of the same pictures.

    python benchmarks/evaluation.py DATA MODEL [--pictures 10000]

In turns, the minimum of several, in one process whose imports are done: the forward passes alone; the same with
everything that `wrn evaluate` computes by itself (figures with their intervals, calibration before and after, curves,
the report as one HTML file).
"""

import argparse
import time
from pathlib import Path

import torch
from inference import commit, machine

import wideresnet as wrn
from wideresnet import data, report, runtime
from wideresnet.evaluation import Evaluation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=5)
    a = parser.parse_args()
    predictor = wrn.load(a.model)
    listing = data.read(a.data)
    pictures = data.load(listing, predictor.card.preprocess, watch=runtime.QUIET).parts["test"]
    pictures = pictures.take(torch.arange(min(a.pictures, len(pictures))))

    def plain() -> None:
        predictor.engine.compute(pictures.images)

    def everything() -> None:
        evaluation = Evaluation(
            data=listing.name,
            split="test",
            engine=predictor.engine.reason,
            class_names=predictor.card.class_names,
            names=pictures.names,
            labels=pictures.labels.numpy(),
            logits=predictor.engine.compute(pictures.images).numpy(),
            temperature=predictor.card.temperature,
        )
        evaluation.figures()
        report.build(report.Subject(title="x", command="x", evaluation=evaluation, pictures=pictures.shown))

    seconds = {"plain": list[float](), "everything": list[float]()}
    for turn in range(a.turns + 1):  # the first of each imports what it needs
        for name, work in (("plain", plain), ("everything", everything)):
            started = time.perf_counter()
            work()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    both = {name: min(each) for name, each in seconds.items()}
    print(f"{a.model.name}, {len(pictures):,} pictures, {predictor.engine.reason}, {machine()}, commit {commit()}")
    print(f"forward passes {both['plain']:.2f} s, evaluated {both['everything']:.2f} s: ", end="")
    print(f"{both['everything'] / both['plain']:.3f} times")


if __name__ == "__main__":
    main()
