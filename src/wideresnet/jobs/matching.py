"""Classes of data and of models, matched by name: in another order, renamed, or refused with what differs."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch

from wideresnet.checkpoint import Card
from wideresnet.data import Data, Pictures
from wideresnet.errors import DataError, UsageError, nearest


def check_map(class_map: Mapping[str, str], names: Sequence[str]) -> None:
    """Raises UsageError if it renames a class that is not there."""
    for old, new in class_map.items():
        if old not in names:
            raise UsageError(f"--map {old}={new}: there is no class {old!r} to rename{nearest(old, names)}")


def renamed(names: Sequence[str], known: Sequence[str], class_map: Mapping[str, str]) -> list[str]:
    """Another model's classes by the names that are `known`; what is known already keeps its name, for the map may be
    meant for the data alone."""
    return [name if name in known else class_map.get(name, name) for name in names]


def check_classes(rival: Card, card: Card, against: str, class_map: Mapping[str, str]) -> None:
    """Raises UsageError, naming the difference, unless both models know the same classes, in whatever order."""
    names = renamed(rival.class_names, card.class_names, class_map)
    if len(set(names)) < len(names):
        raise UsageError(f"--map makes one of several classes of {against}, and its answers are to each; leave it out")
    lacking, more = set(card.class_names) - set(names), set(names) - set(card.class_names)
    if lacking or more:
        sides = [("not in it", lacking), ("only in it", more)]
        told = "; ".join(f"{what}: {_some(tuple(sorted(those)))}" for what, those in sides if those)
        raise UsageError(f"--against {against}: other classes ({told}). Rename with --map OLD=NEW what is the same")


def with_labels_of(
    parts: dict[str, Pictures], data: Data, class_names: tuple[str, ...], class_map: Mapping[str, str]
) -> dict[str, Pictures]:
    """The same pictures, their labels counted in the model's order of classes. Raises DataError on an unknown class."""
    names = [class_map.get(name, name) for name in data.class_names]
    new_label = torch.tensor([class_names.index(name) if name in class_names else -1 for name in names])
    relabelled = {}
    for split, pictures in parts.items():
        labels = new_label[pictures.labels]
        if (labels < 0).any():
            row = int((labels < 0).nonzero()[0])
            name = names[pictures.labels[row]]
            where = f"{data.place}: {pictures.names[row]}"
            if _are_numbers(data.class_names) != _are_numbers(class_names):
                raise DataError(
                    f"{where}: class {name!r} is none of the model's. Labels are numbers in one and names in the "
                    f"other: here {_some(data.class_names)}, in the model {_some(class_names)}. Write the model's"
                )
            unknown = tuple(sorted(set(names) - set(class_names)))
            raise DataError(
                f"{where}: class {name!r} is none of the model's{nearest(name, class_names)}. Unknown to it: "
                f"{_some(unknown)}; in it alone: {_some(tuple(sorted(set(class_names) - set(names)))) or 'none'}. "
                "Rename with --map OLD=NEW what is the same"
            )
        relabelled[split] = dataclasses.replace(pictures, labels=labels)
    return relabelled


def _are_numbers(class_names: tuple[str, ...]) -> bool:
    return all(name.removeprefix("-").isdecimal() for name in class_names)


def _some(class_names: tuple[str, ...]) -> str:
    return ", ".join(class_names[:3]) + (", …" if len(class_names) > 3 else "")
