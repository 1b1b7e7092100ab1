"""Reading pictures: images/s of ours against torchvision's ImageFolder and Hugging Face datasets on the same files with
the same resize, alternating in one run; the cache's second start; data work as a share of an epoch of WRN-16-2.

Prints the Markdown rows of docs/numbers.md, "Data". Needs WRN_SHARED and the extra `hub`.
Usage: python benchmarks/data.py [PICTURES OF CIFAR-10, 60000] [ROUNDS, 3]
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from ingredients import cifar10
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from wideresnet import classification, data, training
from wideresnet.model import WideResNetClassifier
from wideresnet.preprocess import Preprocess
from wideresnet.recipes import RECIPES, change

SHARED = Path(os.environ["WRN_SHARED"]) / "data"
WORKERS = data.workers.NUM_WORKERS
CPU = torch.device("cpu")


def preprocess(size: int) -> Preprocess:
    return Preprocess(size=size, mean=(0.5,) * 3, std=(0.25,) * 3)


def cifar10_as_png(folder: Path, num: int) -> Path:
    """The first `num` pictures of CIFAR-10 as PNG files, folder/CLASS/INDEX.png (datasets takes a name for a split)."""
    arrays = cifar10(SHARED / "cifar10")
    images, labels = (chain(arrays[f"train_{what}"], arrays[f"test_{what}"]) for what in ("images", "labels"))
    for number, (image, label) in enumerate(islice(zip(images, labels, strict=True), num)):
        path = folder / str(label) / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def consume(batches: Iterable[Any]) -> int:
    return sum(len(batch) for batch in batches)


def ours(folder: Path, size: int) -> int:
    loaded = data.load(data.read(folder), preprocess(size), cache="memory")
    return sum(len(part) for part in loaded.parts.values())


def torchvision(folder: Path, size: int) -> int:
    transform = v2.Compose([v2.PILToTensor(), v2.Resize(size, antialias=True), v2.CenterCrop(size)])
    loader: DataLoader[Any] = DataLoader(ImageFolder(folder, transform), 128, num_workers=WORKERS)
    return consume(images for images, _ in loader)


def hugging_face(folder: Path, size: int, cache: Path) -> Callable[[], int]:
    """The table of files is made once, before the clock runs."""
    from datasets import load_dataset

    table = load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(cache))
    resize = v2.Compose([v2.PILToTensor(), v2.Resize(size, antialias=True), v2.CenterCrop(size)])

    def transform(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"image": [resize(image.convert("RGB")) for image in rows["image"]]}

    shown = table.with_transform(transform)
    return lambda: consume(batch["image"] for batch in DataLoader(shown, 128, num_workers=WORKERS))


def throughput(name: str, folder: Path, size: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as cache:
        ways = {
            "ours": lambda: ours(folder, size),
            "ImageFolder + DataLoader": lambda: torchvision(folder, size),
            "datasets imagefolder + DataLoader": hugging_face(folder, size, Path(cache)),
        }
        best, count = dict.fromkeys(ways, float("inf")), dict.fromkeys(ways, 0)
        for _ in range(rounds):
            for way, read in ways.items():
                started = time.perf_counter()
                count[way] = read()
                best[way] = min(best[way], time.perf_counter() - started)
    assert len(set(count.values())) == 1, count
    speed = {way: count[way] / best[way] for way in ways}
    cells = " | ".join(f"{value:,.0f}" for value in speed.values())
    others = max(value for way, value in speed.items() if way != "ours")
    print(f"| {name}, {count['ours']:,} at {size} | {cells} | {speed['ours'] / others:.2f} |", flush=True)


def second_start(name: str, folder: Path, size: int, rounds: int) -> None:
    """From the name of the data to parts and statistics: decoding all of it, and from the cache."""

    def start() -> float:
        started = time.perf_counter()
        parts = data.load(data.read(folder), preprocess(size), cache="disk").parts
        data.divide(parts, 0).parts["train"].statistics()
        return time.perf_counter() - started

    first = start()
    again = min(start() for _ in range(rounds))
    print(f"| {name} at {size} | {first:.2f} | {again:.2f} | {first / again:.0f} |", flush=True)


def share(folder: Path, size: int, steps: int) -> None:
    """Seconds that a batch takes to make, of those that a step takes in all, for each way of keeping pictures."""
    recipe = change(RECIPES["fast"], {"batch_size": 128, "epochs": 1})
    modes: tuple[data.Cache, ...] = ("memory", "disk", "off")
    for cache in modes:
        train = data.divide(data.load(data.read(folder), preprocess(size), cache=cache).parts, 0).parts["train"]
        torch.manual_seed(0)
        state = training.start(WideResNetClassifier(10, 16, 2).to(memory_format=torch.channels_last), recipe)
        loss = classification.loss(recipe)
        batches = classification.batches(train, preprocess(size), recipe, 0, CPU)(1)
        waited, worked = [], []
        began = time.perf_counter()
        for batch in islice(batches, steps):
            ready = time.perf_counter()
            waited.append(ready - began)
            loss(state.model, batch).mean.backward()
            state.optimizer.step()
            state.optimizer.zero_grad(set_to_none=True)
            began = time.perf_counter()
            worked.append(began - ready)
        # The first step starts workers and warms caches up; an epoch has hundreds.
        data_s, step_s = sum(waited[1:]), sum(waited[1:]) + sum(worked[1:])
        milliseconds = f"{1000 * data_s / len(waited[1:]):.2f} | {1000 * step_s / len(waited[1:]):.1f}"
        print(f"| {cache} | {milliseconds} | {100 * data_s / step_s:.2f} % |", flush=True)


def main(num: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["WRN_CACHE"] = f"{scratch}/cache"
        sets = (
            ("CIFAR-10 as PNG", cifar10_as_png(Path(scratch) / "cifar10", num), 32),
            ("photographs", SHARED / "photos" / "train", 64),
            ("flowers", SHARED / "flowers", 64),
        )
        print("| images/s, a worker for each core | ours | ImageFolder | datasets | ours / the better |")
        print("| --- | --- | --- | --- | --- |")
        for name, folder, size in sets:
            throughput(name, folder, size, rounds)
        print("\n| start, seconds | decoding | from the cache | ratio |\n| --- | --- | --- | --- |")
        for name, folder, size in sets:
            second_start(name, folder, size, rounds)
        print("\n| WRN-16-2, batch 128, 32×32 | data, ms a step | step, ms | share |\n| --- | --- | --- | --- |")
        share(sets[0][1], 32, min(40, num // 128))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60_000, int(sys.argv[2]) if len(sys.argv) > 2 else 3)
