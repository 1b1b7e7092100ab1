"""Dialects on real pictures: networks trained here in one, given away under its keys, read again without its name; and
another project's own evaluation beside ours on the same weights.

Usage: python benchmarks/dialects.py which FOLDER CIFAR10.npz
    Trains a WRN-10-1 for each dialect that others share keys with, on 10,000 pictures for four epochs, writes it under
    the dialect's keys, and lets `wrn import --check` find out what it is. A row of FOLDER/which.csv each; the same
    command again goes on where it stopped.
Usage: python benchmarks/dialects.py peer CHECKOUT MODEL CIFAR10.npz
    CHECKOUT is a clone of kekmodel/FixMatch-pytorch (not part of this project); MODEL a model file or run of ours with
    its options (trained as wrn_…_….kekmodel-fixmatch). Its network and its transforms answer 1,000 test pictures; so
    does ours, imported from the same weights.
"""

import csv
import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import wideresnet as wrn
from wideresnet import dialects, files, jobs
from wideresnet.checkpoint import load_model, save_model

# One of each kind; others share their keys and differ from them in a name, or in the third decimal of a mean.
TRAINED = (
    "xternalz",
    "trades",
    "robustbench-hendrycks2019",
    "robustbench-ding2020mma",
    "bag-of-tricks-gelu",
    "bag-of-tricks-elu",
    "bag-of-tricks-softplus",
    "kekmodel-fixmatch",
    "deepmind-relu",
    "deepmind-swish",
    "robustbench-pang2020boosting",
    "bag-of-tricks-cosine",
    "uncertainty-baselines",
    "ddu-plain",
)


def subset(data: Path, out: Path, num: int = 10_000) -> Path:
    """The first `num` training pictures and all test pictures."""
    with np.load(data) as whole:
        train = {name: whole[name][:num] for name in ("train_images", "train_labels")}
        np.savez(out, **train, **{name: whole[name] for name in whole.files if not name.startswith("train")})
    return out


def train_as(name: str, data: Path, folder: Path) -> Path:
    """The model of a WRN-10-1 trained in this dialect, its pictures normalised as the source does."""
    source = dialects.input_for(dialects.find_dialect(name), 10, data_set="cifar10")
    assert source is not None
    out = folder / name
    if not (out / "model.safetensors").exists():
        wrn.train(data, arch=f"wrn_10_1.{name}", mean=source.mean, std=source.std, epochs=4, out=out, watch=wrn.Watch())
    recount(out / "model.safetensors", data, per_image=source.per_image)
    if source.per_image and not (out / "fine" / "model.safetensors").exists():
        wrn.train(data, init=out, recipe="fast", epochs=4, out=out / "fine", watch=wrn.Watch())
    return (out / "fine" if source.per_image else out) / "model.safetensors"


def recount(model: Path, data: Path, *, per_image: bool) -> None:
    """BN's statistics over 2,000 training pictures: with the ports' momentum of 0.001 four epochs leave them half-way.
    To standardise each image is no option of `wrn train`; it is so from here on, and trained further.
    """
    file = load_model(model)
    card = replace(file.card, preprocess=replace(file.card.preprocess, per_image=per_image))
    with np.load(data) as arrays:
        images = torch.from_numpy(arrays["train_images"][:2_000]).permute(0, 3, 1, 2)
    for module in file.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all that is seen
    file.model.train()
    with torch.no_grad():
        for part in images.split(500):
            file.model(card.preprocess.normalise(part))
    save_model(model, file.model.state_dict(), card, file.extra)


def which(folder: Path, data: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    small = folder / "cifar10-10k.npz"
    if not small.exists():
        subset(data, small)
    table = folder / "which.csv"
    rows: list[dict[str, Any]] = list(csv.DictReader(table.open())) if table.exists() else []
    for name in TRAINED:
        if any(row["trained as"] == name for row in rows):
            continue
        theirs = folder / f"{name}.safetensors"
        wrn.convert(train_as(name, small, folder), name, theirs)
        try:
            done = jobs.import_checkpoint(
                theirs, out=folder / f"{name}-ours.safetensors", check=str(small), dataset="cifar10", watch=wrn.Watch()
            )
            found, told = (
                done.dialect,
                [
                    f"{' '.join(each.names)} {'' if each.accuracy is None else f'{each.accuracy:.4f}'}"
                    for each in done.candidates
                ],
            )
            mine = next(each for each in done.candidates if name in each.names)
            alike = "; ".join(note for note in done.notes if "answers alike" in note)
            rows.append({"trained as": name, "found": found, "right": found in mine.names, "alike": alike})
            rows[-1]["candidates"] = " | ".join(told)
        except wrn.UsageError as error:
            rows.append({"trained as": name, "found": "", "right": False, "alike": "", "candidates": str(error)})
        files.write_whole(table, files.csv_text(rows))
        print(rows[-1], flush=True)


def peer(checkout: Path, model: Path, data: Path) -> None:
    sys.path.insert(0, str(checkout))
    network = importlib.import_module("models.wideresnet")
    their_data = importlib.import_module("dataset.cifar")
    from torchvision import transforms

    folder = Path("peer-out")
    folder.mkdir(exist_ok=True)
    wrn.convert(model, "kekmodel-fixmatch", folder / "theirs.pth")
    state = torch.load(folder / "theirs.pth", weights_only=True)
    shape = load_model(model).card.architecture
    theirs = network.build_wideresnet(shape["depth"], shape["widen_factor"], 0, shape["num_classes"])
    theirs.load_state_dict(state)
    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(their_data.cifar10_mean, their_data.cifar10_std)]
    )
    imported = wrn.import_checkpoint(
        folder / "theirs.pth", dialect="kekmodel-fixmatch", out=folder / "ours.safetensors", trust_pickle=True
    )
    predictor = wrn.load(imported.path)
    with np.load(data) as arrays:
        images, labels = arrays["test_images"][:1_000], arrays["test_labels"][:1_000]
    with torch.no_grad():
        x = torch.stack([transform(Image.fromarray(image)) for image in images])
        their_logits = torch.cat([theirs.eval()(part) for part in x.split(100)])
    our_logits = torch.as_tensor(predictor.logits(list(images)))
    error = float((their_logits - our_logits).abs().max() / their_logits.abs().max())
    same = int((their_logits.argmax(1) == our_logits.argmax(1)).sum())
    accuracy = float((their_logits.argmax(1).numpy() == labels).mean())
    print(
        f"1,000 pictures: largest relative difference {error:.1e}, same answer on {same}, their accuracy {accuracy:.4f}"
    )


def main() -> None:
    match sys.argv[1:]:
        case ["which", folder, data]:
            which(Path(folder), Path(data))
        case ["peer", checkout, model, data]:
            peer(Path(checkout), Path(model), Path(data))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
