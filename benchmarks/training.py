"""Images/s of one training step of ours, channels last against torch's default layout, alternating in one process.

Prints the Markdown rows of docs/numbers.md, "Training step". Usage: python benchmarks/training.py [ROUNDS]
"""

import sys
import time

import torch
import torch.nn.functional as F

from wideresnet.model import WideResNetClassifier
from wideresnet.recipes import RECIPES
from wideresnet.training import make_optimizer

CASES = (("wrn_16_2", 16, 2, 32, 128), ("wrn_16_1", 16, 1, 64, 64), ("wrn_16_2", 16, 2, 64, 64))
LAYOUTS = {"channels last": torch.channels_last, "NCHW": torch.contiguous_format}


def seconds(model: WideResNetClassifier, layout: torch.memory_format, size: int, batch_size: int) -> float:
    """One forward, backward and update."""
    optimizer = make_optimizer(model, RECIPES["fast"])
    images = torch.randn(batch_size, 3, size, size).contiguous(memory_format=layout)
    labels = torch.arange(batch_size) % 10
    started = time.perf_counter()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
    return time.perf_counter() - started


def main(rounds: int) -> None:
    print("| network | size | batch | channels last | NCHW | ratio |\n| --- | --- | --- | --- | --- | --- |")
    for name, depth, widen_factor, size, batch_size in CASES:
        models = {}
        for layout_name, layout in LAYOUTS.items():
            torch.manual_seed(0)
            models[layout_name] = WideResNetClassifier(10, depth, widen_factor)
            models[layout_name].to(memory_format=layout)
        best = dict.fromkeys(LAYOUTS, float("inf"))
        for _ in range(rounds):
            for layout_name, layout in LAYOUTS.items():
                took = seconds(models[layout_name], layout, size, batch_size)
                best[layout_name] = min(best[layout_name], took)
        fast, plain = (batch_size / best[layout_name] for layout_name in LAYOUTS)
        print(f"| {name} | {size} | {batch_size} | {fast:.0f} | {plain:.0f} | {fast / plain:.2f} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
