"""`check_data`: data → what is in it and what is wrong with it; on demand as a page, and as a cleaned copy."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from wideresnet import data as data_room
from wideresnet import files, kinds, report, runtime
from wideresnet.data import Data, check
from wideresnet.data.check import Finding, Gallery, LeftOut, Look, Place, Suspect
from wideresnet.data.decoding import survey, upright
from wideresnet.data.listing import ALL
from wideresnet.errors import DataError, ImageError
from wideresnet.jobs.evaluation import check_finite, check_report
from wideresnet.jobs.sharing import load
from wideresnet.prediction import Predictor
from wideresnet.reading import Reading

SHOWN = 12  # of each finding on the page; all of them are in --json
_AT_ONCE = 2048  # pictures that the model is given at once
_SPLITS = ("train", "val", "test", "all")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataCheck:
    """What `check_data` found. `counts`: split → class → pictures that can be read; `facts`: sizes, colours and
    formats; `notes`: what was passed over, and what was not looked for; `left_out`: of the cleaned copy."""

    data: str
    place: str
    class_names: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    facts: dict[str, Any]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    fixed: Path | None = None
    left_out: tuple[LeftOut, ...] = ()

    @property
    def num_images(self) -> int:
        """That can be read."""
        return sum(sum(classes.values()) for classes in self.counts.values())

    def num(self, severity: str) -> int:
        """How many findings are of that severity: error, warning or info."""
        return sum(one.severity == severity for one in self.findings)

    @property
    def failed(self) -> bool:
        """Whether an error was found that no cleaned copy has mended."""
        mended = ("unreadable", "leak", "clash") if self.fixed is not None else ()
        return any(one.severity == "error" and one.kind not in mended for one in self.findings)

    @property
    def table(self) -> Path | None:
        """Of a cleaned copy of data with groups, which its folders cannot say."""
        table = None if self.fixed is None else self.fixed / check.TABLE
        return table if table is not None and table.is_file() else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with every picture of every finding by name."""
        return {
            "data": self.data,
            "place": self.place,
            "num_images": self.num_images,
            "class_names": list(self.class_names),
            "counts": self.counts,
            "facts": self.facts,
            "errors": self.num("error"),
            "warnings": self.num("warning"),
            "findings": [one.to_dict() for one in self.findings],
            "notes": list(self.notes),
            "fixed": None if self.fixed is None else str(self.fixed),
            "left_out": [
                {"name": o.place.name, "split": o.place.split, "class": o.place.class_name, "reason": o.reason}
                for o in self.left_out
            ],
        }


@kinds.checked
@data_room.workers_watched()
def check_data(
    data: str | Path,
    *,
    model: str | Path | None = None,
    device: str = "auto",
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    download: bool = False,
    max_pixels: int | None = None,
    report_file: str | Path | None = None,
    fix: str | Path | None = None,
    command: str | None = None,
    watch: runtime.Watch = runtime.PRINT,
) -> DataCheck:
    """Looks at every picture of `data` once, in its own size, and finds unreadable files, copies, leaks between splits,
    labels that clash, odd pictures and classes.

    model: names doubtful labels too, by cross-validation on its embeddings (device: where it computes); it need not
    know the classes. report_file: a page with the pictures. fix: writes a copy without what is broken, blank or there
    twice; a folder, or an .npz where the data is arrays. `data` itself is never changed. The columns: see `Reading`.
    Raises DataError, UsageError, ModelFileError.
    """
    check_report(report_file)
    reading = Reading(
        image_column=image_column,
        label_column=label_column,
        split_column=split_column,
        group_column=group_column,
        download=download,
        max_pixels=max_pixels,
    )
    listing = data_room.read(data, reading, watch)
    if not sum(map(len, listing.splits.values())):
        raise DataError(f"{listing.place}: no picture to look at")
    if fix is not None:
        check.check_out(listing, Path(fix))
    predictor = None if model is None else load(model, device, download=download)
    seen = check.gallery(
        listing, {s: check.look(one, f"looking at {s} pictures", watch) for s, one in listing.splits.items()}
    )
    comparable = seen.comparable(check.SMALLEST)
    found = check.duplicates(seen.digests, seen.thumbnails, comparable, watch=watch)
    suspects, notes = _suspects(seen, predictor, str(model), check.together(len(seen), found), watch)
    if (few := sum(one is not None for one in seen.looks) - int(comparable.sum())) > 0:
        what = f"smaller than {check.SMALLEST} pixels or blank"
        notes.append(f"near duplicates were not looked for among {few:,} pictures that are {what}")
    if found.alike:
        notes.append(
            "the pictures of this data are all alike: near copies cannot be told from them and were not looked for"
        )
    fixed, left_out = None, list[LeftOut]()
    if fix is not None:
        left_out = check.write_copy(seen, Path(fix), check.left_out(seen, found), watch)
        fixed = Path(fix)
        if lacking := check.unrelated(listing):
            notes.append(
                f"left out of the copy, for they have no row for each picture of a split: {', '.join(lacking)}"
            )
    checked = DataCheck(
        data=listing.name,
        place=listing.place,
        class_names=listing.class_names,
        counts=_ordered(check.counts(seen)),
        facts=_facts(seen),
        findings=tuple(check.find(seen, found, suspects)),
        notes=(*listing.notes, *notes),
        fixed=fixed,
        left_out=tuple(left_out),
    )
    if report_file is not None:
        page = _page(checked, listing, command or shlex.join(["wrn", "data", "check", str(data)]))
        files.write_whole(Path(report_file), page)
    return checked


