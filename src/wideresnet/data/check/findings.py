"""What is wrong with data, or worth knowing of it, in plain words: each finding with its pictures and the next step."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from wideresnet.data.check import quality
from wideresnet.data.check.duplicates import Duplicates
from wideresnet.data.check.gallery import Gallery, Place
from wideresnet.data.check.looks import Look
from wideresnet.data.check.suspects import Suspect
from wideresnet.data.listing import ALL

Severity = Literal["error", "warning", "info"]

IMBALANCE = 10  # times as many pictures in the largest class as in the smallest
_ODD_SIZE = 4  # times smaller than the median

# kind → (severity, heading, next step). Errors make figures false or lose pictures, whatever one thinks of the rest.
KINDS: dict[str, tuple[Severity, str, str]] = {
    "unreadable": ("error", "Cannot be read", "mend or remove them; --fix OUT leaves them out"),
    "leak": ("error", "In more than one split", "keep each in one split; --fix OUT keeps those of test, then val"),
    "clash": (
        "error",
        "One picture, several labels",
        "decide which label is right; --fix OUT leaves such pictures out of what is trained on",
    ),
    "empty-split": ("error", "A split without pictures", "fill or remove it"),
    "one-class": ("error", "A single class", "add pictures of another class: there is nothing to tell apart"),
    "never-trained": ("error", "Classes without a picture to train on", "add some, or drop these classes"),
    "near-leak": (
        "warning",
        "Nearly the same in more than one split",
        "look at the pairs; --fix OUT keeps those of test, then val, where their labels are the same",
    ),
    "near-clash": (
        "warning",
        "Nearly the same, with different labels",
        "look at the pairs, and decide which label is right; --fix OUT leaves them as they are",
    ),
    "duplicate": ("warning", "More than once in a split", "keep one of each, as --fix OUT does"),
    "near-duplicate": (
        "warning",
        "Nearly the same in a split",
        "keep one of each, as --fix OUT does; or give them a group (--group-column), so that no split parts them",
    ),
    "suspect": ("warning", "Doubtful labels", "look at them, the most doubtful first; none is changed or left out"),
    "imbalance": ("warning", "Classes of very unequal size", "train with --class-weights or --balanced"),
    "one-picture": (
        "warning",
        "Classes with one picture",
        "add some: what is learnt from one cannot be judged on another",
    ),
    "never-judged": ("warning", "Classes without a picture to be judged on", "add some to test or val"),
    "blank": ("warning", "Blank", "remove them, as --fix OUT does"),
    "dark": ("warning", "Nearly black", "look at them; remove those on which nothing is seen"),
    "bright": ("warning", "Nearly white", "look at them; remove those on which nothing is seen"),
    "blurred": ("warning", "Blurred", "look at them; remove those on which nothing is told apart"),
    "tiny": ("warning", "Very small", "remove them, or get them in their original size"),
    "elongated": ("info", "Long and narrow", "train with --fit pad or squash: a square cut out of them loses most"),
    "small": (
        "info",
        "Much smaller than the others",
        "look at them: thumbnails among photographs are blurred once enlarged",
    ),
    "colours": ("info", "Several kinds of colours", "nothing to do: all are read as RGB, transparency on white"),
    "turned": (
        "info",
        "Turned by EXIF",
        "nothing to do here: they are read upright; a program that ignores EXIF does not see them so",
    ),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that was found: a picture, or several that belong together, and what is to be said of them."""

    pictures: tuple[Place, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """`count` things of one kind, in a sentence; `items` has all of them that are pictures."""

    kind: str
    count: int
    sentence: str
    items: tuple[Item, ...] = ()

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind][0]

    @property
    def heading(self) -> str:
        return KINDS[self.kind][1]

    @property
    def suggestion(self) -> str:
        return KINDS[self.kind][2]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        items = [
            {
                "pictures": [{"name": one.name, "split": one.split, "class": one.class_name} for one in item.pictures],
                "note": item.note,
            }
            for item in self.items
        ]
        return {
            "kind": self.kind,
            "severity": self.severity,
            "count": self.count,
            "sentence": self.sentence,
            "suggestion": self.suggestion,
            "items": items,
        }


