"""`wrn explain`."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from wideresnet.cli.console import percent, print_json, say, say_error, watching
from wideresnet.cli.predicting import named_and_listed
from wideresnet.cli.trainings import AS_FOUND, ReadingOptions
from wideresnet.errors import DONE, SOME_FAILED, UsageError, printable

if TYPE_CHECKING:
    from wideresnet.jobs.explanation import Explained

_PAGE = "explanation.html"


def explain(
    model: Path,
    /,
    *sources: Annotated[str, Parameter(allow_leading_hyphen=True)],
    class_name: Annotated[str | None, Parameter(name="--class")] = None,
    check: Literal["occlusion", "integrated-gradients"] = "occlusion",
    neighbours: int = 5,
    data: str | None = None,
    report: Path | None = None,
    draw: Path | None = None,
    json: bool = False,
    device: str = "auto",
    engine: Literal["auto", "kernels", "torch"] = "auto",
    reading: ReadingOptions = AS_FOUND,
) -> int:
    """Show where MODEL looked in each picture, how sure it is, and what it was trained on that is most like it.

    Exit code 1 if some pictures could not be read: each is told with its reason.

    Parameters
    ----------
    model
        A run folder, a model file, or hf:OWNER/NAME of Hugging Face.
    sources
        Files, folders (all pictures below), globs; - reads a list of files from standard input, one a line.
    class_name
        Explain this class instead of the one that the model says.
    check
        What the heat is checked by: occlusion (windows are covered, one after another) or integrated-gradients.
    neighbours
        How many of the nearest training pictures are shown; 0 for none, and their data is not read.
    data
        Where the training pictures are, if they are not where the run was trained, or MODEL is a file; read as the run
        read its own, if nothing else is said.
    report
        Where the HTML page goes; explanation.html if not given, in the run folder, else here.
    draw
        A new folder for a PNG of each picture.
    json
        Print all that is said of each picture as JSON.
    device
        auto, cpu, cuda or mps.
    engine
        What computes the answers: kernels (our own, on a CPU, where they were built and know the network) or torch;
        auto takes the first of these that can. Heat is computed by torch.
    """
    from wideresnet import jobs

    named, listed = named_and_listed(sources, "wrn explain")
    page = _page(model) if report is None else report
    rows, count, failed, drawn = list[dict[str, Any]](), 0, 0, 0
    with watching() as watch:
        for one in jobs.explain_files(
            model,
            named,
            files=listed,
            class_name=class_name,
            check=check,
            neighbours=neighbours,
            data=data,
            device=device,
            engine=engine,
            reading=reading,
            report_file=page,
            draw=draw,
            command=shlex.join(["wrn", *sys.argv[1:]]),
            watch=watch,
        ):
            count, failed, drawn = count + 1, failed + bool(one.error), drawn + (one.drawn is not None)
            if json:
                rows.append(_fields(one))
            else:
                _say(one)
    if json:
        print_json(rows)
    if draw is not None:
        say(f"drawn: {drawn} in {draw}")
    if failed < count:
        say(f"report: {page}")
    if failed:
        say_error(f"{failed} of {count} pictures could not be explained; each has its reason above")
    return SOME_FAILED if failed else DONE


def _page(model: Path) -> Path:
    """In a run folder the page is the run's, as evaluation.html is; elsewhere nobody named it."""
    if model.is_dir() and os.access(model, os.W_OK):
        return model / _PAGE
    if Path(_PAGE).exists():
        raise UsageError(f"{_PAGE}: exists; name the page to write with --report")
    return Path(_PAGE)


def _say(one: "Explained") -> None:
    from wideresnet.report import explaining

    e, path = one.explanation, printable(one.path)
    if e is None:
        print(f"{path}  error: {printable(one.error)}")
        return
    named = printable(e.class_name)
    other = "" if e.class_name == e.prediction.label else f"  explained: {named}"
    print(f"{path}  {printable(e.prediction.label)}  {percent(e.prediction.confidence)}{other}")
    if e.has_heat:
        before, warmest, coldest = map(percent, e.covered)
        agrees = "says nothing" if e.agreement is None else f"agrees to {e.agreement:.2f}"
        print(f"  {named} {before}; warmest fifth covered {warmest}, coldest {coldest}; {e.check_method} {agrees}")
    else:
        print(f"  {printable(explaining.no_heat(e))}")
    if e.neighbours:
        print(f"  like {', '.join(f'{printable(near.label)} {near.distance:.3f}' for near in e.neighbours)}")
    if e.trained_on:
        print("  trained on this very picture")


def _fields(one: "Explained") -> dict[str, Any]:
    e, fields = one.explanation, {"path": str(one.path), "error": one.error or None}
    if e is None:
        return fields
    left, top, right, bottom = e.seen
    covered = e.covered if e.has_heat else (e.covered[0], None, None)
    y, x = divmod(int(e.heat.argmax()), e.image.shape[1])
    names = ("name", "label", "distance", "same")
    return {
        **fields,
        "label": e.prediction.label,
        "confidence": e.prediction.confidence,
        "probs": e.prediction.probs,
        "unknown_score": e.prediction.unknown_score,
        "is_unknown": e.prediction.is_unknown,
        "class": e.class_name,
        "has_heat": e.has_heat,
        "warmest": {"x": x, "y": y} if e.has_heat else None,
        "seen": {"left": left, "top": top, "right": right, "bottom": bottom},
        "check": e.check_method,
        "agreement": e.agreement,
        "covered": dict(zip(("nothing", "warmest", "coldest"), covered, strict=True)),
        "trained_on": e.trained_on,
        "neighbours": [{name: getattr(near, name) for name in names} for near in e.neighbours],
        "drawn": None if one.drawn is None else str(one.drawn),
    }
