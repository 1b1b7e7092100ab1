"""`explain`: a model and pictures → where it looked, what they resemble, how sure it is; and the page and pictures that
show it."""

import dataclasses
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from wideresnet import data as data_room
from wideresnet import engines, hub, kinds, networks, report, runtime
from wideresnet import files as files_room
from wideresnet.data.decoding import digest_of
from wideresnet.errors import DataError, ImageError, UsageError, nearest
from wideresnet.explanation import Check, Explanation, Layer, Map, maps, places
from wideresnet.images import decode
from wideresnet.jobs.evaluation import check_report
from wideresnet.jobs.finding import empty_folder, file_name
from wideresnet.jobs.neighbours import Reference, reference
from wideresnet.jobs.prediction import expand
from wideresnet.prediction import Many, Picture, Prediction, Predictor, as_image
from wideresnet.preprocess import Placement
from wideresnet.reading import Reading

_CHUNK = 8  # pictures explained at once; they lie whole in memory
_WARMEST = 0.2  # share of the pixels that are covered, to see what becomes of the answer


@dataclass(frozen=True, slots=True)
class Explained:
    """One picture of a command: its explanation, or the reason why there is none in `error`; drawn: its file."""

    path: Path
    explanation: Explanation | None = None
    drawn: Path | None = None
    error: str = ""