def find(seen: Gallery, found: Duplicates, suspects: Sequence[Suspect] = ()) -> list[Finding]:
    """All findings, the gravest first, in the order of `KINDS`."""
    findings = [*_unreadable(seen), *_twice(seen, found), *_near(seen, found), *_classes(seen), *_files(seen)]
    findings += [_pictures(seen, kind, rows, say) for kind, rows, say in _qualities(seen) if rows]
    if suspects:
        findings.append(_suspects(seen, suspects))
    order = list(KINDS)
    return sorted(findings, key=lambda one: order.index(one.kind))


def number(count: int, what: str, verb: str = "") -> str:
    """ "1 picture is", "3 pictures are"."""
    plural = {"copy": "copies", "class": "classes", "is": "are", "has": "have", "cannot": "cannot", "shows": "show"}
    if count != 1:
        what, verb = plural.get(what, what + "s"), plural.get(verb, verb)
    return f"{count:,} {what} {verb}".rstrip()


def _unreadable(seen: Gallery) -> list[Finding]:
    items = [Item((seen.places[row],), one) for row, one in enumerate(seen.each) if isinstance(one, str)]
    items += [Item((Place(bad.name, "", "", -1),), bad.reason) for bad in seen.data.bad]
    if not items:
        return []
    total = len(seen) + len(seen.data.bad)
    return [Finding("unreadable", len(items), f"{len(items):,} of {total:,} pictures cannot be read.", tuple(items))]


def _twice(seen: Gallery, found: Duplicates) -> list[Finding]:
    leaks, clashes, inside = list[Item](), list[Item](), list[Item]()
    for rows in found.exact:
        item = Item(tuple(seen.places[row] for row in rows))
        splits, labels = {one.split for one in item.pictures}, {int(seen.labels[row]) for row in rows}
        if len(splits) > 1:
            leaks.append(item)
        if len(labels) > 1:
            clashes.append(item)
        if len(splits) == len(labels) == 1:
            inside.append(item)
    findings = []
    if leaks:
        sentence = f"{number(len(leaks), 'picture', 'is')} in more than one split, which flatters the figures."
        findings.append(Finding("leak", len(leaks), sentence, tuple(leaks)))
    if clashes:
        sentence = f"{number(len(clashes), 'picture', 'is')} there under more than one label."
        findings.append(Finding("clash", len(clashes), sentence, tuple(clashes)))
    if inside:
        more = sum(len(item.pictures) - 1 for item in inside)
        sentence = (
            f"{number(len(inside), 'picture', 'is')} there more than once in a split: {number(more, 'copy')} too many."
        )
        findings.append(Finding("duplicate", len(inside), sentence, tuple(inside)))
    return findings


def _near(seen: Gallery, found: Duplicates) -> list[Finding]:
    """Pairs; of pictures with exact copies, the copies that make the case are named."""
    leaks, clashes, inside = list[Item](), list[Item](), list[Item]()
    for pair, both in found.of_near():
        parted = next(((a, b) for a, b in both if seen.places[a].split != seen.places[b].split), None)
        clashing = next(((a, b) for a, b in both if seen.labels[a] != seen.labels[b]), None)
        alone = None if parted or clashing else (pair.first, pair.second)
        note = f"{100 * pair.likeness:.0f} % alike" + (", in the mirror" if pair.mirrored else "")
        for where, those in ((leaks, parted), (clashes, clashing), (inside, alone)):
            if those:
                where.append(Item(tuple(seen.places[row] for row in those), note))
    findings = []
    for kind, items, what in (
        ("near-leak", leaks, "nearly the same in two splits, which flatters the figures"),
        ("near-clash", clashes, "nearly the same and differently labelled"),
        ("near-duplicate", inside, "nearly the same in one split"),
    ):
        if items:
            sentence = f"{number(len(items), 'pair', 'is')} {what}."
            findings.append(Finding(kind, len(items), sentence, tuple(items)))
    return findings


def counts(seen: Gallery) -> dict[str, dict[str, int]]:
    """Split → class → pictures that can be read."""
    names = seen.data.class_names
    found = {split: dict.fromkeys(names, 0) for split in seen.data.splits}
    for place, one in zip(seen.places, seen.each, strict=True):
        if isinstance(one, Look):
            found[place.split][place.class_name] += 1
    return found