def _ordered(counts: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    return {split: counts[split] for split in sorted(counts, key=_SPLITS.index)}


def _facts(seen: Gallery) -> dict[str, Any]:
    looks = [one for one in seen.looks if one is not None]
    sides = np.array([(one.width, one.height) for one in looks] or [(0, 0)])
    return {
        "width": {
            "least": int(sides[:, 0].min()),
            "median": int(np.median(sides[:, 0])),
            "most": int(sides[:, 0].max()),
        },
        "height": {
            "least": int(sides[:, 1].min()),
            "median": int(np.median(sides[:, 1])),
            "most": int(sides[:, 1].max()),
        },
        "colours": dict(Counter(one.colours for one in looks).most_common()),
        "formats": dict(Counter(one.format for one in looks).most_common()),
    }


def _suspects(
    seen: Gallery, predictor: Predictor | None, model: str, together: Sequence[Sequence[int]], watch: runtime.Watch
) -> tuple[list[Suspect], list[str]]:
    """Doubtful labels by what the model sees, and what a person should know of that."""
    if predictor is None:
        return [], []
    embeddings = embeddings_of(seen.data, predictor, watch)
    check_finite(embeddings, [place.name for place in seen.places], model)
    rows = np.array([row for row, one in enumerate(seen.each) if isinstance(one, Look)], dtype=np.int64)
    digests = seen.digests
    marks = {
        row: digests[min(those)] or digests[row] for those in together for row in those
    }  # copies are held out as one
    labels = seen.labels[rows]
    probs, judged = check.out_of_sample(
        embeddings[rows], labels, [marks.get(r, digests[r]) for r in rows.tolist()], watch
    )
    suspects = [
        Suspect(int(rows[one.row]), one.likely, one.confidence, one.of_label)
        for one in check.suspects(probs, labels, judged)
    ]
    notes = []
    if not judged.all():
        few = f"whose classes have fewer than {check.FEWEST} different ones, or none that was not held out with them"
        notes.append(f"labels were not judged of {int((~judged).sum()):,} pictures {few}")
    marked = data_room.known_marks(predictor.extra["seen"]) if "seen" in predictor.extra else frozenset()
    if known := sum(digests[row][:8] in marked for row in rows.tolist()):
        notes.append(
            f"the model was trained on {known:,} of these pictures: wrong labels that it learnt by heart look right "
            "to it; one trained for few epochs, or on other pictures, finds more"
        )
    return suspects, notes


def embeddings_of(data: Data, predictor: Predictor, watch: runtime.Watch = runtime.QUIET) -> npt.NDArray[np.float64]:
    """[N, D], of every picture in the order of the splits; of those that cannot be read, of a black square."""
    parts, waiting, threads = list[Tensor](), list[Tensor](), torch.get_num_threads()

    def compute() -> None:
        if waiting:
            with runtime.threads(threads):  # while pictures are read there is one
                parts.append(predictor.embed(torch.cat(waiting))[1].float())
            waiting.clear()

    def keep(images: Tensor) -> None:
        waiting.append(images)
        if sum(map(len, waiting)) >= _AT_ONCE:
            compute()

    for split, listing in data.splits.items():
        survey(listing, predictor.card.preprocess, keep, what=f"showing the model {split} pictures", watch=watch)
    compute()
    return torch.cat(parts).double().numpy()


def _page(checked: DataCheck, data: Data, command: str) -> str:
    sides = checked.facts["width"], checked.facts["height"]
    facts = [
        ("Data", checked.place),
        ("Size", f"{_size('least', sides)} to {_size('most', sides)}, median {_size('median', sides)}"),
        ("Colours", ", ".join(f"{kind} {count:,}" for kind, count in checked.facts["colours"].items())),
        ("Stored as", ", ".join(f"{kind} {count:,}" for kind, count in checked.facts["formats"].items())),
    ]
    if checked.fixed is not None:
        facts.append(("Cleaned copy", f"{checked.fixed}, without {len(checked.left_out):,} pictures"))
    return report.build_check(
        report.CheckSubject(
            title=f"{checked.data}: data check",
            command=command,
            num_images=checked.num_images,
            class_names=checked.class_names,
            counts={split: list(classes.values()) for split, classes in checked.counts.items()},
            facts=facts,
            findings=[_shown(one, data) for one in checked.findings],
            notes=checked.notes,
        )
    )


def _shown(finding: Finding, data: Data) -> report.CheckFinding:
    items = [
        report.CheckItem(
            pictures=[report.CheckPicture(one.name, _where(one), _image(data, one)) for one in item.pictures[:4]],
            more=max(0, len(item.pictures) - 4),
            note=item.note,
        )
        for item in finding.items[:SHOWN]
    ]
    return report.CheckFinding(
        kind=finding.kind,
        severity=finding.severity,
        heading=finding.heading,
        count=finding.count,
        sentence=finding.sentence,
        suggestion=finding.suggestion,
        items=items,
        num_items=len(finding.items),
    )


def _where(place: Place) -> str:
    """Split and class, in words."""
    return " · ".join(text for text in (place.split, place.class_name) if text and text != ALL)


def _size(which: str, sides: tuple[dict[str, int], dict[str, int]]) -> str:
    return "×".join(f"{one[which]:,}" for one in sides)


def _image(data: Data, place: Place) -> npt.NDArray[np.uint8] | None:
    """As it is shown, no larger than the page has it; None if it cannot be read."""
    if place.row < 0:
        return None
    listing = data.splits[place.split]
    try:
        image = upright(listing.sources[place.row], listing.max_pixels)
    except ImageError:
        return None
    picture = Image.fromarray(image)
    picture.thumbnail((352, 352))
    return np.asarray(picture)