def explain(
    model: str | Path,
    pictures: Picture | Many,
    *,
    class_name: str | None = None,
    check: Check = "occlusion",
    neighbours: int = 5,
    data: str | Path | None = None,
    device: str = "auto",
    engine: engines.Name = "auto",
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    download: bool = False,
    watch: runtime.Watch = runtime.QUIET,
) -> list[Explanation]:
    """For each picture, in any form that a `Predictor` takes: where the model looked, as heat over the original
    picture; how sure it is; and the pictures nearest to it among those that it was trained on.

    class_name: what is explained, if not the class that it says. check: the method that checks the heat. neighbours:
    how many; 0, and no data is read. data: where the training pictures are, if not where the run says. The columns,
    where they are not those of the run: see `Reading`. The rest as `load` has it. Raises ImageError on a bad picture,
    ModelFileError, UsageError, DataError.
    """
    reading = Reading(
        image_column=image_column,
        label_column=label_column,
        split_column=split_column,
        group_column=group_column,
        download=download,
    )
    explainer = _explainer(model, _Asked(class_name, check, neighbours, data, device, engine, reading), watch)
    several = pictures if isinstance(pictures, list | tuple) else [pictures]
    found = list[Explanation]()
    for start in range(0, len(several), _CHUNK):
        some = several[start : start + _CHUNK]
        names = [str(p) if isinstance(p, str | Path) else f"picture {i}" for i, p in enumerate(some, start + 1)]
        for name, one in zip(names, explainer.explain([as_image(p) for p in some], names), strict=True):
            if isinstance(one, str):
                raise DataError(f"{name}: {one}")
            found.append(one)
        watch.progress("explaining", len(found), len(several), "")
    return found


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options that `explain` and `explain_files` share."""

    class_name: str | None
    check: Check
    neighbours: int
    data: str | Path | None
    device: str
    engine: engines.Name
    reading: Reading


@kinds.checked
def explain_files(
    model: str | Path,
    sources: Sequence[str | Path],
    *,
    files: Sequence[str | Path] = (),
    class_name: str | None = None,
    check: Check = "occlusion",
    neighbours: int = 5,
    data: str | Path | None = None,
    device: str = "auto",
    engine: engines.Name = "auto",
    reading: Reading = Reading(),  # noqa: B008 - frozen
    report_file: str | Path | None = None,
    draw: str | Path | None = None,
    command: str = "",
    watch: runtime.Watch = runtime.QUIET,
) -> Iterator[Explained]:
    """As `explain`, of each picture of `sources` and `files`, as `predict` takes them: in order, lazily; what cannot be
    read is one with its reason. report_file: an HTML page of the first `report.explaining.PICTURES`, written at the
    end. draw: a new folder for a PNG of each.

    Raises as `explain` does before the first one, and UsageError if no picture is named.
    """
    check_report(report_file)
    limit = data_room.most_pixels(reading.max_pixels)
    paths = [*expand(sources), *map(Path, files)]
    if not paths:
        raise UsageError("no picture named; give files, folders or globs, or - for a list on standard input")
    explainer = _explainer(model, _Asked(class_name, check, neighbours, data, device, engine, reading), watch)
    folder = None if draw is None else empty_folder(Path(draw))
    page = None if report_file is None else _Page(Path(report_file), str(model), command)
    return _each(explainer, paths, limit, (folder, page), watch)


@dataclass(frozen=True, slots=True, eq=False)
class _Page:
    file: Path
    model: str
    command: str


def _each(
    explainer: "_Explainer",
    paths: Sequence[Path],
    max_pixels: int,
    into: tuple[Path | None, _Page | None],
    watch: runtime.Watch,
) -> Iterator[Explained]:
    def read(path: Path) -> npt.NDArray[np.uint8] | str:
        try:
            return decode(path, max_pixels)
        except ImageError as error:
            return str(error)

    folder, page = into
    rest, names, done = iter(paths), set[str](), 0
    shown, failed = list[report.explaining.Shown](), list[str]()
    small = report.explaining.side_for(len(paths))
    with runtime.thread_pool() as pool:
        while chunk := list(islice(rest, _CHUNK)):
            every = list(pool.map(read, chunk))
            good = [(path, one) for path, one in zip(chunk, every, strict=True) if not isinstance(one, str)]
            explained = iter(explainer.explain([one for _, one in good], [str(path) for path, _ in good]))
            for path, one in zip(chunk, every, strict=True):
                found = one if isinstance(one, str) else next(explained)
                done += 1
                if isinstance(found, str):
                    failed.append(f"{path}: {found}")
                    yield Explained(path, error=found)
                    continue
                if len(shown) < report.explaining.PICTURES:
                    shown.append(report.explaining.shown(found, small))
                drawn = None if folder is None else folder / file_name(path, ".png", names)
                if drawn is not None:
                    files_room.write_whole(drawn, _png(report.explaining.sheet(found)))
                yield Explained(path, found, drawn)
            watch.progress("explaining", done, len(paths), "")
    if page is not None and shown:
        subject = report.explaining.Page(
            model=page.model,
            command=page.command,
            facts=explainer.facts(),
            pictures=shown,
            num_pictures=done - len(failed),
            nearest=explainer.nearest,
            failed=failed,
            notes=explainer.notes,
        )
        files_room.write_whole(page.file, report.explaining.build(subject))


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG", optimize=True)
    return content.getvalue()


def _explainer(model: str | Path, asked: _Asked, watch: runtime.Watch) -> "_Explainer":
    """Raises UsageError, ModelFileError, DataError before any picture is read."""
    if asked.check not in (known := get_args(Check)):
        raise UsageError(f"--check {asked.check}{nearest(asked.check, known)}")
    if asked.neighbours < 0:
        raise UsageError(f"--neighbours {asked.neighbours}: expected a number of pictures, 0 for none")
    if asked.data is not None and not asked.neighbours:
        raise UsageError("--data is read for the nearest pictures alone; leave out --neighbours 0")
    if asked.reading.columns and not asked.neighbours:
        words = " ".join(dataclasses.replace(asked.reading, download=False, max_pixels=None).words)
        raise UsageError(f"{words}: read for the nearest pictures alone; leave out --neighbours 0")
    path = hub.model_file(model, download=asked.reading.download)
    predictor = Predictor(path, asked.device, asked.engine)
    names, preprocess = predictor.card.class_names, predictor.card.preprocess
    if asked.class_name is not None and asked.class_name not in names:
        raise UsageError(f"--class {asked.class_name}: none of the model's classes{nearest(asked.class_name, names)}")
    layers = places.layers(predictor.model, preprocess.channels, preprocess.size + 2 * preprocess.border)
    found, notes = None, list[str]()
    if asked.neighbours:
        found, notes = reference(predictor, path, asked.data, asked.reading, watch)
    for note in notes:
        watch.line(f"note: {note}")
    seen = predictor.extra.get("seen")
    return _Explainer(
        predictor=predictor,
        layers=layers,
        label=None if asked.class_name is None else names.index(asked.class_name),
        check=asked.check,
        num_neighbours=asked.neighbours,
        reference=found,
        seen=None if seen is None else data_room.known_marks(seen),
        notes=notes,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Explainer:
    """All that the explanations of one call share. label: of the class that is explained; None: of each picture's own.
    seen: the first bytes of the digests of the pictures that the model was trained on."""

    predictor: Predictor
    layers: tuple[Layer, ...]
    label: int | None
    check: Check
    num_neighbours: int
    reference: Reference | None
    seen: frozenset[bytes] | None
    notes: list[str]

    def explain(self, images: Sequence[npt.NDArray[np.uint8]], names: Sequence[str]) -> list[Explanation | str]:
        """Of each picture, uint8 [H, W, 3], or why there is none: its logits are not finite."""
        if not images:
            return []
        resized = torch.stack([self.predictor.card.preprocess.resize(image) for image in images])
        logits, embeddings = self.predictor.embed(resized)
        found: list[Explanation | str] = ["the network's answer to it is not finite"] * len(images)
        rows = logits.isfinite().all(1).nonzero()[:, 0]
        if not len(rows):
            return found
        resized, logits, embeddings = resized[rows], logits[rows], embeddings[rows]
        classes = logits.argmax(1) if self.label is None else torch.full((len(logits),), self.label)
        every = self._maps(resized, classes)
        shares = self._covered(resized, classes, logits, [one["heat"] for one in every])
        predictions = self.predictor.answers(logits, embeddings)
        for number, i in enumerate(rows.tolist()):
            if all(np.isfinite(one.heat).all() for one in every[number].values()):
                found[i] = self._one(
                    names[i], images[i], predictions[number], every[number], (shares[number], embeddings[number])
                )
        return found

    def _one(
        self,
        name: str,
        image: npt.NDArray[np.uint8],
        prediction: Prediction,
        of_one: dict[str, Map],
        rest: tuple[tuple[float, float, float], Tensor],
    ) -> Explanation:
        card, (covered, embedding) = self.predictor.card, rest
        own, (height, width) = digest_of(image), image.shape[:2]
        near = self.reference and self.reference.nearest(embedding, own, self.num_neighbours, self.predictor)
        return Explanation(
            name=name,
            image=image,
            prediction=prediction,
            class_name=prediction.label if self.label is None else card.class_names[self.label],
            maps=of_one,
            check_method=self.check,
            placement=card.preprocess.placement(height, width),
            seen=places.seen(card.preprocess, height, width),
            agreement=self._agreement(of_one),
            covered=covered,
            neighbours=near or (),
            trained_on=None if self.seen is None else own[:8] in self.seen,
        )

    @property
    def nearest(self) -> str:
        """What the nearest pictures are nearest among."""
        digests, seen = self.reference.digests if self.reference else (), self.seen or frozenset[bytes]()
        trained = any(one[:8] in seen for one in digests)
        return f"Most like it, of {'what it was trained on' if trained else 'the pictures given'}"

    def facts(self) -> list[tuple[str, str]]:
        card, last = self.predictor.card, self.layers[0]
        preprocess = card.preprocess
        return [
            ("Network", networks.arch_name(card.architecture)),
            ("Pictures", f"resized to {preprocess.size}×{preprocess.size}, {preprocess.fit}"),
            ("Heat", f"Grad-CAM of {last.name}, {last.side}×{last.side} cells"),
            ("Check", self.check),
            ("Computed by", self.predictor.engine.reason),
        ]

    def _maps(self, resized: Tensor, classes: Tensor) -> list[dict[str, Map]]:
        predictor = self.predictor
        preprocess, device = predictor.card.preprocess, predictor.device
        x, labels = preprocess.normalise(resized.to(device)), classes.to(device)
        last, *earlier = self.layers
        heats = [{"heat": one[0]} for one in maps.grad_cam(predictor.model, x, labels, [last])]
        for layer in earlier:
            for kept, one in zip(heats, maps.hires_cam(predictor.model, x, labels, [layer]), strict=True):
                kept["finer"] = maps.finer(kept["heat"], one[0])
        if self.check == "occlusion":
            fill, border = preprocess.mean_colour, preprocess.border
            checks = maps.occlusion(predictor.engine.compute, resized, classes, fill, border=border)
        else:
            checks = maps.in_cells(maps.integrated_gradients(predictor.model, x, labels))
        return [{**each, "check": check} for each, check in zip(heats, checks, strict=True)]

    def _covered(
        self, resized: Tensor, classes: Tensor, logits: Tensor, heats: Sequence[Map]
    ) -> list[tuple[float, float, float]]:
        """The class's probability: as it is, its warmest part covered, its coldest."""
        card, compute = self.predictor.card, self.predictor.engine.compute
        size, border = card.preprocess.size, card.preprocess.border
        on_picture = [heat.on_picture(Placement(1, 1, border, border), size, size) for heat in heats]
        filled = maps.covered(resized, on_picture, _WARMEST, card.preprocess.mean_colour)
        answers = [logits, *map(compute, filled)]
        shares = [maps.probability(one, classes, card.temperature).tolist() for one in answers]
        return list(zip(*shares, strict=True))

    def _agreement(self, of_one: dict[str, Map]) -> float | None:
        size, border = self.predictor.card.preprocess.size, self.predictor.card.preprocess.border
        cells = of_one["check"].heat.shape[0]
        at = (Placement(1, 1, border, border), size, size, (cells, cells))
        return maps.rank_correlation(of_one["heat"].on_picture(*at), of_one["check"].on_picture(*at))