def _classes(seen: Gallery) -> list[Finding]:
    table, findings = counts(seen), list[Finding]()
    empty = [split for split, classes in table.items() if not sum(classes.values())]
    if empty:
        sentence = f"No picture that can be read is in {', '.join(empty)}."
        findings.append(Finding("empty-split", len(empty), sentence))
    trained = table.get("train", table.get(ALL, {}))
    there = {name for classes in table.values() for name, count in classes.items() if count}
    if len(there) == 1:
        findings.append(Finding("one-class", 1, f"All pictures are of one class, {next(iter(there))}."))
    known = {name: count for name, count in trained.items() if count}
    if "train" in table and known and (lacking := sorted(there - known.keys())):
        findings.append(_named("never-trained", lacking, "there, but not in train"))
    if judged := [classes for split, classes in table.items() if split in ("val", "test") and split not in empty]:
        lacking = [name for name in known if not any(classes[name] for classes in judged)]
        if lacking:
            findings.append(_named("never-judged", lacking, "trained on, but in neither val nor test"))
    single = [name for name, count in known.items() if count == 1]
    if single:
        findings.append(_named("one-picture", single, "there with one picture to train on"))
    if len(known) > 1:
        least, most = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
        if known[most] >= IMBALANCE * known[least]:
            sentence = (
                f"{most} has {known[most]:,} pictures to train on and {least} has {known[least]:,}, "
                f"1 for {known[most] / known[least]:.0f}."
            )
            findings.append(Finding("imbalance", 1, sentence))
    return findings


def _named(kind: str, names: Sequence[str], what: str) -> Finding:
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return Finding(kind, len(names), f"{number(len(names), 'class', 'is')} {what}: {shown}.")


_Say = Callable[[Look], str]


def _qualities(seen: Gallery) -> list[tuple[str, list[int], _Say]]:
    """kind, rows, and what is said under a picture."""
    looks = seen.looks
    tiny = quality.tiny(looks)
    if 2 * len(tiny) > len(looks):  # pictures of this data are so small; the largest of them are not odd either
        tiny = [row for row in tiny if (one := looks[row]) and min(one.height, one.width) < 2]
    sides = quality.shapes(looks).min(1, initial=np.iinfo(np.int64).max)
    limit = np.median(sides) / _ODD_SIZE if len(sides) else 0
    small = [row for row, one in enumerate(looks) if one and min(one.height, one.width) < limit and row not in tiny]

    def size(one: Look) -> str:
        return f"{one.width}×{one.height}"

    return [
        ("blank", quality.blank(looks), size),
        ("dark", quality.dark(looks), lambda one: f"99 % of it is darker than {one.high + 1} of 255"),
        ("bright", quality.bright(looks), lambda one: f"99 % of it is brighter than {one.low - 1} of 255"),
        ("blurred", quality.blurred(looks), lambda one: f"sharpness {one.sharpness:.3f}"),
        ("tiny", tiny, size),
        ("small", small, size),
        ("elongated", quality.long(looks), size),
        ("turned", [row for row, one in enumerate(looks) if one and one.turned], size),
    ]


_SAID = {
    "blank": "of one colour",
    "dark": "nearly black",
    "bright": "nearly white",
    "blurred": "far less sharp than the others",
    "tiny": f"smaller than {quality.TINY} pixels",
    "small": "less than a quarter of the usual size",
    "elongated": f"at least {quality.LONG:g} times as long as wide",
    "turned": "stored turned or mirrored, which EXIF says",
}


def _pictures(seen: Gallery, kind: str, rows: Sequence[int], say: _Say) -> Finding:
    items = [Item((seen.places[row],), say(one)) for row in rows if isinstance(one := seen.each[row], Look)]
    return Finding(kind, len(items), f"{number(len(items), 'picture', 'is')} {_SAID[kind]}.", tuple(items))


def _files(seen: Gallery) -> list[Finding]:
    kinds = Counter(one.colours for one in seen.looks if one)
    if len(kinds) < 2:
        return []
    usual = kinds.most_common(1)[0][0]
    items = [
        Item((seen.places[row],), one.colours) for row, one in enumerate(seen.looks) if one and one.colours != usual
    ]
    said = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    return [Finding("colours", len(items), f"Colours are stored in several ways: {said}.", tuple(items))]


def _suspects(seen: Gallery, suspects: Sequence[Suspect]) -> Finding:
    names = seen.data.class_names
    items = [
        Item((seen.places[one.row],), f"rather {names[one.likely]}: {100 * one.confidence:.0f} %, its label "
             f"{100 * one.of_label:.0f} %")
        for one in suspects
    ]  # fmt: skip
    sentence = f"{number(len(items), 'picture', 'is')} rather of another class, as a model sees them."
    return Finding("suspect", len(items), sentence, tuple(items))
