"""`wrn predict`."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from wideresnet.cli.console import json_text, percent, say_error, watching
from wideresnet.errors import DONE, SOME_FAILED, UsageError, printable

if TYPE_CHECKING:
    from wideresnet.jobs.prediction import Answer


def predict(
    model: Path,
    /,
    *sources: Annotated[str, Parameter(allow_leading_hyphen=True)],
    format: Literal["table", "csv", "jsonl"] = "table",  # noqa: A002 - the option's own name
    device: str = "auto",
    engine: Literal["auto", "kernels", "torch"] = "auto",
    abstain: float | None = None,
    download: bool = False,
    max_pixels: int | None = None,
) -> int:
    """Say what each picture is. Exit code 1 if some could not be read: each is a row with its reason.

    Parameters
    ----------
    model
        A run folder, a model file, or hf:OWNER/NAME of Hugging Face.
    sources
        Files, folders (all pictures below), globs; - reads a list of files from standard input, one a line.
    format
        table for a person, csv or jsonl for a program; jsonl has the probability of every class.
    device
        auto, cpu, cuda or mps.
    engine
        What computes: kernels (our own, on a CPU, where they were built and know the network) or torch; auto takes the
        first of these that can.
    abstain
        The share of wrong answers you can put up with, as 0.01: where the model is less sure than that took on the val
        part of its training, it says so.
    download
        Fetch MODEL that is hf:OWNER/NAME.
    max_pixels
        Refuse pictures of more pixels, from their header; 89,478,485 if not given.
    """
    from wideresnet import jobs

    named, listed = named_and_listed(sources, "wrn predict")
    failed = 0
    with watching() as watch:
        writer = _Writer(format)
        for answer in jobs.predict(
            model,
            named,
            files=listed,
            device=device,
            engine=engine,
            abstain=abstain,
            download=download,
            max_pixels=max_pixels,
            watch=watch,
        ):
            writer.write(answer)
            failed += answer.prediction is None
    if failed:
        say_error(f"{failed} of {writer.count} pictures could not be read; each has its reason above")
    return SOME_FAILED if failed else DONE


def named_and_listed(sources: Sequence[str], command: str) -> tuple[list[str], list[Path]]:
    """The sources on the command line, and the files that a list on standard input names, where one of them is "-".
    Raises UsageError on an option that is none."""
    from wideresnet import jobs

    for source in sources:
        if source.startswith("-") and source != "-" and not Path(source).exists():
            raise UsageError(f"{source}: no such option or file; see `{command} --help`")
    listed = jobs.listed(sys.stdin.buffer.read()) if "-" in sources else []
    return [source for source in sources if source != "-"], listed


class _Writer:
    """Answers as they come, in one of three formats, to standard output."""

    def __init__(self, format: str) -> None:  # noqa: A002 - the option's own name
        self.format, self.count = format, 0

    def write(self, answer: "Answer") -> None:
        prediction = answer.prediction
        fields: dict[str, Any] = {"path": str(answer.path), "label": None, "confidence": None}
        if prediction is not None:
            fields |= {"label": prediction.label, "confidence": prediction.confidence}
        fields["error"] = answer.error or None
        if self.format == "jsonl":
            if prediction is not None:
                fields |= {"probs": prediction.probs, "abstains": prediction.abstains}
                fields |= {"unknown_score": prediction.unknown_score, "is_unknown": prediction.is_unknown}
            print(json_text(fields))
        elif self.format == "csv":
            rows = csv.writer(sys.stdout, lineterminator="\n")
            if self.count == 0:
                rows.writerow(["path", "label", "confidence", "error", "abstains", "unknown_score", "is_unknown"])
            further: list[Any] = [None, None, None]
            if prediction is not None:
                further = [prediction.abstains, prediction.unknown_score, prediction.is_unknown]
            further = [str(each).lower() if isinstance(each, bool) else each for each in further]
            rows.writerow([fields["path"], fields["label"], fields["confidence"], fields["error"], *further])
        else:
            what = f"error: {printable(answer.error)}"
            if prediction is not None:
                guess = "not sure enough; perhaps " if prediction.abstains else ""
                what = f"{guess}{printable(prediction.label)}  {percent(prediction.confidence)}"
                what += "  unlike what it was trained on" if prediction.is_unknown else ""
            print(f"{printable(answer.path)}  {what}")
        self.count += 1
