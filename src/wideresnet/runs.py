"""A run is one folder: its name, what is in it, and the runs of a folder side by side."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wideresnet import files
from wideresnet.errors import ModelFileError, UsageError
from wideresnet.recipes import Recipe

CONFIG, METRICS, LOG = "config.json", "metrics.csv", "log.txt"
CHECKPOINT, MODEL, REPORT = "checkpoint.safetensors", "model.safetensors", "report.html"


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
    engine: str
    command: str
    fingerprint: str  # of the data as decoded and split
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "versions": dict(self.versions)}


def create(name: str, out: Path | None) -> Path:
    """A new run folder: `out`, or runs/NAME-1, -2, …, never one that holds anything. Raises UsageError."""
    if out is None:
        slug = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
        number = 1
        while (Path("runs") / f"{slug}-{number}").exists():
            number += 1
        out = Path("runs") / f"{slug}-{number}"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists already. Go on with it by --resume {out}, or choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: cannot be made: {error.strerror}; choose another --out") from error
    return out


def write_config(folder: Path, config: Config) -> None:
    files.write_json(folder / CONFIG, config.to_dict())


def read_config(folder: Path) -> Config:
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        recipe = values["recipe"]
        values["recipe"] = Recipe(**{**recipe, "milestones": tuple(recipe["milestones"])})
        values |= {key: tuple(values[key]) for key in ("mean", "std") if values[key] is not None}
        return Config(**values)
    except FileNotFoundError:
        raise ModelFileError(f"{folder}: not a run (no {CONFIG}); `wrn runs` lists those under runs/") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelFileError(f"{path}: not a run's config as this version writes it: {error}") from error


def write_metrics(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    files.write_whole(folder / METRICS, files.csv_text(rows))


def log(folder: Path, line: str) -> None:
    """Appends to log.txt, the one file of a run that is not written whole."""
    with (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def find(folder: Path) -> list[Path]:
    """The run folders in `folder`, oldest first by the time their config was written."""
    return sorted((path.parent for path in folder.glob(f"*/{CONFIG}")), key=lambda run: (run / CONFIG).stat().st_mtime)
