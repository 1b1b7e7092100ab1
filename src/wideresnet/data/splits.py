"""Which picture is fitted on, chosen by, looked at once: train, val and test, from the seed, twins kept together."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from wideresnet import runtime
from wideresnet.data.listing import ALL
from wideresnet.data.pictures import Pictures
from wideresnet.errors import DataError

HELD_OUT_SHARE = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """`parts` has "train", and "val" and "test" where there are any; `note` says to a person how it came about."""

    parts: Mapping[str, Pictures]
    note: str


def divide(parts: Mapping[str, Pictures], seed: int, *, keep_val: bool = True) -> Splits:
    """Splits as given, or made: no split → 80/10/10; train and test alone → 10 % of train become val.

    Made splits are stratified and a function of the seed and the data; identical pictures fall into one part. The
    test part is never touched to make another. With `keep_val` False a val part that would be made stays in train.
    Raises DataError if there is no train part, or too few pictures to make the parts.
    """
    parts = {name: pictures for name, pictures in parts.items() if len(pictures)}
    if ALL in parts:
        everything = parts[ALL]
        made = _stratified(everything, ("test", "val") if keep_val else ("test",), seed)
        held = "10 % val and 10 % test" if keep_val else "10 % test"
        return Splits(made, f"no split given: {held} held out, stratified, seed {seed}, identical pictures together")
    if "train" not in parts:
        raise DataError(
            f"nothing to train on: there is {', '.join(parts) or 'no picture'}, but no train part with pictures"
        )
    if "val" in parts or not keep_val:
        return Splits(dict(parts), "as given: " + ", ".join(parts))
    made = _stratified(parts["train"], ("val",), seed)
    return Splits(
        {**made, **{k: v for k, v in parts.items() if k != "train"}}, f"10 % of train held out as val, seed {seed}"
    )


def _stratified(pictures: Pictures, held_out: Sequence[str], seed: int) -> dict[str, Pictures]:
    """A tenth of each class for each name in `held_out`, at least one picture where the class has enough; rest train.

    Every class keeps pictures to train on, however many of them are the same.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, digest in enumerate(pictures.digests):
        groups[digest].append(i)
    labels = pictures.labels.tolist()
    by_class: dict[int, list[list[int]]] = defaultdict(list)
    for members in groups.values():
        by_class[labels[members[0]]].append(members)

    rows: dict[str, list[int]] = {name: [] for name in ("train", *reversed(held_out))}
    generator = runtime.generator(seed, "split")
    for label in sorted(by_class):
        twins_of = by_class[label]
        order: list[int] = torch.randperm(len(twins_of), generator=generator).tolist()
        order.sort(key=lambda group: len(twins_of[group]))  # stable: only where there are twins does it bias the draw
        wanted = max(1, round(HELD_OUT_SHARE * sum(map(len, twins_of)))) if len(twins_of) > len(held_out) else 0
        for i, name in enumerate(held_out):
            taken, kept_back = 0, len(held_out) - i  # a group for each later part, and one for train
            while taken < wanted and len(order) > kept_back:
                group = order.pop(0)
                rows[name] += twins_of[group]
                taken += len(twins_of[group])
        rows["train"] += [row for group in order for row in twins_of[group]]
    for name, part in rows.items():
        if not part:
            raise DataError(
                f"{len(pictures)} pictures of {len(by_class)} classes are too few to make a {name} part: a class needs "
                "a different picture for each part. Add some, or make train/ and val/ folders yourself"
            )
    return {name: pictures.take(torch.tensor(sorted(part), dtype=torch.int64)) for name, part in rows.items()}


def twins(parts: Mapping[str, Pictures], class_names: Sequence[str]) -> list[str]:
    """What a person should know of identical pictures: one in two parts, or one under two labels. A line each."""
    seen: dict[bytes, list[tuple[str, str, int]]] = defaultdict(list)
    for split, pictures in parts.items():
        for digest, name, label in zip(pictures.digests, pictures.names, pictures.labels.tolist(), strict=True):
            seen[digest].append((split, name, label))
    leaks = [places for places in seen.values() if len({split for split, _, _ in places}) > 1]
    clashes = [places for places in seen.values() if len({label for _, _, label in places}) > 1]
    lines = []
    if leaks:
        example = " = ".join(name for _, name, _ in leaks[0])
        lines.append(f"{_pictures(len(leaks))} in more than one split, which flatters the figures, as {example}")
    if clashes:
        example = ", ".join(f"{name} ({class_names[label]})" for _, name, label in clashes[0])
        lines.append(f"{_pictures(len(clashes))} under more than one label, as {example}")
    return lines


def _pictures(count: int) -> str:
    return "1 picture is" if count == 1 else f"{count} pictures are"
