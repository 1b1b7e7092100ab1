"""`wrn demo` and `wrn train`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from wideresnet.cli.console import percent, watching
from wideresnet.errors import UsageError
from wideresnet.recipes import RecipeChanges

if TYPE_CHECKING:
    from wideresnet.jobs import Run


_UNTOUCHED = {"recipe": "fast", "in_channels": 3, "fit": "crop", "seed": 0, "device": "auto", "max_bad": 0}


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
    recipe: str = "fast",
    size: int | None = None,
    in_channels: int = 3,
    fit: Literal["crop", "squash", "pad"] = "crop",
    mean: Annotated[tuple[float, ...] | None, Parameter(consume_multiple=True, negative=())] = None,
    std: Annotated[tuple[float, ...] | None, Parameter(consume_multiple=True, negative=())] = None,
    seed: int = 0,
    device: str = "auto",
    out: Path | None = None,
    time_budget: str | None = None,
    max_bad: str = "0",
    changes: Annotated[RecipeChanges | None, Parameter(name="*", group="Recipe")] = None,
) -> None:
    """Train a network on DATA; every default follows from the data. Ends with RUN/model.safetensors and report.html.

    Parameters
    ----------
    data
        A folder of class folders (with or without train/val/test), an .npz of arrays, or an embedded name: digits.
    resume
        Go on with this run folder, exactly where its last whole epoch ended; nothing else is given then.
    arch
        Network: wrn_DEPTH_WIDEN as in wrn_28_10, or wrn_28_10.paper; see `wrn models`.
    recipe
        fast (ours, for a small budget) or paper (200 epochs, the original's).
    size
        Side in pixels that pictures are resized to.
    in_channels
        3 for colour, 1 for grey.
    fit
        How a picture becomes square: crop, squash or pad.
    mean
        Mean of each channel in [0, 1]; of the training pictures if not given.
    std
        Standard deviation of each channel in [0, 1]; likewise.
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
        "seed": seed,
        "device": device,
        "out": out,
        "time_budget_s": None if time_budget is None else seconds(time_budget),
        "max_bad": count_or_all(max_bad),
        **(changes or {}),
    }
    with watching() as watch:
        if resume is not None:
            if data is not None or {name: value for name, value in options.items() if value is not None} != _UNTOUCHED:
                raise UsageError("--resume RUN stands alone: data and options are the run's own")
            run = jobs.resume(resume, watch=watch)
        elif data is None:
            raise UsageError("nothing to train on: wrn train DATA, or wrn train --resume RUN; try wrn train digits")
        else:
            run = jobs.train(data, watch=watch, **options)
    _summary(run)


def _summary(run: "Run") -> None:
    from wideresnet import runs

    e = run.evaluation
    low, high = e.interval
    print(
        f"{e.split} accuracy {percent(e.accuracy)} (95 % interval {100 * low:.1f} to {100 * high:.1f}; "
        f"{len(e.labels)} pictures, loss {e.loss:.3f}, ECE {percent(e.ece)})"
    )
    folder = shlex.quote(str(run.folder))
    print(f"report:  {run.folder / runs.REPORT}")
    print(f"next:    wrn predict {folder} PICTURE…    wrn evaluate {folder} DATA    wrn info {folder}")


def seconds(text: str) -> float:
    """ "90s", "20min", "2h" → seconds. Raises UsageError on anything else."""
    units = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    try:
        value = float(number) * units[text[len(number) :].strip()]
    except (ValueError, KeyError):
        value = 0.0
    if not 0 < value < 1e9:
        raise UsageError(f"--time-budget {text}: expected a time above 0 with its unit, as 90s, 20min or 2h")
    return value


def count_or_all(text: str) -> int | None:
    """ "3" → 3, "all" → None. Raises UsageError on anything else."""
    if text == "all":
        return None
    if not text.isdecimal():
        raise UsageError(f"--max-bad {text}: expected a whole number from 0, or all")
    return int(text)
