"""`wrn data check`, `wrn data cache list` and `wrn data cache clear`."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from wideresnet.cli.console import print_json, print_table, say, watching
from wideresnet.cli.trainings import AS_FOUND, ReadingOptions
from wideresnet.errors import DONE, SOME_FAILED, printable

if TYPE_CHECKING:
    from wideresnet.data.check import Finding
    from wideresnet.jobs import DataCheck

data = App(
    name="data",
    help="What is wrong with data: `wrn data check DATA`. What is kept of it between runs: `wrn data cache list`.",
    help_format="plaintext",
)
cache = App(name="cache", help="Decoded pictures on disk, mapped by the next run; safe to remove.")
data.command(cache)

_EXAMPLES = 3  # pictures named on a terminal; --json has all, --report shows them

_KINDS = {"pixels": "", "survey": " (digests only)", "encoded": " (encoded, of a table)"}


@cache.command(name="list")
def list_(*, json: bool = False) -> None:
    """What is kept, newest first: data, size, pictures, bytes, date, key.

    Parameters
    ----------
    json
        Print JSON instead of a table.
    """
    from wideresnet.data import cache as kept

    found = kept.entries()
    if json:
        print_json([entry.to_dict() for entry in found])
        return
    columns = {"data": "left", "size": "right", "pictures": "right", "bytes": "right", "made": "left", "key": "left"}
    rows = []
    for entry in found:
        what = entry.note or f"{entry.pictures:,}{_KINDS[entry.kind]}"
        made = f"{entry.made:%Y-%m-%d %H:%M}"
        rows.append([entry.data, str(entry.size or "–"), what, f"{entry.num_bytes:,}", made, entry.key])
    print_table("", columns, rows)
    say(f"{sum(entry.num_bytes for entry in found):,} bytes in {kept.folder()}")


@cache.command
def clear(*keys: str) -> None:
    """Remove what is kept. A run that reads it keeps it until it ends; encoded pictures that one reads are left.

    Parameters
    ----------
    keys
        Keys as `wrn data cache list` shows them, or their beginnings; all if none is given.
    """
    from wideresnet.data import cache as kept

    num_files, num_bytes = kept.clear(keys)
    print(f"removed: {num_files} file{'' if num_files == 1 else 's'}, {num_bytes:,} bytes")
    if left := [entry.key for entry in kept.entries() if not keys or entry.key.startswith(keys)]:
        say(f"left, for a run reads them: {', '.join(left)}")


@data.command
def check(
    source: str,
    /,
    *,
    json: bool = False,
    report: Path | None = None,
    fix: Path | None = None,
    model: Path | None = None,
    device: str = "auto",
    reading: ReadingOptions = AS_FOUND,
) -> int:
    """Look at every picture of DATA and say what is wrong: unreadable files, copies and near copies, in one split, in
    two or under two labels; classes and sizes; blank, dark and blurred pictures. Exit code 1 if an error was found
    (files that cannot be read, a picture in two splits or under two labels, an empty split…) that --fix has not mended.

    Parameters
    ----------
    source
        DATA, as in `wrn train`.
    json
        Print JSON with all pictures of all findings.
    report
        Where a page with the pictures goes: one HTML file.
    fix
        Write a copy without what cannot be read, is blank or is there twice: a folder that is not there yet, or an .npz
        if DATA is arrays. DATA is never changed. The copy lists what was left out, and why.
    model
        A run folder or a model file: labels that it doubts are named too. It need not know the classes.
    device
        Where the model computes: auto, cpu, cuda or mps.
    """
    from wideresnet import jobs

    with watching() as watch:
        checked = jobs.check_data(
            source,
            model=model,
            device=device,
            report_file=report,
            fix=fix,
            **dataclasses.asdict(reading),
            command=shlex.join(["wrn", *sys.argv[1:]]),
            watch=watch,
        )
    if json:
        print_json(checked.to_dict())
    else:
        _print(checked)
    if report is not None:
        say(f"report: {report}")
    if fix is not None:
        say(f"cleaned copy: {fix}, without {len(checked.left_out):,} pictures")
        if checked.table is not None:
            say(f"its groups are in a table: wrn train {shlex.quote(str(checked.table))} --group-column group")
    return SOME_FAILED if checked.failed else DONE


def _print(checked: "DataCheck") -> None:
    splits = "; ".join(f"{sum(classes.values()):,} {split}" for split, classes in checked.counts.items())
    of = "class" if len(checked.class_names) == 1 else "classes"
    print(f"{printable(checked.data)}: {splits}; {len(checked.class_names):,} {of}")
    width, height = checked.facts["width"], checked.facts["height"]
    sizes = f"{width['least']}×{height['least']} to {width['most']}×{height['most']}"
    print(f"sizes {sizes}, median {width['median']}×{height['median']}")
    for note in checked.notes:
        print(f"note: {printable(note)}")
    if not checked.findings:
        print("nothing was found that should be mended")
    for finding in checked.findings:
        print(f"\n{finding.severity}: {printable(finding.sentence)}\n  → {finding.suggestion}")
        for line in _examples(finding):
            print(f"  {printable(line)}")


def _examples(finding: "Finding") -> list[str]:
    lines = []
    for item in finding.items[:_EXAMPLES]:
        tell = finding.kind in ("clash", "near-clash", "suspect")
        names = [f"{one.name} ({one.class_name})" if tell else one.name for one in item.pictures[:4]]
        names += [f"and {len(item.pictures) - 4} more"] if len(item.pictures) > 4 else []
        lines.append(" = ".join(names) + (f": {item.note}" if item.note else ""))
    more = len(finding.items) - len(lines)
    return lines + ([f"… and {more:,} more"] if more > 0 else [])
