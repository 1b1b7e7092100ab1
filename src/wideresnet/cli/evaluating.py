"""`wrn evaluate`."""

import dataclasses
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wideresnet.cli.console import percent, print_json, print_table, say, watching
from wideresnet.cli.trainings import AS_FOUND, ReadingOptions, count_or_all

if TYPE_CHECKING:
    from wideresnet.evaluation import Evaluation


def evaluate(
    model: Path,
    data: str,
    /,
    *,
    split: str | None = None,
    tta: Literal["none", "flip"] = "none",
    report: Path | None = None,
    cache: Literal["auto", "memory", "disk", "off"] = "auto",
    json: bool = False,
    device: str = "auto",
    engine: Literal["auto", "kernels", "torch"] = "auto",
    max_bad: str = "0",
    reading: ReadingOptions = AS_FOUND,
) -> None:
    """Judge MODEL on labelled DATA: accuracy with its interval, per class, calibration, confusions; a report.

    Parameters
    ----------
    model
        A run folder, a model file, or hf:OWNER/NAME of Hugging Face (with --download).
    data
        As in `wrn train`. Its test part is taken, else val, else all of it; on the data of training, the part held out.
    split
        One of the parts that the data has: train, val, test; all where it has none.
    tta
        Test-time augmentation: flip averages the probabilities of each picture and its mirror image.
    report
        Where the HTML report goes; in a run folder, evaluation.html if not given.
    cache
        Where decoded pictures are kept, as in `wrn train`. No figure changes with it.
    json
        Print the figures as JSON instead of a table.
    device
        auto, cpu, cuda or mps.
    engine
        What computes: kernels (our own, on a CPU, where they were built and know the network) or torch; auto takes the
        first of these that can.
    max_bad
        How many unreadable pictures may be left out, or all.
    """
    from wideresnet import jobs

    if report is None and model.is_dir() and os.access(model, os.W_OK):
        report = model / "evaluation.html"
    with watching() as watch:
        evaluation = jobs.evaluate(
            model,
            data,
            split=split,
            tta=tta,
            cache=cache,
            device=device,
            engine=engine,
            max_bad=count_or_all(max_bad),
            report_file=report,
            **dataclasses.asdict(reading),
            command=shlex.join(["wrn", *sys.argv[1:]]),
            watch=watch,
        )
    if json:
        print_json(evaluation.figures())
    else:
        _print(evaluation)
    if report is not None:
        say(f"report: {report}")


def _print(e: "Evaluation") -> None:
    low, high = e.interval
    print(f"{e.data}, {e.split}: {len(e.labels)} pictures, {e.engine}")
    print(f"accuracy   {percent(e.accuracy)}   95 % interval {percent(low)} to {percent(high)}")
    if e.top5 is not None:
        print(f"top-5      {percent(e.top5)}")
    print(f"loss       {e.loss:.4f}   ECE {percent(e.ece)} (15 bins)")
    columns = {"class": "left", "pictures": "right", "precision": "right", "recall": "right", "F1": "right"}
    rows = [
        [name, str(score.count), percent(score.precision), percent(score.recall), percent(score.f1)]
        for name, score in zip(e.class_names, e.per_class, strict=True)
    ]
    print_table("", columns, rows)
    if len(e.class_names) <= 20:
        headings = {"true \\ predicted": "left"} | {f"{i} {name}"[:14]: "right" for i, name in enumerate(e.class_names)}
        confusion = [[f"{i} {name}", *map(str, e.confusion[i])] for i, name in enumerate(e.class_names)]
        print_table("Confusion matrix", headings, confusion)
