"""`wrn demo` and `wrn train`."""

import dataclasses
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from wideresnet.cli.console import percent, watching
from wideresnet.errors import UsageError
from wideresnet.reading import Reading
from wideresnet.recipes import RecipeChanges

if TYPE_CHECKING:
    from wideresnet.detection import BoxEvaluation
    from wideresnet.jobs import BoxRun, LrSearch, Run


# One meaning of DATA: every command that takes it has these options, in one group of its help.
ReadingOptions = Annotated[Reading, Parameter(name="*", group="Reading DATA")]
AS_FOUND = Reading()

# Options as they are where nobody gives them, which --resume tells from given ones; of `tune` too.
UNTOUCHED = {
    "fit": "crop",
    "pretrained": False,
    "seed": 0,
    "device": "auto",
    "engine": "auto",
    "max_bad": 0,
    "download": False,
}


def demo(*, out: Path | None = None) -> None:
    """Train on the digits inside the package, write the report, predict a picture kept aside. About a minute.

    Parameters
    ----------
    out
        Run folder; runs/digits-N if not given.
    """
    from wideresnet import jobs

    with watching() as watch:
        done = jobs.demo(out, watch=watch)
    _summary(done.run)
    answer = done.prediction
    right = "right" if answer.label == done.truth else f"wrong: it is {done.truth}"
    print(f"{done.picture} (kept aside): {answer.label}, {percent(answer.confidence)} sure; {right}")


def train(
    data: str | None = None,
    /,
    *,
    resume: Path | None = None,
    arch: str | None = None,
    recipe: str | None = None,
    size: int | None = None,
    in_channels: int | None = None,
    fit: Literal["crop", "squash", "pad"] = "crop",
    mean: Annotated[tuple[float, ...] | None, Parameter(consume_multiple=True, negative=())] = None,
    std: Annotated[tuple[float, ...] | None, Parameter(consume_multiple=True, negative=())] = None,
    init: Annotated[Path | None, Parameter(name=["--init", "--from"])] = None,
    pretrained: Annotated[bool, Parameter(negative=())] = False,
    freeze: Annotated[tuple[str, ...] | None, Parameter(negative=())] = None,
    seed: int = 0,
    device: str = "auto",
    engine: Literal["auto", "kernels", "torch"] = "auto",
    out: Path | None = None,
    time_budget: str | None = None,
    folds: int | None = None,
    max_bad: str = "0",
    labels: int | None = None,
    reading: ReadingOptions = AS_FOUND,
    cache: Literal["auto", "memory", "disk", "off"] = "auto",
    track: Annotated[tuple[str, ...] | None, Parameter(negative=())] = None,
    checkpoint_every: str = "10min",
    allow_changed: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    find_lr: Annotated[bool, Parameter(negative=())] = False,
    changes: Annotated[RecipeChanges | None, Parameter(name="*", group="Recipe")] = None,
) -> None:
    """Train a network on DATA; every default follows from the data. Ends with RUN/model.safetensors and report.html.

    Parameters
    ----------
    data
        A folder of class folders (with or without train/val/test), a table (.csv, .tsv, .jsonl, .parquet), a folder or
        a pattern of shards (.tar, .parquet), an .npz of arrays, a name (digits; with --download cifar10, cifar100,
        svhn, …), or hf:NAME of Hugging Face.
    resume
        Go on with this run or cross-validation, exactly where it was stopped; its options are kept with it.
    arch
        Network: wrn_DEPTH_WIDEN as in wrn_28_10, or wrn_28_10.paper; see `wrn models`. Another family's, for large
        photographs: torchvision:NAME or timm:NAME, as torchvision:wide_resnet50_2.
    recipe
        fast (ours, for a small budget), strong (three times as long, stronger augmentation), paper (200 epochs, the
        original's) or finetune (with --init or --pretrained, and then the default).
    size
        Side in pixels that pictures are resized to.
    in_channels
        3 for colour, 1 for grey; the model's own with --init, whose first layer is summed up or spread if it differs.
    fit
        How a picture becomes square: crop, squash or pad.
    mean
        Mean of each channel in [0, 1]; of the training pictures if not given.
    std
        Standard deviation of each channel in [0, 1]; likewise.
    init
        Begin with the weights of this run folder, model file or hf:OWNER/NAME, instead of anew: network, mean and std
        are its own.
    pretrained
        Begin with the weights that torchvision or timm publishes for --arch; they are fetched with --download alone.
    freeze
        Parts that are not trained, BN statistics too: stem stage1 stage2 stage3 bn fc, or backbone for all but fc.
    seed
        All that is random follows from it.
    device
        auto, cpu, cuda or mps.
    engine
        What computes: kernels (our own, on a CPU, in fp32, where they were built and know the network) or torch; auto
        takes the first of these that can.
    out
        Run folder; runs/NAME-N if not given. With --find-lr the picture; runs/NAME-lr.png if not given.
    time_budget
        As many epochs as fit into this time: 90s, 20min, 2h.
    folds
        Cross-validation: train so many networks, each judged on the part of train and val that it never saw.
    max_bad
        How many unreadable pictures may be left out, or all.
    labels
        Train on so many pictures of each class only, drawn by the seed; val and test stay whole.
    cache
        Where decoded pictures are kept: memory; disk, for the next run to start at once; off, decoded anew in each
        epoch; auto chooses by their size and what is free. No result changes with it.
    track
        Write each epoch's row to tensorboard or mlflow too; may be given twice.
    checkpoint_every
        Time between two checkpoints within an epoch, besides those at its end: 90s, 20min, 2h. No result changes.
    allow_changed
        With --resume: go on though versions, processor, threads, engine, device or processes are not those it was begun
        with; the result is then not bitwise the same, and says so.
    find_lr
        Train nothing: try learning rates on a network that is thrown away, suggest one, draw the curve.
    """
    from wideresnet import jobs

    options: dict[str, Any] = {
        "arch": arch,
        "recipe": recipe,
        "size": size,
        "in_channels": in_channels,
        "fit": fit,
        "mean": mean,
        "std": std,
        "init": init,
        "pretrained": pretrained,
        "freeze": freeze,
        "seed": seed,
        "device": device,
        "engine": engine,
        "out": out,
        "time_budget_s": None if time_budget is None else seconds(time_budget, "--time-budget"),
        "folds": folds,
        "max_bad": count_or_all(max_bad),
        "labels": labels,
        **dataclasses.asdict(reading),
        "track": track,
        **(changes or {}),
    }
    options = {name: value for name, value in options.items() if value is not None or name == "max_bad"}
    kept: dict[str, Any] = {"cache": cache, "checkpoint_every_s": seconds(checkpoint_every, "--checkpoint-every")}
    if allow_changed and resume is None:
        raise UsageError("--allow-changed is for --resume RUN: a new run is begun as things are")
    with watching() as watch:
        if resume is not None:
            on_nan = options.pop("on_nan", None)
            if data is not None or find_lr or options != UNTOUCHED:
                raise UsageError(
                    "--resume RUN stands alone, but for --cache, --checkpoint-every, --on-nan and --allow-changed: "
                    "data and options are the run's own"
                )
            run = jobs.resume(resume, allow_changed=allow_changed, on_nan=on_nan, **kept, watch=watch)
        elif data is None:
            raise UsageError("nothing to train on: wrn train DATA, or wrn train --resume RUN; try wrn train digits")
        elif find_lr:
            if time_budget is not None or track is not None or folds is not None:
                raise UsageError("--find-lr trains no run; leave --time-budget, --track and --folds out")
            _say_lr(jobs.find_lr(data, cache=cache, watch=watch, **options))
            return
        else:
            run = jobs.train(data, **kept, watch=watch, **options)
    _summary(run)


