"""What `wrn data check` finds of faults that are planted, and what it calls a fault that is none; beside cleanlab for
wrong labels; and how long it takes.

    python benchmarks/data_check.py faults flowers|cifar10 FOLDER   planted copies, broken and blank files; a page
    python benchmarks/data_check.py noise FOLDER                    10,000 pictures of CIFAR-10, 500 labels changed
    python benchmarks/data_check.py labels FOLDER MODEL             precision of the first 500 suspects of that data
    python benchmarks/data_check.py time FOLDER                     50,000 pictures of CIFAR-10, 4,317 flowers

Needs WRN_SHARED; `labels` needs cleanlab. Found pairs that were not planted are listed in FOLDER: an alarm is false
only if a look at the pair says so.
"""

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ingredients import cifar10
from PIL import Image

import wideresnet as wrn
from wideresnet import data, jobs
from wideresnet.data import check
from wideresnet.data.check import Look

SHARED = Path(os.environ["WRN_SHARED"]) / "data"
PLANTED, FEW = 40, 10
WRONG, PICTURES = 500, 10_000

Changed = Callable[[Image.Image, np.random.Generator], Image.Image]


def recompressed(image: Image.Image, random: np.random.Generator) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=int(random.integers(50, 85)))
    return Image.open(io.BytesIO(content.getvalue())).convert("RGB")


