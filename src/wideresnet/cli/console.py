"""What a person sees: lines, a progress bar, tables. Results go to standard output, all else to the other."""

import codecs
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from wideresnet.errors import printable, speaker

if TYPE_CHECKING:
    from wideresnet.runtime import Watch


def prepare_streams() -> None:
    """File names may be any bytes: those that are no text go out as they are. And what an encoding lacks (LANG=C, an
    older Windows) is written as \\u…, not as one like it: it may be part of a name. So neither stops a job half-way."""
    codecs.register_error("wrn", _written_otherwise)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="wrn")


def _written_otherwise(error: UnicodeError) -> tuple[str | bytes, int]:
    """What a stream writes for a sign that it cannot: the byte of a name, or \\u…."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    if "\udc80" <= sign <= "\udcff":
        return bytes([ord(sign) - 0xDC00]), error.start + 1
    return sign.encode("ascii", "backslashreplace").decode(), error.start + 1


def json_text(value: object, indent: int | None = None) -> str:
    """As JSON, with its own escapes for all but ASCII where standard output is not UTF-8."""
    utf_8 = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("_", "-") in ("utf-8", "utf8")
    return json.dumps(value, indent=indent, ensure_ascii=not utf_8, default=str)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def say_error(message: str, error: BaseException | None = None) -> None:
    """Of several processes, which torchrun has numbered, the one that failed says why, and which it is; before they
    have found each other the first of each machine: all were given the same words."""
    rank, is_first = os.environ.get("RANK"), os.environ.get("LOCAL_RANK", "0") == "0"
    speaks = None if error is None else speaker(error)
    if rank is None:
        say(f"wrn: {message}")
    elif speaks == rank or (speaks is None and is_first):
        say(f"wrn, process {rank}: {message}")
    elif is_first:
        say(f"wrn, process {rank}: ended, as process {speaks} has, which says why")


def print_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    print(json_text(value, indent=2))


def print_table(title: str, columns: Mapping[str, str], rows: Sequence[Sequence[str]]) -> None:
    """`columns`: heading → "left" or "right". Plain and unwrapped where nobody looks at it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text, not str: a class called [/b] or :cat: is shown as it is.
    table = Table(title=Text(title) if title else None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for heading, justify in columns.items():
        table.add_column(Text(printable(heading)), justify="right" if justify == "right" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(highlight=False, width=None if sys.stdout.isatty() else 10_000).print(table)


@contextmanager
def watching() -> "Iterator[Watch]":
    """Lines and a live bar on a terminal; elsewhere lines alone, a bar's state at most every ten seconds."""
    from wideresnet.runtime import Watch

    if not sys.stderr.isatty():
        yield Watch(line=say, progress=_sparse())
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False, emoji=False)
    what, detail_column = TextColumn("{task.description}"), TextColumn("{task.fields[detail]}")
    columns = (what, BarColumn(), detail_column, TimeRemainingColumn())
    # What is printed beside a live bar goes above it, but never into it: results may flow into a file.
    redirect = sys.stdout.isatty()
    with Progress(*columns, console=console, transient=True, redirect_stdout=redirect) as bars:
        task = bars.add_task("", total=None, detail="", visible=False)

        def progress(what: str, done: int, total: int, detail: str) -> None:
            nonlocal task
            if bars.tasks[-1].total != total:  # another piece of work: another bar, with its own time left
                bars.remove_task(task)
                task = bars.add_task(what, total=total, detail=detail)
            bars.update(task, description=what, completed=done, detail=detail, visible=done < total)

        yield Watch(line=lambda line: console.print(line, markup=False), progress=progress)


def _sparse() -> Any:
    last = time.monotonic()

    def progress(what: str, done: int, total: int, detail: str) -> None:
        nonlocal last
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            say(f"{what}: {100 * done // max(total, 1)} %  {detail}")

    return progress


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"
