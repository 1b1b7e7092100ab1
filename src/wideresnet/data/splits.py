"""Which picture is fitted on, chosen by, looked at once: train, val and test, from the seed, twins and groups whole."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wideresnet import runtime
from wideresnet.data.listing import ALL
from wideresnet.data.pictures import Pictures, joined
from wideresnet.errors import DataError

HELD_OUT_SHARE = 0.1
# Val chooses an epoch and a temperature: 2,500 pictures tell 90 % to ±1.2 points, and more of them would only be
# missing from train. Test is not cut: all that is learnt from it is the figure itself.
VAL_AT_MOST = 2_500
_NOTHING = -1  # the class of pictures without a box


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """`parts` has "train", and "val" and "test" where there are any; `note` says to a person how it came about."""

    parts: Mapping[str, Pictures]
    note: str


def divide(parts: Mapping[str, Pictures], seed: int, *, keep_val: bool = True) -> Splits:
    """Splits as given, or made: no split → 80/10/10; train and test alone → 10 % of train become val;
    val takes at most `VAL_AT_MOST`.

    Made splits are stratified and a function of the seed and the data; identical pictures, and pictures of one group,
    fall into one part. The test part is never touched to make another. With `keep_val` False a val part that would be
    made stays in train. Raises DataError if there is no train part, or too few pictures to make the parts.
    """
    parts = {name: pictures for name, pictures in parts.items() if len(pictures)}
    if ALL in parts:
        everything = parts[ALL]
        made = _stratified(everything, ("test", "val") if keep_val else ("test",), seed)
        held = f"{_share(len(everything))} val and 10 % test" if keep_val else "10 % test"
        kept = "groups and identical pictures" if everything.groups else "identical pictures"
        return Splits(made, f"no split given: {held} held out, stratified, seed {seed}, {kept} together")
    if "train" not in parts:
        raise DataError(
            f"nothing to train on: there is {', '.join(parts) or 'no picture'}, but no train part with pictures"
        )
    if "val" in parts or not keep_val:
        return Splits(dict(parts), "as given: " + ", ".join(parts))
    made = _stratified(parts["train"], ("val",), seed)
    note = f"{_share(len(parts['train']))} of train held out as val, seed {seed}"
    return Splits({**made, **{k: v for k, v in parts.items() if k != "train"}}, note)


def _share(num: int) -> str:
    """ "10 %" of up to 25,000 pictures; of more, so many as `VAL_AT_MOST` is."""
    return f"{100 * min(HELD_OUT_SHARE, VAL_AT_MOST / num):.2g} %"


def _stratified(pictures: Pictures, held_out: Sequence[str], seed: int) -> dict[str, Pictures]:
    """A tenth of each class (less for val of large data) for each name in `held_out`, the rest for train; at least one
    picture where the class has enough.

    Every class keeps pictures to train on, however many of them are the same or of one group.
    """
    val_share = min(HELD_OUT_SHARE, VAL_AT_MOST / len(pictures))
    shares = {name: val_share if name == "val" else HELD_OUT_SHARE for name in held_out}
    labels, generator = pictures.labels.tolist(), runtime.generator(seed, "split")
    together = _together(pictures)
    if pictures.boxes:
        classes = [boxes.classes or [_NOTHING] for boxes in pictures.boxes]
        held = _held_out_groups(together, classes, shares, generator, at_most=len(pictures))
    elif pictures.groups:
        held = _held_out_groups(together, [[label] for label in labels], shares, generator)
    else:
        held = _held_out_twins(together, labels, shares, generator)
    taken = {row for part in held.values() for row in part}
    rows = {"train": [row for row in range(len(pictures)) if row not in taken], **dict(reversed(held.items()))}
    for name, part in rows.items():
        if not part:
            of = "" if pictures.boxes else f" of {len(set(labels))} classes"
            raise DataError(
                f"{len(pictures)} pictures{of} are too few to make a {name} part: a class "
                f"needs a different picture{' of another group' if pictures.groups else ''} for each part. "
                "Add some, or give the parts yourself"
            )
    return {name: pictures.take(torch.tensor(sorted(part), dtype=torch.int64)) for name, part in rows.items()}


def _together(pictures: Pictures) -> list[list[int]]:
    """Rows that must not be parted, by their first: identical pictures, pictures of one group, and what these join."""
    above = list(range(len(pictures)))  # a row → an earlier one of its own set, or itself

    def first_of(row: int) -> int:
        while above[row] != row:
            above[row] = above[above[row]]
            row = above[row]
        return row

    seen: dict[bytes | str, int] = {}
    for row, digest in enumerate(pictures.digests):
        group = pictures.groups[row] if pictures.groups else ""
        for mark in (digest, group) if group else (digest,):
            one, other = first_of(seen.setdefault(mark, row)), first_of(row)
            above[max(one, other)] = min(one, other)
    sets: dict[int, list[int]] = defaultdict(list)
    for row in range(len(pictures)):
        sets[first_of(row)].append(row)
    return list(sets.values())


def _held_out_twins(
    together: Sequence[list[int]], labels: Sequence[int], shares: Mapping[str, float], generator: torch.Generator
) -> dict[str, list[int]]:
    """Class by class: identical pictures are few, and nearly always of one class."""
    rows: dict[str, list[int]] = {name: [] for name in shares}
    by_class: dict[int, list[list[int]]] = defaultdict(list)
    for members in together:
        by_class[labels[members[0]]].append(members)
    for label in sorted(by_class):
        twins_of = by_class[label]
        order: list[int] = torch.randperm(len(twins_of), generator=generator).tolist()
        order.sort(key=lambda group: len(twins_of[group]))  # stable: only where there are twins does it bias the draw
        for i, (name, share) in enumerate(shares.items()):
            wanted = max(1, round(share * sum(map(len, twins_of)))) if len(twins_of) > len(shares) else 0
            taken, kept_back = 0, len(shares) - i  # a group for each later part, and one for train
            while taken < wanted and len(order) > kept_back:
                group = order.pop(0)
                rows[name] += twins_of[group]
                taken += len(twins_of[group])
    return rows


def _held_out_groups(
    together: Sequence[list[int]],
    classes: Sequence[Sequence[int]],
    shares: Mapping[str, float],
    generator: torch.Generator,
    *,
    at_most: int | None = None,
) -> dict[str, list[int]]:
    """Groups are large and of any `classes`, of which a picture may have several: in random order, each is taken that
    brings a part nearer to its share of every class (squared distance, in pictures), unless train would lose a class by
    it. at_most: so many pictures there are in all, of which no part takes more than its share: classes that hardly any
    picture has would else take many."""
    counts = [Counter(label for row in members for label in classes[row]) for members in together]
    total = Counter(label for each in classes for label in each)
    left = Counter(total)  # not held out
    order: list[int] = torch.randperm(len(together), generator=generator).tolist()
    rows: dict[str, list[int]] = {}
    for name, share in shares.items():
        missing = {label: max(1.0, share * count) for label, count in total.items()}
        taken: set[int] = set()

        def farther(group: int, missing: dict[int, float] = missing) -> float:
            return sum(count * (count - 2 * missing[label]) for label, count in counts[group].items())

        def take(group: int, missing: dict[int, float] = missing, taken: set[int] = taken) -> None:
            taken.add(group)
            left.subtract(counts[group])
            for label, count in counts[group].items():
                missing[label] -= count

        def spare(group: int) -> bool:
            return all(left[label] > count for label, count in counts[group].items())

        room = sum(map(len, together)) if at_most is None else max(1, round(share * at_most))
        for group in order:
            if len(together[group]) <= room and farther(group) < 0 and spare(group):
                take(group)
                room -= len(together[group])
        if not taken and (possible := [group for group in order if spare(group)]):
            take(min(possible, key=farther))  # few, large groups: the least wrong one
        rows[name] = [row for group in sorted(taken) for row in together[group]]
        order = [group for group in order if group not in taken]
    return rows


def keep_labels(pictures: Pictures, num: int, seed: int) -> Pictures:
    """`num` different pictures of each class, or all that it has, drawn by the seed; those of a smaller `num` are among
    those of a larger one."""
    labels, kept = pictures.labels.tolist(), list[int]()
    seen: dict[int, set[bytes]] = defaultdict(set)
    for row in torch.randperm(len(pictures), generator=runtime.generator(seed, "labels")).tolist():
        digests = seen[labels[row]]
        if len(digests) < num and pictures.digests[row] not in digests:
            digests.add(pictures.digests[row])
            kept.append(row)
    return pictures.take(torch.tensor(sorted(kept), dtype=torch.int64))


def without_test(parts: Mapping[str, Pictures]) -> Pictures:
    """What a cross-validation is over: train and val, or everything where there are no parts; never a given test.

    Raises DataError where that is nothing.
    """
    there = [pictures for name, pictures in parts.items() if name != "test" and len(pictures)]
    if not there:
        raise DataError(f"nothing to train on: there is {', '.join(parts) or 'no picture'}, and test stays aside")
    return there[0] if len(there) == 1 else joined(there)


def fold_rows(pictures: Pictures, class_names: Sequence[str], folds: int, seed: int) -> list[Tensor]:
    """Rows of each fold, int64, ascending: every row in exactly one; identical pictures, and pictures of one group, in
    one; from the seed.

    A class's pictures go round the folds, so that no two folds differ in them by more than one (with identical
    pictures: than the most copies of one), nor in all. Groups are large and of any classes: the largest first, each
    goes to the fold that has least of its classes, so that this holds only about. Raises DataError if a class has fewer
    different pictures (groups) than there are folds, naming the smallest, or if all of one had to lie in one fold.
    """
    together, labels = _together(pictures), pictures.labels.tolist()
    counts = [Counter(labels[row] for row in members) for members in together]
    total = Counter(labels)
    num = Counter(label for count in counts for label in (count if pictures.groups else [*count][:1]))
    smallest = min(sorted(total), key=lambda label: num[label])
    if num[smallest] < folds:
        can = f"choose --folds {num[smallest]}" if num[smallest] > 1 else "no number of folds is small enough"
        what = f"{'group' if pictures.groups else 'different picture'}{'s' * (num[smallest] != 1)}"
        raise DataError(
            f"--folds {folds}: class {class_names[smallest]!r} has {num[smallest]} {what}, and each fold needs one; "
            f"{can}, or add pictures"
        )
    rows: list[list[int]] = [[] for _ in range(folds)]
    of_class: list[Counter[int]] = [Counter() for _ in range(folds)]
    order: list[int] = torch.randperm(len(together), generator=runtime.generator(seed, "folds")).tolist()
    # Many copies first, and single pictures even it out: class by class, but for groups, which have several.
    order.sort(key=lambda one: (0 if pictures.groups else labels[together[one][0]], -len(together[one])))
    for one in order:
        shares = [sum(n * of[label] / total[label] for label, n in counts[one].items()) for of in of_class]
        fold = min(range(folds), key=lambda k: (shares[k], len(rows[k])))
        rows[fold] += together[one]
        of_class[fold].update(counts[one])
    if whole := [label for label in sorted(total) if any(of[label] == total[label] for of in of_class)]:
        raise DataError(
            f"--folds {folds}: all pictures of class {class_names[whole[0]]!r} fall into one fold, for its groups are "
            "large or few; choose fewer folds or another --seed, or add pictures"
        )
    return [torch.tensor(sorted(part), dtype=torch.int64) for part in rows]


def hold_out(
    parts: Mapping[str, Pictures], class_names: Sequence[str], *, fold: int, folds: int, seed: int
) -> dict[str, Pictures]:
    """Fold `fold` (from 1) as "test", all other folds as "train"; a given test part is left out. Errors as above."""
    pictures = without_test(parts)
    held_out = fold_rows(pictures, class_names, folds, seed)[fold - 1]
    rest = torch.ones(len(pictures), dtype=torch.bool)
    rest[held_out] = False
    return {"train": pictures.take(rest.nonzero().flatten()), "test": pictures.take(held_out)}


def twins(parts: Mapping[str, Pictures], class_names: Sequence[str]) -> list[str]:
    """What a person should know of identical pictures and of groups: one in two parts, or a picture under two labels.
    A line each."""
    seen: dict[bytes, list[tuple[str, str, int | bytes]]] = defaultdict(list)
    for split, pictures in parts.items():
        said = [one.content for one in pictures.boxes] if pictures.boxes else pictures.labels.tolist()
        for digest, name, what in zip(pictures.digests, pictures.names, said, strict=True):
            seen[digest].append((split, name, what))
    leaks = [places for places in seen.values() if len({split for split, _, _ in places}) > 1]
    clashes = [places for places in seen.values() if len({what for _, _, what in places}) > 1]
    lines = []
    if leaks:
        example = " = ".join(name for _, name, _ in leaks[0])
        lines.append(f"{_pictures(len(leaks))} in more than one split, which flatters the figures, as {example}")
    if clashes:
        example = ", ".join(
            name if isinstance(what, bytes) else f"{name} ({class_names[what]})" for _, name, what in clashes[0]
        )
        how = "there again with other boxes" if isinstance(clashes[0][0][2], bytes) else "under more than one label"
        lines.append(f"{_pictures(len(clashes))} {how}, as {example}")
    where: dict[str, dict[str, None]] = defaultdict(dict)
    for split, pictures in parts.items():
        for group in filter(None, pictures.groups):
            where[group][split] = None
    parted = [(group, splits) for group, splits in where.items() if len(splits) > 1]
    if parted:
        example = f"{parted[0][0]} ({', '.join(parted[0][1])})"
        groups = "1 group is" if len(parted) == 1 else f"{len(parted)} groups are"
        lines.append(f"{groups} in more than one split, which flatters the figures, as {example}")
    return lines


def _pictures(count: int) -> str:
    return "1 picture is" if count == 1 else f"{count} pictures are"
