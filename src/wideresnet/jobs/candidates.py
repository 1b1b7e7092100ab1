"""A state dict that was found → what it can be, what sets these apart, and which of them is right on real pictures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wideresnet import data as data_room
from wideresnet import dialects, engines, runtime
from wideresnet.data.listing import ALL
from wideresnet.dialects import Dialect, Fit, Found, Input
from wideresnet.errors import ModelFileError, UsageError
from wideresnet.model import WideResNetClassifier
from wideresnet.preprocess import Preprocess

_FIRST, _ALL = 1_000, 10_000  # pictures; a thousand tell candidates apart that differ by a few points, as most do
_LEAST = 100
_ALIKE = 0.99
_LEARNT = 0.2  # of the way from chance to all right: random weights, tried in a dozen ways, come to a few hundredths
_CHANCE = 0.01  # at most so likely may it be that the better of two candidates is so by chance


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """Dialects that make the same network and the same input of a checkpoint.

    `input` is None where it depends on a data set that nobody has named. `answers` and `labels` [N], int64: of the
    pictures that it was measured on; None where it was not.
    """

    names: tuple[str, ...]
    fit: Fit
    input: Input | None
    rank: int = 0  # in the table
    answers: Tensor | None = None
    labels: Tensor | None = None

    @property
    def right(self) -> Tensor:
        """Bool [N]."""
        assert self.answers is not None
        assert self.labels is not None
        return self.answers == self.labels

    @property
    def accuracy(self) -> float | None:
        return None if self.answers is None else float(self.right.double().mean())

    def differences(self, varying: Sequence[str]) -> str:
        """What sets it apart, in one line."""
        told = [f"{name} {self.fit.architecture[name]}" for name in varying]
        if self.fit.dialect.keys.spectral:
            told.append(f"spectral norms of at most {self.fit.dialect.keys.spectral:g}")
        how = "depends on the data set: say --dataset, or --mean and --std" if self.input is None else self.input
        return ", ".join([*told, f"input {how}"])


def candidates_of(
    found: Found,
    checkpoint: Path,
    *,
    named: Dialect | None,
    dataset: str,
    given: Input | None,
    aside: Sequence[str],
) -> list[Candidate]:
    """What the checkpoint can be; those that compute the same are one. Raises ModelFileError if nothing fits."""
    fits, misfits = dialects.fits(found.tensors, aside)
    if named is not None:
        mine = [fit for fit in fits if fit.dialect.name == named.name]
        if not mine:
            reason = next(str(misfit) for misfit in misfits if str(misfit).startswith(f"{named.name}:"))
            instead = f". It fits {', '.join(fit.dialect.name for fit in fits)}" if fits else ""
            raise ModelFileError(f"{checkpoint}: not of the dialect {reason}{instead}")
        fits = mine
    if not fits:
        raise ModelFileError(
            f"{checkpoint}: fits no dialect; the nearest is {misfits[0]}. What is no part of the network can be left "
            "out with --set-aside PATTERN; see `wrn models --dialects`"
        )
    grouped = dict[Any, Candidate]()
    inside = {fit.dialect.name: _in_file(found, fit, checkpoint) for fit in fits}
    # Of dialects that keep mean and std among their tensors, the one whose code has those of the file comes first.
    for fit in sorted(fits, key=lambda fit: (own := inside[fit.dialect.name]) is not None and own != fit.input):
        source = given or inside[fit.dialect.name] or fit.input_of(dataset)
        key = (fit.computes, source)
        before = grouped.get(key)
        names = (*(before.names if before else ()), fit.dialect.name)
        grouped[key] = replace(before, names=names) if before else Candidate(names, fit, source, len(grouped))
    if not dataset:
        return list(grouped.values())
    # A source that normalises other data sets alone was not trained on the one that is named.
    trained = [each for each in grouped.values() if each.input is not None or not each.fit.dialect.inputs]
    return trained or list(grouped.values())


def _in_file(found: Found, fit: Fit, checkpoint: Path) -> Input | None:
    """The mean and std that the network keeps among its own tensors."""
    keys = fit.dialect.keys
    if not keys.mean or keys.mean not in found.tensors or keys.std not in found.tensors:
        if keys.mean in found.tensors or keys.std in found.tensors:
            raise ModelFileError(f"{checkpoint}: {keys.mean} and {keys.std} go together; it has one of them")
        return None
    mean, std = (found.tensors[key].flatten().double().tolist() for key in (keys.mean, keys.std))
    # Written in decimals and kept as float32: the shortest decimals that mean the same are what was written.
    short = [[float(f"{value:.7g}") for value in values] for values in (mean, std)]
    return given_input(*short)


def described(candidates: Sequence[Candidate]) -> list[str]:
    """One line a candidate: its dialects, its accuracy if measured, and what sets it apart."""
    options = [candidate.fit.options for candidate in candidates]
    varying = [name for name in options[0] if len({str(each[name]) for each in options}) > 1]
    width = max(len(", ".join(candidate.names)) for candidate in candidates)
    return [
        f"{', '.join(each.names):{width}}  "
        + ("" if each.accuracy is None else f"{100 * each.accuracy:5.1f} % right; ")
        + each.differences(varying)
        for each in candidates
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """Labelled pictures to measure on. The labels are read as the network's own: its classes in the data's order."""

    listing: data_room.Data
    size: int | None  # of its images, in pixels
    max_bad: int | None
    watch: runtime.Watch
    loaded: dict[tuple[int, int], tuple[str, data_room.Pictures]] = field(default_factory=dict)  # by size and channels

    @property
    def part(self) -> str:
        """Which part of the data was measured on."""
        return next(iter(self.loaded.values()))[0]

    def pictures(self, preprocess: Preprocess, at_most: int) -> data_room.Pictures:
        """Evenly from the test part, else from val, or from all."""
        shape = (preprocess.size, preprocess.channels)
        if shape not in self.loaded:
            parts = data_room.load(self.listing, preprocess, cache="auto", max_bad=self.max_bad, watch=self.watch).parts
            part = next(name for name in ("test", "val", ALL, "train") if name in parts)
            self.loaded[shape] = (part, parts[part])
        _, all_of_it = self.loaded[shape]
        rows = torch.linspace(0, len(all_of_it) - 1, min(at_most, len(all_of_it)), dtype=torch.float64)
        return all_of_it.take(rows.round().long())


def measured(candidates: Sequence[Candidate], found: Found, ground: Ground) -> list[Candidate]:
    """The candidates measured on the same pictures, the best first: on a thousand, then those that may still be the
    best on ten thousand. One whose input nobody knows comes last, unmeasured."""
    unknown = [candidate for candidate in candidates if candidate.input is None]
    contenders, beaten = [candidate for candidate in candidates if candidate.input is not None], list[Candidate]()
    for number in (_FIRST, _ALL):
        if len(contenders) > 1 or number == _FIRST:
            contenders = sorted(_measure(contenders, found, ground, number), key=lambda each: -(each.accuracy or 0.0))
            beaten = [each for each in contenders[1:] if not _may_be_as_good(each, contenders[0])] + beaten
            contenders = [each for each in contenders if each not in beaten]
    return [*contenders, *beaten, *unknown]


def _measure(candidates: Sequence[Candidate], found: Found, ground: Ground, at_most: int) -> list[Candidate]:
    results = list[Candidate]()
    for number, candidate in enumerate(candidates):
        assert candidate.input is not None
        ground.watch.progress("measuring", number, len(candidates), candidate.names[0])
        preprocess = preprocess_of(candidate.input, candidate.fit, ground.size)
        pictures = ground.pictures(preprocess, at_most)
        model = WideResNetClassifier(**candidate.fit.architecture)
        model.load_state_dict(dialects.to_ours(found.tensors, candidate.fit))
        answers = engines.choose(model, preprocess, torch.device("cpu")).compute(pictures.images).argmax(1)
        results.append(replace(candidate, answers=answers, labels=pictures.labels))
    ground.watch.progress("measuring", len(candidates), len(candidates), "")
    return results


def best(candidates: Sequence[Candidate], checkpoint: Path) -> tuple[Candidate, list[str]]:
    """The first of the measured ones, if it is right far more often than chance is, and more than the next; and what
    to note.

    Those that answer alike on 99 % of the pictures, and no worse, are as good: of them the first of the table is taken,
    and the note names the others. Raises UsageError, with the figures, where the pictures do not decide.
    """
    told = "\n".join(f"  {line}" for line in described(candidates))
    known = [candidate for candidate in candidates if candidate.answers is not None]
    if not known:
        raise UsageError(f"{checkpoint}: no candidate's input is known; say --dataset, or --mean and --std\n{told}")
    first = known[0]
    num, num_classes = len(first.right), int(first.fit.architecture["num_classes"])
    if num < _LEAST:
        raise UsageError(f"{checkpoint}: {num} pictures are too few to tell; give {_LEAST} or more\n{told}")
    by_chance = 1 / num_classes
    if (first.accuracy or 0.0) < by_chance + _LEARNT * (1 - by_chance):
        raise UsageError(
            f"{checkpoint}: no dialect gets these {num} pictures right. Are its classes in the data's order, and was "
            f"it trained on such pictures?\n{told}"
        )
    alike = [first]
    for other in known[1:]:
        if not _may_be_as_good(other, first):
            continue
        assert first.answers is not None
        assert other.answers is not None
        same = float(torch.eq(first.answers, other.answers).double().mean())
        if same < _ALIKE:
            raise UsageError(
                f"{checkpoint}: {num} pictures do not tell {first.names[0]} from {other.names[0]}; give more of them, "
                f"or say which with --dialect NAME\n{told}"
            )
        alike.append(other)
    chosen = min(alike, key=lambda each: each.rank)
    others = ", ".join(each.names[0] for each in alike if each is not chosen)
    notes = [f"{others}: answers alike on 99 % of the {num} pictures or more"] if others else []
    if unmeasured := ", ".join(each.names[0] for each in candidates if each.answers is None):
        notes.append(
            f"{unmeasured}: not measured, for its input is not known; give --mean and --std to have it measured"
        )
    return chosen, notes


def _may_be_as_good(other: Candidate, first: Candidate) -> bool:
    """Not significantly worse, by McNemar's exact test on the pictures that only one of both gets right."""
    if len(other.right) != len(first.right):
        return False  # beaten in an earlier round
    only_first, only_other = int((first.right & ~other.right).sum()), int((other.right & ~first.right).sum())
    return _chance(only_first, only_first + only_other) > _CHANCE


