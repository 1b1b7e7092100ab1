"""`predict`: files, folders and globs → an answer for each picture, in order, the unreadable ones with their reason."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from wideresnet import data as data_room
from wideresnet import engines, runtime
from wideresnet.data.folders import pictures_below
from wideresnet.errors import ImageError, UsageError
from wideresnet.images import decode
from wideresnet.jobs.sharing import load
from wideresnet.prediction import Prediction, Predictor

_CHUNK = 64  # pictures decoded and computed at once: memory stays flat however many there are


@dataclass(frozen=True, slots=True)
class Answer:
    """One picture's answer: `prediction`, or the reason why there is none in `error`."""

    path: Path
    prediction: Prediction | None = None
    error: str = ""


def predict(
    model: str | Path,
    sources: Sequence[str | Path],
    *,
    files: Sequence[str | Path] = (),
    device: str = "auto",
    engine: engines.Name = "auto",
    abstain: float | None = None,
    download: bool = False,
    max_pixels: int | None = None,
    watch: runtime.Watch = runtime.QUIET,
) -> Iterator[Answer]:
    """Answers for each picture of `sources` (files, folders with all pictures below, globs) and of `files`, which are
    taken by the letter. In order, lazily; what is not there is an answer with its reason. `model`, engine, abstain and
    download: as `load`'s; max_pixels: as `Reading` has it.

    Raises ModelFileError, and UsageError if no picture is named at all, before the first answer.
    """
    predictor = load(model, device, engine=engine, abstain=abstain, download=download)
    paths = [*expand(sources), *map(Path, files)]
    if not paths:
        raise UsageError("no picture named; give files, folders or globs, or - for a list on standard input")
    return _answers(predictor, paths, data_room.most_pixels(max_pixels), watch)


def listed(content: bytes) -> list[Path]:
    """The files that a list names, a line each; blanks belong to a name. What a line says is tried first, then what it
    means where Windows wrote it: a carriage return at its end, a mark before the first, backslashes. Raises UsageError
    on UTF-16."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content:
        raise UsageError("the list on standard input is UTF-16, or no text; save it as UTF-8, a file a line")
    paths = []
    for line in filter(None, content.removeprefix(b"\xef\xbb\xbf").split(b"\n")):
        tried = [name := os.fsdecode(line), name := name.removesuffix("\r"), name.replace("\\", "/")]
        if name:
            paths.append(Path(next(filter(os.path.lexists, tried), name)))
    return paths


def expand(sources: Iterable[str | Path]) -> list[Path]:
    """The pictures that `sources` name. A file is taken whatever its ending.

    What matches nothing stays as it is, for an answer that says so, unless it is the only thing asked for.
    """
    sources = list(sources)
    paths: list[Path] = []
    for source in sources:
        path, found = Path(source), [Path(source)]
        if path.is_dir():
            found = list(pictures_below(path))
            if not found and len(sources) == 1:
                raise UsageError(f"{path}: a folder without pictures")
        elif not path.exists() and not path.is_symlink() and glob.has_magic(str(source)):
            names = sorted(glob.glob(str(source), recursive=True))  # noqa: PTH207 - absolute patterns too
            found = [Path(name) for name in names if Path(name).is_file()]
            if not found and len(sources) == 1:
                raise UsageError(f"{source}: matches no file")
        paths += found or [path]
    return paths


def _answers(predictor: Predictor, paths: Sequence[Path], max_pixels: int, watch: runtime.Watch) -> Iterator[Answer]:
    resize, rest, done = predictor.card.preprocess.resize, iter(paths), 0

    def read(path: Path) -> Tensor | str:
        try:
            return resize(decode(path, max_pixels))
        except ImageError as error:
            return str(error)

    with runtime.thread_pool() as pool:
        while chunk := list(islice(rest, _CHUNK)):
            read_ones = list(pool.map(read, chunk))
            good = [one for one in read_ones if isinstance(one, Tensor)]
            answers = iter(predictor.predictions(torch.stack(good)) if good else [])
            for path, one in zip(chunk, read_ones, strict=True):
                yield Answer(path, error=one) if isinstance(one, str) else Answer(path, next(answers))
            done += len(chunk)
            watch.progress("predicting", done, len(paths), "")