def _say_lr(found: "LrSearch") -> None:
    print(f"suggested learning rate: {found.lr:g}, a tenth of the one at which the loss was lowest")
    print(f"curve:   {found.plot}")
    print(f"next:    {found.command}")


def _summary(run: "Run | BoxRun") -> None:
    """Of several processes the first one speaks."""
    from wideresnet import jobs, runs

    if isinstance(run, jobs.BoxRun):
        say_detector(run.folder, run.evaluation)
        return
    if os.environ.get("RANK", "0") != "0":
        return
    e = run.evaluation
    low, high = e.interval
    print(
        f"{e.split} accuracy {percent(e.accuracy)} (95 % interval {100 * low:.1f} to {100 * high:.1f}; "
        f"{len(e.labels)} pictures, loss {e.loss:.3f}, ECE {percent(e.ece)})"
    )
    folder = shlex.quote(str(run.folder))
    print(f"report:  {run.folder / runs.REPORT}")
    if run.folds:
        print("next:    the same without --folds trains on all of these pictures; each fold's model is in its folder")
        return
    print(f"next:    wrn predict {folder} PICTURE…    wrn evaluate {folder} DATA    wrn info {folder}")


def say_detector(folder: Path, e: "BoxEvaluation") -> None:
    """Of several processes the first one speaks."""
    from wideresnet import runs

    if os.environ.get("RANK", "0") != "0":
        return
    print(
        f"{e.split} AP {percent(e.coco.ap)}, AP50 {percent(e.coco.ap50)} ({len(e.names)} pictures, "
        f"{sum(one.count for one in e.coco.classes)} boxes; shown from a score of {e.threshold:.2f})"
    )
    print(f"report:  {folder / runs.REPORT}")
    run = shlex.quote(str(folder))
    print(f"next:    wrn detect predict {run} PICTURE… --draw FOLDER    wrn detect evaluate {run} DATA")


def seconds(text: str, option: str) -> float:
    """ "90s", "20min", "2h" → seconds. Raises UsageError on anything else."""
    units = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    try:
        value = float(number) * units[text[len(number) :].strip()]
    except (ValueError, KeyError):
        value = 0.0
    if not 0 < value < 1e9:
        raise UsageError(f"{option} {text}: expected a time above 0 with its unit, as 90s, 20min or 2h")
    return value


def count_or_all(text: str) -> int | None:
    """ "3" → 3, "all" → None. Raises UsageError on anything else."""
    if text == "all":
        return None
    if not text.isdecimal():
        raise UsageError(f"--max-bad {text}: expected a whole number from 0, or all")
    return int(text)
