"""`CheckSubject` → the page of a data check, one HTML file as text: findings with their pictures, classes, facts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from wideresnet.report.build import OPEN_ROWS, _number, _picture


@dataclass(frozen=True, slots=True, eq=False)
class CheckPicture:
    name: str
    where: str  # split and class, in words
    image: np.ndarray | None  # uint8 [H, W, 3]; None if it cannot be read


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CheckItem:
    """Pictures that belong together, `more` of which are not shown, and what is said of them."""

    pictures: Sequence[CheckPicture]
    more: int
    note: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CheckFinding:
    """`items` are the first of `num_items`."""

    kind: str
    severity: str
    heading: str
    count: int
    sentence: str
    suggestion: str
    items: Sequence[CheckItem]
    num_items: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CheckSubject:
    """What the page is about; counts: split → number of readable pictures of each class."""

    title: str
    command: str
    num_images: int
    class_names: Sequence[str]
    counts: Mapping[str, Sequence[int]]
    facts: Sequence[tuple[str, str]]
    findings: Sequence[CheckFinding]
    notes: Sequence[str]


def build_check(subject: CheckSubject) -> str:
    """The page, encodable as UTF-8 whatever the names hold."""
    environment = Environment(
        loader=PackageLoader("wideresnet", "report"),
        autoescape=True,  # every name is a stranger's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "picture": _picture}
    totals = [sum(column) for column in zip(*subject.counts.values(), strict=True)]
    rows = [
        (name, [counts[label] for counts in subject.counts.values()], totals[label])
        for label, name in enumerate(subject.class_names)
    ]
    page = environment.get_template("check.html.j2").render(
        subject=subject,
        rows=sorted(rows, key=lambda row: -row[2]),
        most=max(totals, default=0),
        open_rows=OPEN_ROWS,
        grave=[one for one in subject.findings if one.severity == "error"],
        warnings=[one for one in subject.findings if one.severity == "warning"],
    )
    return page.encode("utf-8", "replace").decode("utf-8")
