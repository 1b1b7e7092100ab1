"""`wrn import` and `wrn convert`."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from wideresnet.cli.console import print_json, say, watching
from wideresnet.cli.trainings import AS_FOUND, ReadingOptions, count_or_all
from wideresnet.errors import UsageError

if TYPE_CHECKING:
    from wideresnet.jobs import Candidate


def import_(
    checkpoint: Path,
    /,
    *,
    dialect: str | None = None,
    out: Path | None = None,
    check: str | None = None,
    dataset: str | None = None,
    class_names: Annotated[tuple[str, ...] | None, Parameter(negative=())] = None,
    mean: Annotated[tuple[float, ...] | None, Parameter(negative=())] = None,
    std: Annotated[tuple[float, ...] | None, Parameter(negative=())] = None,
    size: int | None = None,
    ema: Annotated[bool, Parameter(negative=())] = False,
    set_aside: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    trust_pickle: Annotated[bool, Parameter(negative=())] = False,
    json: bool = False,
    max_bad: str = "0",
    reading: ReadingOptions = AS_FOUND,
) -> None:
    """Someone else's checkpoint → a model file of ours, with its preprocessing: .pt .pth .pth.tar .pkl .safetensors
    .npz .h5. Where its keys do not say what it is, it asks, or measures.

    Parameters
    ----------
    checkpoint
        The file. Depth, width, classes and channels are read off its tensors.
    dialect
        Whose network it is: see `wrn models --dialects`. Not needed where the keys say it.
    out
        The model file to write; CHECKPOINT-wrn.safetensors if not given.
    check
        Labelled DATA as in `wrn train`: measures each dialect that the keys allow on it, and takes the right one.
    dataset
        cifar10, cifar100, svhn or mnist: what it was trained on, where its source normalises each in its own way.
    class_names
        Names of its classes, in the order of its head.
    mean
        Mean of each channel in [0, 1] that it was trained with, where that is not its source's.
    std
        Standard deviation of each channel; likewise.
    size
        Side in pixels of the pictures it was trained on; 32 if not given, 28 of MNIST.
    ema
        Take the averaged weights that lie beside.
    set_aside
        Patterns of keys that are no part of the network: a second head, say. They are kept for `wrn convert`.
    trust_pickle
        Read a pickle. Tensors and plain values are taken; no code in it is run.
    json
        Print what was found as JSON.
    max_bad
        How many unreadable pictures of --check may be left out, or all.
    """
    from wideresnet import jobs

    asks = sys.stdin.isatty() and sys.stderr.isatty()
    with watching() as watch:
        done = jobs.import_checkpoint(
            checkpoint,
            dialect=dialect,
            out=out,
            check=check,
            dataset=dataset,
            class_names=class_names,
            mean=mean,
            std=std,
            size=size,
            ema=ema,
            set_aside=set_aside,
            trust_pickle=trust_pickle,
            reading=reading,
            max_bad=count_or_all(max_bad),
            choose=_ask if asks else None,
            watch=watch,
        )
    if json:
        print_json(
            {
                "path": str(done.path),
                "dialect": done.dialect,
                "network": done.arch,
                "num_classes": done.num_classes,
                "preprocess": done.preprocess.to_dict(),
                "candidates": [{"dialects": each.names, "accuracy": each.accuracy} for each in done.candidates],
                "notes": done.notes,
            }
        )
        return
    if check is not None:
        for line in jobs.described(done.candidates):
            print(line)
    for note in done.notes:
        say(f"note: {note}")
    print(f"{done.path}: {done.arch}, {done.num_classes} classes, read as {done.dialect}")
    path = shlex.quote(str(done.path))
    print(f"next:    wrn predict {path} PICTURE…    wrn evaluate {path} DATA    wrn info {path}")


def _ask(candidates: "Sequence[Candidate]") -> "Candidate":
    """Numbered, on a terminal. Raises UsageError on anything but a number of the list."""
    from wideresnet import jobs

    say("Its keys fit dialects that compute differently:")
    for number, line in enumerate(jobs.described(candidates), 1):
        say(f"{number:3}  {line}")
    say(f"Which one, 1 to {len(candidates)}? (Enter: none; --check DATA measures them)")
    answer = sys.stdin.readline().strip()
    if not answer.isdecimal() or not 1 <= int(answer) <= len(candidates):
        raise UsageError(f"{answer or 'none'} chosen; say which with --dialect NAME, or measure with --check DATA")
    return candidates[int(answer) - 1]


def convert(model: Path, /, *, dialect: str, out: Path | None = None, download: bool = False) -> None:
    """A model file of ours → a checkpoint under another code base's keys. Refused where that would compute otherwise.

    Parameters
    ----------
    model
        A run folder, a model file, or hf:OWNER/NAME of Hugging Face.
    dialect
        Whose keys: see `wrn models --dialects`. What was imported from this dialect comes back as it was.
    out
        The file to write: .pth, .pt, .safetensors or .npz; MODEL-DIALECT.pth if not given.
    download
        Fetch MODEL that is hf:OWNER/NAME.
    """
    from wideresnet import jobs

    done = jobs.convert(model, dialect, out, download=download)
    for note in done.notes:
        say(f"note: {note}")
    print(f"{done.path}: {done.num_tensors} tensors under the keys of {dialect}")
