"""What tests/test_processes.py runs under torchrun and alone: `processes_probe.py FOLDER` writes FOLDER/RANK.json."""

import copy
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wideresnet import classification, training
from wideresnet.data import Pictures
from wideresnet.model import WideResNetClassifier
from wideresnet.preprocess import Preprocess
from wideresnet.processes import World, joined, synchronise_bn
from wideresnet.recipes import RECIPES, change


def gather(world: World) -> dict[str, Any]:
    part = world.share(torch.arange(7))
    return {
        "gathered": world.gather(torch.stack([part, -part], 1)).tolist(),
        "none": world.gather(torch.zeros(0)).tolist(),
        "main": world.from_main(f"rank {world.rank}"),
        "largest": world.largest(world.rank),
    }


def bn(world: World) -> dict[str, float]:
    """Largest relative difference of each tensor from plain BN over the whole batch."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 3, 4, 5, generator=generator, dtype=torch.float64) * 3 + 7
    upstream = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    differences = dict[str, float]()
    for momentum in (0.1, None):
        whole, shared = (nn.BatchNorm2d(3, momentum=momentum).double() for _ in range(2))
        for layer in (whole, shared):
            layer.weight.data = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64)
        synchronise_bn(shared)
        rows = world.share(torch.arange(9))
        mine = x[rows].requires_grad_()
        everything = x.clone().requires_grad_()
        for _ in range(2):
            expected = whole(everything)
            got = shared(mine)
        (expected * upstream).sum().backward()
        (got * upstream[rows]).sum().backward()
        world.add_gradients(shared.parameters())
        pairs: dict[str, tuple[Tensor | None, Tensor | None]] = {
            "y": (got, expected[rows]),
            "x.grad": (mine.grad, everything.grad[rows] if everything.grad is not None else None),
            "weight.grad": (shared.weight.grad, whole.weight.grad),
            "bias.grad": (shared.bias.grad, whole.bias.grad),
            "running_mean": (shared.running_mean, whole.running_mean),
            "running_var": (shared.running_var, whole.running_var),
            "count": (shared.num_batches_tracked, whole.num_batches_tracked),
        }
        for name, (a, b) in pairs.items():
            assert a is not None
            assert b is not None
            relative = float((a - b).abs().max() / b.abs().max())
            differences[name] = max(differences.get(name, 0.0), relative)
    return differences


def half(world: World) -> dict[str, float]:
    """Largest difference of outputs and statistics from torch's BN of the whole batch, under autocast's dtypes."""
    found = {}
    x = torch.randn(128, 2, 32, 32, generator=torch.Generator().manual_seed(0)) * 3 + 7
    for dtype in (torch.float16, torch.bfloat16):
        whole, shared = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        synchronise_bn(shared)
        rows = world.share(torch.arange(128))
        expected, got = whole(x.to(dtype)), shared(x[rows].to(dtype))
        assert got.dtype == expected.dtype == dtype
        assert shared.running_mean is not None
        assert whole.running_mean is not None
        found[f"{dtype} y"] = float((got - expected[rows]).abs().max())
        found[f"{dtype} mean"] = float((shared.running_mean - whole.running_mean).abs().max())
    return found


def steps(world: World, dtype: torch.dtype) -> dict[str, Any]:
    """Twenty updates of a WRN-10-1 on batches of 13 pictures; the loss of each, and what validation counts of 7."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=generator)
    names = tuple(map(str, range(20)))
    pictures = Pictures(images, torch.arange(20) % 3, names, tuple(name.encode() for name in names))
    train, val = pictures.take(torch.arange(13)), pictures.take(torch.arange(13, 20))
    preprocess = Preprocess(size=8, mean=(0.5,) * 3, std=(0.25,) * 3)
    options = {"epochs": 20, "batch_size": 13, "lr": 0.05, "flip": False, "crop_padding": 0, "sync_bn": True}
    recipe, cpu = change(RECIPES["fast"], options), torch.device("cpu")
    torch.manual_seed(0)
    model = WideResNetClassifier(3, 10, 1).to(dtype)
    if world.size > 1:
        synchronise_bn(model)
    in_float32 = classification.batches(train, preprocess, recipe, 0, cpu, world=world)

    def batches(epoch: int, first: int) -> Iterator[classification.Batch]:
        return (dataclasses.replace(batch, images=batch.images.to(dtype)) for batch in in_float32(epoch, first))

    def validate(model: nn.Module) -> dict[str, float]:
        judge = copy.deepcopy(model).float()
        return classification.validation(val, preprocess, cpu, world)(judge)

    state = training.start(model, recipe)
    loss = classification.loss(recipe)
    training.fit(
        state, batches, loss, validate, recipe=recipe, steps_per_epoch=1, seed=0, save=lambda *_: None, world=world
    )
    weights = torch.cat([value.double().flatten() for value in model.state_dict().values()])
    named = {name: [row[name] for row in state.rows] for name in ("train_loss", "train_accuracy", "val_accuracy")}
    return {**named, "weights": weights.tolist()}


if __name__ == "__main__":
    with joined() as world:
        found: dict[str, Any] = {"float64": steps(world, torch.float64), "float32": steps(world, torch.float32)}
        if world.size > 1:
            found |= {"gather": gather(world), "bn": bn(world), "half": half(world)}
        (Path(sys.argv[1]) / f"{world.rank}.json").write_text(json.dumps(found))