def _chance(successes: int, trials: int) -> float:
    """How likely so many successes or more are, if each comes by the toss of a coin (the binomial's upper tail)."""
    terms = (
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) - trials * math.log(2)
        for k in range(successes, trials + 1)
    )
    return min(1.0, math.fsum(map(math.exp, terms)))


def preprocess_of(source: Input, fit: Fit, size: int | None) -> Preprocess:
    """The source's normalisation as our value; of one channel the first of its means, or the given one. size: side of
    its images in pixels; 32, less the border around them, if not given."""
    channels = int(fit.architecture["in_channels"])
    if channels not in (1, 3):
        raise ModelFileError(f"its images have {channels} channels; expected 3 or 1")
    size = 32 - 2 * source.border if size is None else size
    mean, std = source.mean[:channels], source.std[:channels]
    if not all(-1 <= value <= 2 for value in mean) or not all(0 < value <= 2 for value in std):
        raise UsageError(f"mean {mean}, std {std}: expected numbers for images in [0, 1], std above 0; divide by 255?")
    try:
        return Preprocess(size=size, mean=mean, std=std, per_image=source.per_image, border=source.border)
    except ValueError as error:
        raise UsageError(str(error)) from error


def given_input(mean: Sequence[float] | None, std: Sequence[float] | None) -> Input | None:
    if (mean is None) != (std is None):
        raise UsageError("--mean and --std go together; give both")
    if mean is None or std is None:
        return None
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, 3):
            raise UsageError(f"--{name}: {len(values)} numbers; expected 3, or 1 for gray images")
    return Input(dialects.three(mean), dialects.three(std))
