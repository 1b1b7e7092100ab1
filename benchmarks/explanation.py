"""Does the heat lie where it should? The pointing game (Zhang et al. 2018) on mosaics of four CIFAR-10 test pictures of
four classes: the share of maps whose warmest place lies in the quarter of the class that is explained (chance: 25 %),
and the mean share of the heat in it. And what is left of a map when the weights are randomised from the class layer on.

Prints the Markdown rows of docs/numbers.md, "Explanations".
Usage: python benchmarks/explanation.py RUN CIFAR10.npz [MOSAICS, 50]
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wideresnet import Predictor
from wideresnet.explanation import Layer, Map, maps, places
from wideresnet.preprocess import Placement

SIDE, AT_ONCE = 64, 40


def mosaics(predictor: Predictor, file: Path, num: int) -> tuple[Tensor, Tensor]:
    """uint8 [num, 3, 64, 64], labels int64 [num, 4]; each is answered rightly alone, no class is there twice."""
    arrays = np.load(file)
    order = np.random.default_rng(0).permutation(len(arrays["test_labels"]))[: 16 * num]
    images = torch.from_numpy(arrays["test_images"][order]).permute(0, 3, 1, 2)
    labels = torch.from_numpy(arrays["test_labels"][order].astype(np.int64))
    right = predictor.engine.compute(images).argmax(1) == labels
    images, labels = images[right], labels[right]
    found, of = list[Tensor](), list[Tensor]()
    for start in range(0, len(labels) - 4, 4):
        four = labels[start : start + 4]
        if len(found) < num and len(four.unique()) == 4:
            rows = [torch.cat(list(images[start + at : start + at + 2]), 2) for at in (0, 2)]
            found.append(torch.cat(rows, 1))
            of.append(four)
    return torch.stack(found), torch.stack(of)


def methods(predictor: Predictor) -> dict[str, Callable[[Tensor, Tensor, Tensor], list[Map]]]:
    """Name → (uint8 mosaics, the same normalised, classes) → maps."""
    network, preprocess = predictor.model, predictor.card.preprocess
    last, finer = places.layers(network, preprocess.channels, SIDE)
    raw = Layer("backbone.stage3", last.side, last.grid)
    read = Layer(
        "backbone.stage3.0.bn1", finer.side, finer.grid
    )  # what stage 3 reads of stage 2: BN, then ReLU in place

    def cam(how: Callable[..., list[list[Map]]], layer: Layer) -> Callable[[Tensor, Tensor, Tensor], list[Map]]:
        return lambda _, x, classes: [one[0] for one in how(network, x, classes, [layer])]

    return {
        "Grad-CAM, stage 3 after BN and ReLU (HiResCAM is the same there)": cam(maps.grad_cam, last),
        "Grad-CAM, stage 3, raw sum": cam(maps.grad_cam, raw),
        "HiResCAM, stage 3, raw sum": cam(maps.hires_cam, raw),
        "Grad-CAM, stage 2, raw sum": cam(maps.grad_cam, finer),
        "HiResCAM, stage 2, raw sum": cam(maps.hires_cam, finer),
        "Grad-CAM, stage 2 after BN and ReLU": cam(maps.grad_cam, read),
        "HiResCAM, stage 2 after BN and ReLU": cam(maps.hires_cam, read),
        "HiResCAM, stage 2, times Grad-CAM, stage 3": lambda _, x, classes: [
            maps.finer(a[0], b[0])
            for a, b in zip(
                maps.grad_cam(network, x, classes, [last]), maps.hires_cam(network, x, classes, [finer]), strict=True
            )
        ],
        "integrated gradients, 8×8 cells": lambda _, x, classes: maps.in_cells(
            maps.integrated_gradients(network, x, classes)
        ),
        "occlusion, 8×8 windows": lambda images, _, classes: maps.occlusion(
            predictor.engine.compute, images, classes, preprocess.mean_colour
        ),
    }


def pointing(found: Sequence[Map], quarters: Sequence[int]) -> tuple[float, float]:
    """Share of maxima within their quarter, mean share of the heat within it."""
    hits, shares = list[bool](), list[float]()
    for one, quarter in zip(found, quarters, strict=True):
        heat = one.on_picture(Placement(1, 1, 0, 0), SIDE, SIDE)
        top, left = quarter // 2 * SIDE // 2, quarter % 2 * SIDE // 2
        y, x = divmod(int(heat.argmax()), SIDE)
        hits.append(heat.max() > 0 and top <= y < top + SIDE // 2 and left <= x < left + SIDE // 2)
        inside = heat[top : top + SIDE // 2, left : left + SIDE // 2].sum()
        shares.append(float(inside / heat.sum()) if heat.sum() > 0 else 0.25)
    return float(np.mean(hits)), float(np.mean(shares))


def cascade(predictor: Predictor, x: Tensor, classes: Tensor) -> dict[str, tuple[float, ...]]:
    """Parts randomised so far → the mean rank correlation of each layer's map with that of the trained network."""
    layers = places.layers(predictor.model, x.shape[1], x.shape[2])
    before = maps.grad_cam(predictor.model, x, classes, layers)
    done, found = list[str](), dict[str, tuple[float, ...]]()
    for part in ("fc", "bn", "stage3", "stage2", "stage1", "stem"):
        done.append(part)
        after = maps.grad_cam(maps.randomised(predictor.model, done), x, classes, layers)
        found[part] = tuple(
            float(
                np.mean([maps.rank_correlation(b[i].heat, a[i].heat) or 0 for b, a in zip(before, after, strict=True)])
            )
            for i in range(len(layers))
        )
    return found


def main(run: str, file: str, num: str = "50") -> None:
    predictor = Predictor(run)
    images, labels = mosaics(predictor, Path(file), int(num))
    images, quarters = images.repeat_interleave(4, 0), [0, 1, 2, 3] * len(labels)
    classes = labels.flatten()
    x = predictor.card.preprocess.normalise(images)
    print(f"{len(classes)} maps of {len(labels)} mosaics\n\n| map | warmest place in the right quarter | heat in it |")
    print("| --- | --- | --- |")
    for name, how in methods(predictor).items():
        found: list[Any] = []
        for rows in torch.arange(len(x)).split(AT_ONCE):
            found += how(images[rows], x[rows], classes[rows])
        hits, share = pointing(found, quarters)
        print(f"| {name} | {100 * hits:.1f} % | {100 * share:.1f} % |", flush=True)
    print("\n| randomised, from the class layer on | stage 3 | stage 2 |\n| --- | --- | --- |")
    for part, values in cascade(predictor, x[:AT_ONCE], classes[:AT_ONCE]).items():
        print(f"| to {part} | {' | '.join(f'{value:.2f}' for value in values)} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
