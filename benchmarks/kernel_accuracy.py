"""How exact the kernels are on trained networks and real pictures, beside torch's own float32.

    python benchmarks/kernel_accuracy.py DATA MODEL... [--images 10000]

DATA as in `wrn evaluate` (its test part is taken), MODEL run folders or model files. For each: the largest difference
of a logit from float64's over the range of float64's logits, of our kernels and of torch; on how many pictures the
answer is another than float64's, where torch's float32 gives float64's. Then each picture alone against its batch.
"""

import argparse
import copy
from pathlib import Path

import torch
from torch import Tensor, nn

import wideresnet as wrn
from wideresnet import data as data_room
from wideresnet import networks
from wideresnet.checkpoint import load_model
from wideresnet.reading import Reading


def answers(model: nn.Module, x: Tensor, at_once: int = 64) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(part) for part in x.split(at_once)]).double()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    options = parser.parse_args()
    print("| network | pictures | ours / range | torch / range | answers that differ | one alone / range |")
    print("| --- | --- | --- | --- | --- | --- |")
    for path in options.models:
        file = load_model(path)
        listing = data_room.read(options.data, Reading())
        loaded = data_room.load(listing, file.card.preprocess, cache="memory", max_bad=0)
        pictures = loaded.parts["test"].images
        assert isinstance(pictures, Tensor)
        x = file.card.preprocess.normalise(pictures[: options.images])
        model = file.model.eval()
        ours, torchs = answers(wrn.accelerate(model), x), answers(model.to(memory_format=torch.channels_last), x)
        exact = answers(copy.deepcopy(model).double(), x.double())
        size = float(exact.max() - exact.min())
        theirs = torchs.argmax(1) == exact.argmax(1)
        differing = int((theirs & (ours.argmax(1) != exact.argmax(1))).sum())
        alone = answers(wrn.accelerate(model), x[:200], at_once=1)
        errors = [float((each - exact).abs().max()) / size for each in (ours, torchs)]
        by_batch = float((alone - ours[:200]).abs().max()) / size
        name = networks.arch_name(file.card.architecture)
        print(f"| {name} | {len(x):,} | {errors[0]:.1e} | {errors[1]:.1e} | {differing} | {by_batch:.1e} |", flush=True)


if __name__ == "__main__":
    main()
