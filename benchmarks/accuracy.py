"""What `wrn train` reaches with every default: the rows of docs/numbers.md, "Accuracy with every default".

Usage: python benchmarks/accuracy.py FOLDER [NAME…]. Each training that ends is a row of FOLDER/results.csv; the same
command again goes on where it stopped, and prints the table. Names: digits, flowers50, flowers500, cifar500, photos,
flowers (about 20 minutes); without any, all of them. Needs WRN_SHARED but for digits.
"""

import csv
import os
import sys
import time
from pathlib import Path

import numpy as np
from ingredients import part

import wideresnet as wrn
from wideresnet import files, runtime

SHARED = Path(os.environ.get("WRN_SHARED", "../shared")) / "data"
SEEDS = {"digits": 5}


def few_flowers(folder: Path, of_each: int) -> Path:
    """`of_each` pictures of each class to train and choose on, and a fifth of all as test, the same for any number."""
    for place in sorted(path for path in (SHARED / "flowers").iterdir() if path.is_dir()):
        pictures = sorted(place.iterdir())
        order = np.random.default_rng(0).permutation(len(pictures))
        num_test = len(pictures) // 5
        for split, rows in (("test", order[:num_test]), ("train", order[num_test : num_test + of_each])):
            target = folder / split / place.name
            target.mkdir(parents=True, exist_ok=True)
            for row in rows:
                (target / pictures[row].name).write_bytes(pictures[row].read_bytes())
    return folder


def data_of(name: str, folder: Path) -> Path | str:
    if name.startswith("flowers5"):
        made = folder / name
        return made if made.exists() else few_flowers(made, int(name.removeprefix("flowers")) // 5)
    if name == "cifar500":
        return part(SHARED / "cifar10", 500, folder)
    return name if name == "digits" else SHARED / name


def main(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.csv"
    rows = list(csv.DictReader(results.open(encoding="utf-8"))) if results.exists() else []
    done = {(row["data"], row["seed"]) for row in rows}
    for name in names:
        for seed in range(SEEDS.get(name, 1)):
            if (name, str(seed)) in done:
                continue
            started = time.perf_counter()
            run = wrn.train(data_of(name, folder), out=folder / f"{name}-{seed}", seed=seed, watch=runtime.QUIET)
            e, seconds = run.evaluation, time.perf_counter() - started
            low, high = (f"{100 * bound:.1f}" for bound in e.interval)
            judged = f"{e.split}, {len(e.labels):,}"
            rows.append({"data": name, "seed": str(seed), "judged on": judged, "accuracy": f"{100 * e.accuracy:.2f}"})
            rows[-1] |= {"interval": f"{low} to {high}", "seconds": f"{seconds:.0f}"}
            files.write_whole(results, files.csv_text(rows))
    print("| " + " | ".join(rows[0]) + " |\n|" + " --- |" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(row.values()) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or ["digits", "flowers50", "flowers500", "photos", "cifar500", "flowers"])
