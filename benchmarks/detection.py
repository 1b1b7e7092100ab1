"""A detector trained here beside torchvision's smallest, for the same time on the same pictures.

    python benchmarks/detection.py FOLDER WHO [--minutes 20] [--data PLACE] [--seed 0] [--init MODEL] [--lr 0.02]

WHO: `ours` (`wrn detect train` with its defaults, as many epochs as fit), or `theirs`: torchvision's
`fasterrcnn_mobilenet_v3_large_320_fpn` without pretrained weights, by torchvision's own reference recipe (SGD, momentum
0.9, weight decay 1e-4, mirror images) with a warm-up, a cosine over the whole time and clipped gradients, which help it
begun from nothing, in batches of 8. Time is that of the training steps alone; judging does not count. Of both the best
of some ten or more looks at val counts, by the same code. Each training that ends is a row of FOLDER/detection.jsonl.
PLACE: $WRN_SHARED/data/detection/bccd.
"""

import argparse
import json
import math
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from inference import commit, machine
from torch import Tensor, nn

import wideresnet as wrn
from wideresnet import runs
from wideresnet.data import Boxes
from wideresnet.detection import Detections, Figures, figures, read_boxes
from wideresnet.images import decode

LOOKS, BATCH = 10, 8


def ours(data: Path, out: Path, minutes: float, seed: int, init: Path | None) -> dict[str, Any]:
    run = wrn.train_detector(data, out=out, time_budget_s=60 * minutes, seed=seed, init=init)
    state = json.loads((run.folder / runs.CONFIG).read_text(encoding="utf-8"))
    lines = (run.folder / runs.METRICS).read_text(encoding="utf-8").splitlines()
    column = lines[0].split(",").index("seconds")
    seconds = sum(float(line.split(",")[column]) for line in lines[1:])
    told = run.evaluation.figures()
    return {"epochs": state["recipe"]["epochs"], "seconds": seconds, **told, "parameters": _parameters(run.folder)}


def _parameters(folder: Path) -> int:
    from wideresnet.checkpoint import load_model

    return sum(p.numel() for p in load_model(folder, "detection").model.parameters())


def theirs(data: Path, minutes: float, seed: int, lr: float) -> dict[str, Any]:
    listing = read_boxes(data)
    parts = {
        split: ([decode(Path(str(source))) for source in part.sources], part.boxes)
        for split, part in listing.splits.items()
    }
    torch.manual_seed(seed)
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=len(listing.class_names) + 1, trainable_backbone_layers=6
    )
    images, boxes = parts["train"]
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    random = np.random.default_rng(seed)
    limit, spent, looks, best, epochs = 60 * minutes, 0.0, 0, None, 0
    while spent < limit:
        order, epochs = random.permutation(len(images)), epochs + 1
        for rows in np.split(order[: len(order) // BATCH * BATCH], len(order) // BATCH):
            started = time.perf_counter()
            share = min(1.0, spent / limit)
            rate = lr * min(1.0, share / 0.05) * 0.5 * (1 + math.cos(math.pi * share))
            for group in optimizer.param_groups:
                group["lr"] = rate
            _step(model, optimizer, [_example(images[row], boxes[row], random.random() < 0.5) for row in rows])
            spent += time.perf_counter() - started
            if spent >= limit:
                break
        if spent >= limit * min(1.0, (looks + 1) / LOOKS):
            looks += 1
            found = _judged(model, *parts["val"], len(listing.class_names))
            print(f"{spent / 60:.1f} min, epoch {epochs}: AP {found.ap}, AP50 {found.ap50}", flush=True)
            best = found if best is None or (found.ap or 0) > (best.ap or 0) else best
    assert best is not None
    told = {name: getattr(best, name) for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")}
    classes = [{"ap": one.ap, "ap50": one.ap50} for one in best.classes]
    parameters = sum(p.numel() for p in model.parameters())
    return {"epochs": epochs, "seconds": spent, "lr": lr, **told, "classes": classes, "parameters": parameters}


def _example(image: np.ndarray, boxes: Boxes, mirrored: bool) -> tuple[Tensor, dict[str, Tensor]]:
    x = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255
    own = ~boxes.crowd
    placed = torch.from_numpy(boxes.boxes[own]).float()
    if mirrored:
        x = x.flip(2)
        placed = torch.stack([x.shape[2] - placed[:, 2], placed[:, 1], x.shape[2] - placed[:, 0], placed[:, 3]], 1)
    return x, {"boxes": placed, "labels": torch.from_numpy(boxes.labels[own]) + 1}


def _step(model: nn.Module, optimizer: torch.optim.SGD, batch: list[tuple[Tensor, dict[str, Tensor]]]) -> None:
    model.train()
    losses = model([image for image, _ in batch], [target for _, target in batch])
    optimizer.zero_grad()
    torch.stack([*losses.values()]).sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 10)
    optimizer.step()


@torch.inference_mode()
def _judged(model: nn.Module, images: list[np.ndarray], boxes: tuple[Boxes, ...], num_classes: int) -> Figures:
    model.eval()
    found = []
    for image in images:
        (answer,) = model([torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255])
        arrays = (answer[name].double().numpy() for name in ("boxes", "labels", "scores"))
        where, labels, scores = arrays
        found.append(Detections(where, labels.astype(np.int64) - 1, scores))
    return figures(boxes, found, num_classes)


def main() -> None:
    shared = Path(os.environ.get("WRN_SHARED", "../shared"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("who", choices=("ours", "theirs"))
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--data", type=Path, default=shared / "data" / "detection" / "bccd")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--lr", type=float, default=0.02)
    a = parser.parse_args()
    a.folder.mkdir(parents=True, exist_ok=True)
    if a.who == "ours":
        out = a.folder / f"ours-{datetime.now(tz=UTC):%H%M%S}"
        found = ours(a.data, out, a.minutes, a.seed, a.init)
    else:
        found = theirs(a.data, a.minutes, a.seed, a.lr)
    row = {"who": a.who, "minutes": a.minutes, "seed": a.seed, "init": str(a.init or ""), **found}
    row |= {"data": a.data.name, "machine": machine(), "torch": torch.__version__, "commit": commit()}
    with (a.folder / "detection.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps({name: row[name] for name in ("who", "minutes", "epochs", "seconds", "ap", "ap50", "parameters")}))


if __name__ == "__main__":
    main()