def resized(image: Image.Image, random: np.random.Generator) -> Image.Image:
    factor = random.uniform(0.5, 0.9) if random.random() < 0.7 else random.uniform(1.2, 2.0)
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def flipped(image: Image.Image, _: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def cropped(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """88 to 95 % of each side, anywhere."""
    share = random.uniform(0.88, 0.95)
    width, height = round(image.width * share), round(image.height * share)
    x, y = (int(random.integers(0, room + 1)) for room in (image.width - width, image.height - height))
    return image.crop((x, y, x + width, y + height))


NEAR: dict[str, Changed] = {"recompressed": recompressed, "resized": resized, "flipped": flipped, "cropped": cropped}


def originals(which: str) -> list[tuple[str, bytes]]:
    """(class, encoded picture)."""
    if which == "flowers":
        return [(path.parent.name, path.read_bytes()) for path in sorted((SHARED / "flowers").glob("*/*.jpg"))]
    arrays, found = cifar10(SHARED / "cifar10"), []
    for image, label in zip(arrays["train_images"][:PICTURES], arrays["train_labels"][:PICTURES], strict=True):
        found.append((str(label), encoded(Image.fromarray(image))))
    return found


def encoded(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def planted(which: str, root: Path) -> dict[str, list[tuple[str, ...]]]:
    """The data as train and test folders, a tenth in test; kind → what was planted there, by name."""
    random = np.random.default_rng(0)
    pictures = originals(which)
    order = random.permutation(len(pictures)).tolist()
    held, faults = set(order[: len(order) // 10]), dict[str, list[tuple[str, ...]]]()
    suffix = ".jpg" if which == "flowers" else ".png"

    def put(name: str, content: bytes) -> str:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        return name

    names = {
        i: put(f"{'test' if i in held else 'train'}/{label}/{i:05d}{suffix}", content)
        for i, (label, content) in enumerate(pictures)
    }
    train = iter([i for i in order if i not in held])
    for kind in ("exact", *NEAR):
        faults[kind] = []
        for i in (next(train) for _ in range(PLANTED)):
            label, content = pictures[i]
            if kind == "exact":
                name = put(f"test/{label}/{kind}-{i}{suffix}", content)
            else:
                image = Image.open(io.BytesIO(content)).convert("RGB")
                name = put(f"test/{label}/{kind}-{i}.png", encoded(NEAR[kind](image, random)))
            faults[kind].append(tuple(sorted((names[i], name))))
    label = pictures[0][0]
    faults["corrupt"], faults["blank"] = [], []
    for k, i in enumerate(next(train) for _ in range(FEW)):
        content = bytearray(pictures[i][1][: len(pictures[i][1]) // 2]) if k % 2 else bytearray(pictures[i][1])
        if k % 2 == 0:  # a header that is none; cut short otherwise
            content[: len(content) // 3] = bytes(len(content) // 3)
        faults["corrupt"].append((put(f"train/{label}/corrupt-{i}{suffix}", bytes(content)),))
        colour = tuple(random.integers(0, 256, 3).tolist())
        faults["blank"].append((put(f"train/{label}/blank-{i}.png", encoded(Image.new("RGB", (48, 48), colour))),))
    return faults


def found_faults(which: str, folder: Path) -> None:
    """A row for each kind: planted, found, missed; and what else was found of it."""
    root = folder / which
    faults = planted(which, root)
    start = time.perf_counter()
    checked = wrn.check_data(root, report_file=folder / f"{which}.html")
    took = time.perf_counter() - start
    items = {one.kind: {tuple(sorted(p.name for p in item.pictures)) for item in one.items} for one in checked.findings}
    kinds = {"exact": "leak", "corrupt": "unreadable", "blank": "blank"} | dict.fromkeys(NEAR, "near-leak")
    print(f"{which}: {checked.num_images:,} pictures, {took:.0f} s")
    print("| planted | found | missed |\n| --- | --- | --- |")
    for kind, those in faults.items():
        found = [one for one in those if one in items.get(kinds[kind], set())]
        print(f"| {len(those)} {kind} | {len(found)} | {len(those) - len(found)} |", flush=True)
    every = {one for those in faults.values() for one in those}
    marks = (*(f"{kind}-" for kind in faults),)
    for kind in ("leak", "clash", "duplicate", "near-leak", "near-clash", "near-duplicate", "unreadable", "blank"):
        others = sorted(items.get(kind, set()) - every)
        of_planted = [one for one in others if any(mark in name for name in one for mark in marks)]
        print(f"{kind}: {len(others)} not planted, {len(of_planted)} of them with a planted picture")
    natural = [
        one for kind in ("near-leak", "near-clash", "near-duplicate") for one in sorted(items.get(kind, set()) - every)
    ]
    (folder / f"{which}-natural.txt").write_text("\n".join(" ".join(one) for one in natural))


def noise(folder: Path) -> None:
    arrays, random = cifar10(SHARED / "cifar10"), np.random.default_rng(0)
    labels = arrays["train_labels"][:PICTURES].copy()
    wrong = random.choice(PICTURES, WRONG, replace=False)
    labels[wrong] = (labels[wrong] + random.integers(1, 10, WRONG)) % 10
    np.savez(
        folder / "noisy.npz",
        images=arrays["train_images"][:PICTURES],
        labels=labels,
        class_names=np.arange(10).astype(str),
    )
    np.save(folder / "wrong.npy", wrong)


def labels(folder: Path, model: str) -> None:
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    listing = data.read(folder / "noisy.npz")
    wrong = set(np.load(folder / "wrong.npy").tolist())
    seen = check.gallery(listing, {split: check.look(one) for split, one in listing.splits.items()})
    embeddings = jobs.checking.embeddings_of(listing, jobs.load(model, "cpu"))
    marks = [one.digest for one in seen.each if isinstance(one, Look)]
    start = time.perf_counter()
    probs, judged = check.out_of_sample(embeddings, seen.labels, marks)
    print(f"{model}: cross-validated in {time.perf_counter() - start:.0f} s")
    right = float((probs.argmax(1) == seen.labels).mean())
    print(f"agrees with {100 * right:.1f} % of the labels as they are; chance {100 * WRONG / PICTURES:.0f} %")
    suspects = [one.row for one in check.suspects(probs, seen.labels, judged)]
    rows = {
        "ours": suspects,
        "cleanlab, by self-confidence": find_label_issues(
            seen.labels, probs, return_indices_ranked_by="self_confidence"
        ),
        "cleanlab, by normalised margin": find_label_issues(
            seen.labels, probs, return_indices_ranked_by="normalized_margin"
        ),
        "all pictures by cleanlab's score": np.argsort(get_label_quality_scores(seen.labels, probs), kind="stable"),
    }
    print("| ranking | suspects | wrong of the first 500 | of the first 100 |\n| --- | --- | --- | --- |")
    for name, order in rows.items():
        hits = [sum(int(row) in wrong for row in order[:k]) for k in (500, 100)]
        print(f"| {name} | {len(order):,} | {hits[0] / min(500, len(order)):.1%} | {hits[1]} |")


def times(folder: Path) -> None:
    arrays = cifar10(SHARED / "cifar10")
    np.savez(folder / "train.npz", images=arrays["train_images"], labels=arrays["train_labels"])
    for source in (folder / "train.npz", SHARED / "flowers"):
        start = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "wideresnet",
            "data",
            "check",
            str(source),
            "--report",
            str(folder / "time.html"),
        ]
        before = os.times()
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
        now = os.times()
        used = now.children_user + now.children_system - before.children_user - before.children_system
        took = time.perf_counter() - start
        print(f"{source.name}: {took:.0f} s, the whole command; {used:.0f} s of processor time", flush=True)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    place = Path(rest[1] if what == "faults" else rest[0])
    place.mkdir(parents=True, exist_ok=True)
    if what == "faults":
        found_faults(rest[0], place)
    elif what == "labels":
        labels(place, rest[1])
    else:
        {"noise": noise, "time": times}[what](place)
