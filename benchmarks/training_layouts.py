"""Images/s of one training step of ours in several ways, alternating in one process: layouts, half precision, compiled.

Prints the Markdown rows of docs/numbers.md, "Training step".
Usage: python benchmarks/training_layouts.py [ROUNDS [BATCH_SIZE]]
"""

import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from wideresnet import training
from wideresnet.model import WideResNetClassifier
from wideresnet.recipes import RECIPES, change
from wideresnet.training import StepLoss

CASES = (("wrn_16_2", 16, 2, 32, 128), ("wrn_16_1", 16, 1, 64, 64), ("wrn_16_2", 16, 2, 64, 64))
WAYS: dict[str, dict[str, Any]] = {  # the first is how we train; fields of the recipe, and the layout
    "channels last": {},
    "NCHW": {"layout": torch.contiguous_format},
    "bf16": {"precision": "bf16"},
    "compiled": {"compile": True},
    "compiled NCHW": {"compile": True, "layout": torch.contiguous_format},
}


@dataclass
class Batch:
    images: torch.Tensor
    labels: torch.Tensor


def loss(model: nn.Module, batch: Batch) -> StepLoss:
    return StepLoss(F.cross_entropy(model(batch.images).float(), batch.labels), len(batch.labels))


def main(rounds: int, at_most: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"| network | size | batch | {' | '.join(WAYS)} |\n| --- | --- | --- |{' --- |' * len(WAYS)}")
    for name, depth, widen_factor, size, usual in CASES:
        steps, batch_size = {}, min(usual, at_most)
        for way, fields in WAYS.items():
            recipe = change(RECIPES["fast"], {key: value for key, value in fields.items() if key != "layout"})
            layout = fields.get("layout", torch.channels_last)
            torch.manual_seed(0)
            network = WideResNetClassifier(10, depth, widen_factor).to(device)
            network.to(memory_format=layout)
            state = training.start(network, recipe)
            trained = training.compiled(network, recipe)
            images = torch.randn(batch_size, 3, size, size, device=device).contiguous(memory_format=layout)
            steps[way] = (state, trained, Batch(images, torch.arange(batch_size, device=device) % 10), recipe)
        best = dict.fromkeys(WAYS, float("inf"))
        for _ in range(rounds + 1):  # the first compiles, and is never the best
            for way, (state, trained, batch, recipe) in steps.items():
                started = time.perf_counter()
                training.update(state, trained, batch, loss, recipe, lr=1e-3, seed=0).mean.item()
                next(state.model.parameters()).sum().item()  # waits until the device has done it
                best[way] = min(best[way], time.perf_counter() - started)
        first = best["channels last"]
        rates = (f"{batch_size / took:,.0f} ({first / took:.2f})" for took in best.values())
        print(f"| {name} | {size} | {batch_size} | {' | '.join(rates)} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8, int(sys.argv[2]) if len(sys.argv) > 2 else 1 << 30)
