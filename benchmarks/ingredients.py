"""What each ingredient of a recipe brings: test accuracy on CIFAR-10, WRN-16-1, three seeds each, through `wrn.train`.

Two tables. "ingredients": 10,000 of the training images, the same for all, `fast` without label smoothing, and each
ingredient alone on top of it. "few labels": 400 images a class, `fast`, `fast` for as long as `strong`, and `strong`.
All of them train on every image and take the last epoch; the 10,000 test images are looked at once by each run.

Usage: python benchmarks/ingredients.py FOLDER [options]. Each run that ends is a row of FOLDER/results.csv; the same
command again goes on where it stopped, and prints the tables when all is there. The images are the sheets under
$WRN_SHARED/data/cifar10, or an .npz as `wrn train` takes it.
"""

import argparse
import csv
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wideresnet import files

# Each with the number its paper has for CIFAR-10: DeVries & Taylor 2017 (16 pixels), Zhang et al. 2018 and Yun et al.
# 2019 (α = 1).
INGREDIENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "EMA": {"ema_decay": 0.999},
    "cutout": {"cutout": 16},
    "mixup": {"mixup": 1.0},
    "cutmix": {"cutmix": 1.0},
    "TrivialAugment": {"policy": "trivial"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One training; its fields but `options` are the columns that tell rows of results.csv apart."""

    table: str
    name: str
    pictures: int
    epochs: int
    seed: int
    options: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(str(value) for name, value in asdict(self).items() if name != "options")


def tasks(arguments: argparse.Namespace) -> list[Task]:
    """Seed by seed, so that a table cut short has a whole row for each ingredient."""
    found = []
    few, longer = arguments.few_epochs, 3 * arguments.few_epochs  # strong: three times as long
    for seed in range(arguments.seeds):
        for name, options in INGREDIENTS.items():
            changes = {"label_smoothing": 0.0, **options}
            size, epochs = arguments.pictures, arguments.epochs
            found.append(Task(table="ingredients", name=name, pictures=size, epochs=epochs, seed=seed, options=changes))
        for name, recipe, epochs in (("fast", "fast", few), ("fast", "fast", longer), ("strong", "strong", longer)):
            options = {"recipe": recipe}
            size = arguments.few
            found.append(Task(table="few labels", name=name, pictures=size, epochs=epochs, seed=seed, options=options))
    return found


def train(data: Path, task: Task) -> tuple[float, float]:
    """In a process of its own: test accuracy, and seconds for all of it."""
    import wideresnet as wrn
    from wideresnet.runtime import QUIET

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = wrn.train(
            data,
            arch="wrn_16_1",
            out=Path(folder) / "run",
            seed=task.seed,
            device="cpu",
            watch=QUIET,
            epochs=task.epochs,
            select="last",
            **task.options,
        )
    assert run.evaluation.split == "test"
    return run.evaluation.accuracy, time.perf_counter() - started


def cifar10(source: Path) -> dict[str, np.ndarray]:
    """<split>_images uint8 [N, 32, 32, 3], <split>_labels [N], class_names: from an .npz or a folder of sheets."""
    if source.suffix == ".npz":
        with np.load(source) as arrays:
            return dict(arrays)
    lines = [line for line in (source / "classes.txt").read_text().splitlines() if line.strip()]
    found = {"class_names": np.array([line.split()[-1] for line in lines])}
    for split in ("train", "test"):
        sheets = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(source.glob(f"{split}_*.webp"))]
        tiles = [sheet.reshape(-1, 32, 25, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3) for sheet in sheets]
        found[f"{split}_images"] = np.concatenate(tiles)
        found[f"{split}_labels"] = np.load(source / "labels.npz")[f"{split}_labels"]
    return found


def part(source: Path, pictures: int, folder: Path) -> Path:
    """`pictures` of the training images, as many of each class, always the same ones, and the whole test part."""
    path = folder / f"cifar10-{pictures}.npz"
    if not path.exists():
        arrays = cifar10(source)
        labels, of_each = arrays["train_labels"], pictures // len(arrays["class_names"])
        random = np.random.default_rng(0)
        kept = np.sort(np.concatenate([random.permutation(np.flatnonzero(labels == c))[:of_each] for c in set(labels)]))
        arrays |= {name: arrays[name][kept] for name in ("train_images", "train_labels")}
        whole = path.with_suffix(".part.npz")
        np.savez(whole, **arrays)  # type: ignore[arg-type]
        whole.replace(path)
    return path


def table(rows: list[dict[str, str]], name: str) -> str:
    """Markdown: mean and standard deviation of the test accuracy over the seeds."""
    lines = [
        f"| {name} | pictures | epochs | seeds | test accuracy | s a run |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows:
        if row["table"] == name:
            groups.setdefault((row["name"], row["pictures"], row["epochs"]), []).append(row)
    for group, found in groups.items():
        values = [100 * float(row["accuracy"]) for row in found]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        seconds = statistics.mean(float(row["seconds"]) for row in found)
        lines.append(
            f"| {' | '.join(group)} | {len(values)} | {statistics.mean(values):.2f}{spread} % | {seconds:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("WRN_SHARED", "shared")) / "data" / "cifar10")
    parser.add_argument("--epochs", type=int, default=6, help="of the first table: about 3 minutes a run on one core")
    parser.add_argument("--few-epochs", type=int, default=10, help="of `fast` with few labels; `strong` takes 3 times")
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--few", type=int, default=4_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2, help="trainings at once, of one thread each")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results = arguments.folder / "results.csv"
    rows = list(csv.DictReader(results.open(encoding="utf-8"))) if results.exists() else []
    wanted = tasks(arguments)
    columns = [name for name in asdict(wanted[0]) if name != "options"]
    done = {tuple(row[name] for name in columns) for row in rows}
    open_tasks = [task for task in wanted if task.key not in done]
    parts = {n: part(arguments.data, n, arguments.folder) for n in sorted({task.pictures for task in open_tasks})}

    os.environ["OMP_NUM_THREADS"] = "1"  # read by torch in the new processes, where alone it is imported
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, mp_context=spawn) as pool:
        running = {pool.submit(train, parts[task.pictures], task): task for task in open_tasks}
        for future in as_completed(running):
            accuracy, seconds = future.result()
            measured = {"accuracy": f"{accuracy:.4f}", "seconds": f"{seconds:.1f}"}
            rows.append(dict(zip(columns, running[future].key, strict=True)) | measured)
            files.write_whole(results, files.csv_text(rows))
            print(", ".join(rows[-1].values()), flush=True)
    by_key = {tuple(row[name] for name in columns): row for row in rows}
    shown = [by_key[task.key] for task in wanted]
    print("\n" + "\n\n".join(table(shown, name) for name in ("ingredients", "few labels")))


if __name__ == "__main__":
    main()
