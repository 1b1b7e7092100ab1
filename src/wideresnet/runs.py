"""A run is one folder: its name, what is in it, and the runs of a folder side by side."""

import dataclasses
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wideresnet import files, kinds
from wideresnet.errors import ModelFileError, TrainingStopped, UsageError
from wideresnet.reading import Reading
from wideresnet.recipes import FIXED, Detector, Recipe
from wideresnet.recipes import find as find_recipe

CONFIG, METRICS, LOG = "config.json", "metrics.csv", "log.txt"
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"
MODEL, REPORT, LOCK = "model.safetensors", "report.html", ".lock"


# Fields of the recipe that follow from the data where they are not given, and so are always written out.
_FROM_DATA = {"epochs", "batch_size", "lr", "weight_decay", "warmup_epochs", "milestones", "flip", "crop_padding"}
# Fields of the recipe that the first version wrote, and so every digest counts.
_FIRST = _FROM_DATA | {"name", "momentum", "nesterov", "decay_norm_and_bias", "schedule"}
_FIRST |= {"gamma", "label_smoothing", "ema_decay", "dropout_p", "drop_last", "select"}
# Fields that were called otherwise when the first digests that count them were made.
_RENAMED = {"init": "from_model", "init_digest": "from_digest"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything needed to repeat a run: config.json."""

    data: str
    arch: str
    recipe: Recipe
    size: int
    fit: Literal["crop", "squash", "pad"]
    in_channels: int
    mean: tuple[float, ...] | None  # None: from the data
    std: tuple[float, ...] | None
    seed: int
    device: str
    threads: int
    max_bad: int | None  # None: any number
    engine: Literal["kernels", "torch"]  # that trains
    fingerprint: str  # of the data as decoded, before it is split
    versions: Mapping[str, str]
    # From here on fields that earlier versions did not write: each has the default that those runs had.
    reading: Reading = Reading()  # noqa: RUF009 - frozen
    labels: int | None = None  # pictures of each class that are trained on; None: all
    processes: int = 1
    machines: int = 1  # that these processes ran on
    init: str | None = None  # the model file that training began with
    init_digest: str | None = None  # SHA-256 of that file, or of the one with the published weights
    track: tuple[str, ...] = ()  # where rows go besides metrics.csv
    folds: int = 0  # of a cross-validation; 0: none
    fold: int = 0  # from 1: the one held out in this run; 0: none, or the folder of all of them
    pretrained: bool = False  # began with the weights that the network's library publishes
    freeze: tuple[str, ...] = ()  # parts of the network that are not trained
    processor: str = ""  # its instructions, as torch uses them; "": not known
    detector: Detector | None = None  # what stands on the backbone; None: a classifier

    @property
    def every_fold(self) -> bool:
        """Whether this is a whole cross-validation, whose folder holds the runs of its folds."""
        return self.folds > 0 and self.fold == 0

    @property
    def digest(self) -> str:
        """SHA-256 of everything here, by which a checkpoint knows its run.

        A later field counts only where it is not at its default: so a run of an earlier version keeps its digest.
        What is done where the loss explodes does not count: a run goes on with either.
        """
        new = {f.name for f in dataclasses.fields(self) if getattr(self, f.name) == f.default}
        values = {_RENAMED.get(name, name): value for name, value in self.to_dict().items() if name not in new}
        later = {f.name: f.default for f in dataclasses.fields(Recipe) if f.name not in _FIRST}
        if "reading" in values and values["reading"]["max_pixels"] is None:  # later than its other fields
            del values["reading"]["max_pixels"]
        values["recipe"] = {
            name: value
            for name, value in values["recipe"].items()
            if name in _FIRST or (name not in (*FIXED, "on_nan") and value != later[name])
        }
        return files.sha256(json.dumps(values, sort_keys=True).encode())

    @property
    def launcher(self) -> str:
        """What starts as many processes as this run has; on several machines, on each of them."""
        if self.processes == 1:
            return "wrn"
        several = f"--nnodes {self.machines} --node-rank RANK --master-addr ADDRESS "
        of_each = f"--nproc-per-node {self.processes // self.machines} -m wideresnet"
        return f"torchrun {several if self.machines > 1 else ''}{of_each}"

    @property
    def command(self) -> str:
        """The command that repeats this run, whatever made it."""
        words = [*shlex.split(self.launcher), *(["detect"] if self.detector else []), "train", self.data]
        words += ["--arch", self.arch, "--size", str(self.size)]
        words += ["--recipe", self.recipe.name] if self.detector is None else []
        named = find_recipe(self.recipe.name)
        for field in dataclasses.fields(Recipe):
            if field.name in FIXED:
                continue
            value = getattr(self.recipe, field.name)
            option = field.name.replace("_", "-")
            if value == getattr(named, field.name) and (field.name not in _FROM_DATA or value == ()):
                continue
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            elif value == ():
                words.append(f"--empty-{option}")
            else:
                words += [f"--{option}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
        if self.detector is None:
            words += ["--fit", self.fit, "--engine", self.engine, "--in-channels", str(self.in_channels)]
        else:
            for name, value in dataclasses.asdict(self.detector).items():
                words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else [value])]
        words += ["--seed", str(self.seed)]
        words += self.reading.words + ([] if self.labels is None else ["--labels", str(self.labels)])
        words += ["--device", self.device]
        words += ["--max-bad", "all" if self.max_bad is None else str(self.max_bad)]
        words += [] if self.init is None else ["--init", self.init]
        words += ["--pretrained"] if self.pretrained else []
        words += ["--freeze", *self.freeze] if self.freeze else []
        words += ["--folds", str(self.folds)] if self.folds else []
        for name, values in {"mean": self.mean, "std": self.std}.items():
            words += [f"--{name}", *map(str, values)] if values is not None and self.init_digest is None else []
        for tracker in self.track:
            words += ["--track", tracker]
        return shlex.join(words)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def differences(then: Mapping[str, Any], now: Mapping[str, Any], of: str = "") -> list[str]:
    """In which fields two configs, as dictionaries, differ: "recipe.lr 0.1 → 0.2"."""
    found = list[str]()
    for name in dict.fromkeys((*then, *now)):
        old, new = then.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{of}{name}.")
        elif json.dumps(old) != json.dumps(new):  # a tuple is a list there
            found.append(f"{of}{name} {old} → {new}")
    return found


def check_out(out: Path | None) -> None:
    """Raises UsageError if `out` holds anything already, or cannot hold a run."""
    if out is None:
        return
    try:
        there = out.exists()
        if there and not out.is_dir():
            raise UsageError(f"{out}: a file; a run is a folder, choose another --out")
        # A start that was killed at once leaves these.
        full = there and any(path.name != LOCK and not re.fullmatch(r"\..*\.tmp", path.name) for path in out.iterdir())
    except OSError as error:
        raise UsageError(f"{out}: cannot be made: {error.strerror}; choose another --out") from error
    if full:
        hint = f"Go on with it by --resume {out}, or choose" if (out / CONFIG).exists() else "Choose"
        raise UsageError(f"{out}: exists already and is not empty. {hint} another --out")


def slug(name: str) -> str:
    """`name` as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"


def create(name: str, out: Path | None, under: str = "runs") -> Path:
    """A new folder: `out`, or runs/NAME-1, -2, …, never one that holds anything. Raises UsageError."""
    check_out(out)
    try:
        if out is not None:
            files.make_folder(out)
            return out
        number = 1
        while True:
            folder = Path(under) / f"{slug(name)}-{number}"
            try:
                # Made here or not at all: two runs started together never share one.
                files.make_folder(folder, exist_ok=False)
                return folder
            except FileExistsError:
                number += 1
    except OSError as error:
        raise UsageError(f"{out or under}: cannot be made: {error.strerror}; choose another --out") from error


def begun(
    name: str, config: Config, out: Path | None, *, measured: bool, under: str = "runs"
) -> tuple[Path, Config] | None:
    """The run that `create(name, out)` made for this config in an earlier start, and its config; None if there is none.
    Of those that have a number the newest. measured: the epochs, which may be others each time."""
    numbered = {0: out} if out is not None else dict[int, Path]()
    for path in Path(under).glob(f"{slug(name)}-*/{CONFIG}") if out is None else ():
        if (number := path.parent.name.rpartition("-")[2]).isdecimal():
            numbered[int(number)] = path.parent
    for _, folder in sorted(numbered.items(), reverse=True):
        with suppress(ModelFileError):
            found = read_config(folder)
            wanted = dataclasses.replace(config, recipe=found.recipe) if measured else config
            if found.digest == wanted.digest:
                return folder, found
    return None


@contextmanager
def in_use(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """While open, nobody else trains in `folder`; what a killed process left half written there is removed first.

    Raises UsageError, naming process and host, if somebody does, or if nothing can be written there.
    """
    with ExitStack() as stack:
        try:
            is_held, before = stack.enter_context(files.locked(folder / LOCK))
        except files.FileInUse as error:
            raise UsageError(f"{folder}: in use by {error.by}. Wait until that has ended, or end it") from error
        except OSError as error:
            raise UsageError(f"{folder}: nothing can be written there: {error.strerror}") from error
        if not is_held:
            by = f"; {before} may" if before else ""
            say(f"note: the disk of {folder} has no locks: see to it that nobody else trains there{by}")
        else:
            for place in (folder, *folder.glob("fold-*")):
                files.remove_leftovers(place)
            if before:
                say(f"note: {folder} was left behind by {before}, which is gone; taken over")
        yield


def write_config(folder: Path, config: Config) -> None:
    files.write_json(folder / CONFIG, config.to_dict())


def read_config(folder: Path) -> Config:
    path = folder / CONFIG
    try:
        return config_from(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ModelFileError(f"{folder}: not a run (no {CONFIG}); `wrn runs` lists those under runs/") from None
    except (OSError, ValueError, RecursionError, UsageError) as error:
        raise ModelFileError(f"{path}: not a run's config as this version writes it: {error}") from error


def config_from(values: object) -> Config:
    """The reverse of `to_dict`, from JSON of any version. Raises UsageError, naming the field, on anything else."""
    if isinstance(values, Mapping):
        now = {old: name for name, old in _RENAMED.items()}
        values = {now.get(name, name): value for name, value in values.items()}
    config: Config = kinds.fitted(values, Config, "")
    return config


def write_metrics(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    files.write_whole(folder / METRICS, files.csv_text(rows))


def log(folder: Path, line: str) -> None:
    """Appends to log.txt, the one file of a run that is not written whole."""
    try:
        with (folder / LOG).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(line + "\n")
    except OSError as error:
        raise TrainingStopped(f"{folder / LOG}: cannot be written: {error.strerror}") from error


def find(folder: Path) -> list[Path]:
    """The run folders in `folder`, oldest first by the time their config was written."""
    return sorted((path.parent for path in folder.glob(f"*/{CONFIG}")), key=lambda run: (run / CONFIG).stat().st_mtime)
