"""`wrn detect train|evaluate|predict`: boxes."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from wideresnet.cli.console import json_text, percent, print_json, print_table, say, say_error, watching
from wideresnet.cli.predicting import named_and_listed
from wideresnet.cli.trainings import count_or_all, say_detector, seconds
from wideresnet.errors import DONE, SOME_FAILED
from wideresnet.recipes import DetectorChanges, RecipeChanges

if TYPE_CHECKING:
    from wideresnet.detection import BoxEvaluation
    from wideresnet.jobs import BoxAnswer

app = App(name="detect", help="Boxes: train a detector on your own pictures, judge it, find objects with it.")


@app.command
def train(
    data: str,
    /,
    *,
    arch: str | None = None,
    size: int | None = None,
    init: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    out: Path | None = None,
    time_budget: str | None = None,
    max_bad: str = "0",
    max_pixels: int | None = None,
    cache: Literal["auto", "memory", "disk", "off"] = "auto",
    track: Annotated[tuple[str, ...] | None, Parameter(negative=())] = None,
    checkpoint_every: str = "10min",
    detector: Annotated[DetectorChanges | None, Parameter(name="*", group="Detector")] = None,
    changes: Annotated[RecipeChanges | None, Parameter(name="*", group="Recipe")] = None,
) -> None:
    """Train a detector on DATA; every default follows from the data. Ends with RUN/model.safetensors and report.html;
    a run that was stopped goes on with `wrn train --resume RUN`.

    Parameters
    ----------
    data
        Pictures with boxes: COCO (a .json, or a folder with annotations), YOLO (images and labels, or data.yaml) or
        Pascal VOC (Annotations and JPEGImages).
    arch
        Network under the detector: wrn_DEPTH_WIDEN as in wrn_16_2.
    size
        Side in pixels of the square that pictures are laid into.
    init
        Begin with the backbone of this run folder or model file: a classifier, or a detector with all that fits.
    seed
        All that is random follows from it.
    device
        auto, cpu, cuda or mps.
    out
        Run folder; runs/NAME-N if not given.
    time_budget
        As many epochs as fit into this time: 90s, 20min, 2h.
    max_bad
        How many unreadable pictures may be left out, or all.
    max_pixels
        Refuse pictures of more pixels, from their header; 89,478,485 if not given.
    cache
        Where decoded pictures are kept, as in `wrn train`. No result changes with it.
    track
        Write each epoch's row to tensorboard or mlflow too; may be given twice.
    checkpoint_every
        Time between two checkpoints within an epoch, besides those at its end: 90s, 20min, 2h. No result changes.
    """
    from wideresnet import jobs

    options: dict[str, Any] = {
        "arch": arch,
        "size": size,
        "init": init,
        "out": out,
        "track": track,
        **(detector or {}),
        **(changes or {}),
    }
    options = {name: value for name, value in options.items() if value is not None}
    with watching() as watch:
        run = jobs.train_detector(
            data,
            seed=seed,
            device=device,
            time_budget_s=None if time_budget is None else seconds(time_budget, "--time-budget"),
            max_bad=count_or_all(max_bad),
            max_pixels=max_pixels,
            cache=cache,
            checkpoint_every_s=seconds(checkpoint_every, "--checkpoint-every"),
            watch=watch,
            **options,
        )
    say_detector(run.folder, run.evaluation)


@app.command
def evaluate(
    model: Path,
    data: str,
    /,
    *,
    split: str | None = None,
    threshold: float | None = None,
    report: Path | None = None,
    cache: Literal["auto", "memory", "disk", "off"] = "auto",
    json: bool = False,
    device: str = "auto",
    max_bad: str = "0",
    max_pixels: int | None = None,
) -> None:
    """Judge MODEL on DATA with boxes: COCO's average precision, per class, precision and recall; a report.

    Parameters
    ----------
    model
        A run folder or a model file.
    data
        As in `wrn detect train`. Its test part is taken, else val, else all of it; on the data of training, the part
        held out.
    split
        One of the parts that the data has: train, val, test; all where it has none.
    threshold
        Score from which a box counts in precision and recall; the model's own, chosen on val, if not given.
    report
        Where the HTML report goes; in a run folder, evaluation.html if not given.
    cache
        Where decoded pictures are kept, as in `wrn train`. No figure changes with it.
    json
        Print the figures as JSON instead of a table.
    device
        auto, cpu, cuda or mps.
    max_bad
        How many unreadable pictures may be left out, or all.
    max_pixels
        Refuse pictures of more pixels, from their header; 89,478,485 if not given.
    """
    from wideresnet import jobs

    if report is None and model.is_dir() and os.access(model, os.W_OK):
        report = model / "evaluation.html"
    with watching() as watch:
        evaluation = jobs.evaluate_detector(
            model,
            data,
            split=split,
            threshold=threshold,
            cache=cache,
            device=device,
            max_bad=count_or_all(max_bad),
            max_pixels=max_pixels,
            report_file=report,
            command=shlex.join(["wrn", *sys.argv[1:]]),
            watch=watch,
        )
    if json:
        print_json(evaluation.figures())
    else:
        _print(evaluation)
    if report is not None:
        say(f"report: {report}")


def _print(e: "BoxEvaluation") -> None:
    c, told = e.coco, e.figures()
    print(f"{e.data}, {e.split}: {len(e.names)} pictures, {told['num_boxes']} boxes, {e.engine}")
    print(f"AP     {percent(c.ap)}   AP50 {percent(c.ap50)}   AP75 {percent(c.ap75)}")
    print(f"small  {percent(c.ap_small)}   medium {percent(c.ap_medium)}   large {percent(c.ap_large)}")
    print(f"precision and recall at a score of {e.threshold:.2f}:")
    columns = {
        "class": "left",
        "boxes": "right",
        "AP": "right",
        "AP50": "right",
        "precision": "right",
        "recall": "right",
    }
    figures = ("ap", "ap50", "precision", "recall")
    rows = [
        [row["class_name"], str(row["count"]), *(percent(row[name]) for name in figures)]
        for row in told["classes"]
        if row["count"] or row["precision"] is not None
    ]
    print_table("", columns, rows)


@app.command
def predict(
    model: Path,
    /,
    *sources: Annotated[str, Parameter(allow_leading_hyphen=True)],
    draw: Path | None = None,
    format: Literal["table", "jsonl", "coco"] = "table",  # noqa: A002 - the option's own name
    threshold: float | None = None,
    device: str = "auto",
    max_pixels: int | None = None,
) -> int:
    """Find what is in each picture. Exit code 1 if some could not be read: each is told with its reason.

    Parameters
    ----------
    model
        A run folder or a model file.
    sources
        Files, folders (all pictures below), globs; - reads a list of files from standard input, one a line.
    draw
        A new folder for the pictures with their boxes drawn.
    format
        table for a person; jsonl, a picture a line; coco, one JSON of images, categories and annotations with scores,
        whose annotations are COCO's results.
    threshold
        Score from which a box is given; the model's own, chosen on val, if not given.
    device
        auto, cpu, cuda or mps.
    max_pixels
        Refuse pictures of more pixels, from their header; 89,478,485 if not given.
    """
    from wideresnet import jobs

    named, listed = named_and_listed(sources, "wrn detect predict")
    failed, drawn, kept = 0, 0, list["BoxAnswer"]()
    with watching() as watch:
        for answer in jobs.find_boxes(
            model,
            named,
            files=listed,
            draw=draw,
            threshold=threshold,
            device=device,
            max_pixels=max_pixels,
            watch=watch,
        ):
            if format == "coco":
                kept.append(answer)
            else:
                _say(answer, format)
            failed += bool(answer.error)
            drawn += answer.drawn is not None
            if answer.error and format == "coco":
                say_error(f"{answer.path}: {answer.error}")
    if format == "coco":
        print(json_text(jobs.as_coco(model, kept)))
    if draw is not None:
        say(f"drawn: {drawn} in {draw}")
    if failed:
        say_error(f"{failed} of the pictures could not be read; each has its reason above")
    return SOME_FAILED if failed else DONE


def _say(answer: "BoxAnswer", format: str) -> None:  # noqa: A002 - the option's own name
    if format == "jsonl":
        boxes = [{"label": one.label, "score": one.score, "box": list(one.box)} for one in answer.boxes]
        fields: dict[str, Any] = {"path": str(answer.path), "boxes": None if answer.error else boxes}
        if answer.size is not None:
            fields |= {"height": answer.size[0], "width": answer.size[1]}
        if answer.drawn is not None:
            fields["drawn"] = str(answer.drawn)
        print(json_text(fields | {"error": answer.error or None}))
        return
    if answer.error:
        print(f"{answer.path}  error: {answer.error}")
        return
    print(f"{answer.path}  {len(answer.boxes)} {'box' if len(answer.boxes) == 1 else 'boxes'}")
    for one in answer.boxes:
        left, top, right, bottom = (f"{side:.0f}" for side in one.box)
        print(f"  {one.label}  {percent(one.score)}  {left},{top} to {right},{bottom}")
