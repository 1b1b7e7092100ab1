"""Layers of Wide ResNets through our kernels, each alone: how fast, and how far from float64 (docs/kernels.md).

Usage: python benchmarks/kernel_layers.py speed
    Each layer of LAYERS, two threads, the fastest of many calls in a row, with BN and ReLU on load: GFLOP/s counted as
    direct convolution does. On an idle machine its figures belong into LAYERS. Half a minute.
Usage: python benchmarks/kernel_layers.py errors
    How far each way of computing a layer is from float64, beside torch's float32; random maps and filters.
Usage: python benchmarks/kernel_layers.py profile NETWORK:BATCH...
    Where a network's time goes, two threads, each operation alone in the network's order, the fastest of many passes:
    its share, and multiplications and additions that are really done, per second.
"""

import sys
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from inference import multiplications
from inference_engines import network
from torch import Tensor

from wideresnet.kernels import library, plan
from wideresnet.kernels.network import Network

SECONDS = 3.0  # of a measurement


@dataclass(frozen=True, slots=True)
class Layer:
    """A 3×3 convolution, two threads; gflops as a direct convolution counts."""

    net: str
    in_ch: int
    out_ch: int
    side: int  # of the output
    gflops: float
    stride: int = 1
    images: int = 16
    filter_floats: int = 36  # of each pair of channels, as they are read
    at: tuple[float, float] = (7, -4)  # of the label, in points

    @property
    def flops(self) -> float:
        return 2 * 9 * self.in_ch * self.out_ch * self.images * self.side**2

    @property
    def bytes_moved(self) -> float:
        """Each map and each filter once."""
        maps = (self.in_ch * self.stride**2 + self.out_ch) * self.images * self.side**2
        return 4 * (maps + self.filter_floats * self.in_ch * self.out_ch)

    @property
    def intensity(self) -> float:
        return self.flops / self.bytes_moved


# 2026-11-27, the machine of docs/kernels.md; those of WRN-16-4 the best of many moments beside other work
LAYERS = (
    Layer("WRN-16-2", 32, 32, 32, 1360),
    Layer("WRN-16-2", 64, 64, 16, 1600, at=(-42, -4)),
    Layer("WRN-16-2", 128, 128, 8, 1775, at=(-48, -4)),
    Layer("WRN-16-4", 64, 64, 32, 1590),
    Layer("WRN-16-4", 128, 128, 16, 1785),
    Layer("WRN-16-4", 256, 256, 8, 1860),
    Layer("WRN-28-10", 160, 160, 32, 1810, at=(-6, -15)),
    Layer("WRN-28-10", 320, 320, 16, 1850, at=(-6, 8)),
    Layer("WRN-28-10", 640, 640, 8, 1980),
    Layer("WRN-16-2", 32, 64, 16, 670, stride=2, filter_floats=81),
    Layer("WRN-28-10", 160, 320, 16, 760, stride=2, filter_floats=81),
    Layer("WRN-28-10", 320, 640, 8, 830, stride=2, filter_floats=81, at=(-18, 8)),
)
# 640 → 640 channels at 8×8, of one image: how it is computed
ONE_IMAGE = (
    ("F(4×4), packed", Layer("", 640, 640, 8, 550, images=1, filter_floats=36, at=(9, 5))),
    ("F(2×2), packed", Layer("", 640, 640, 8, 785, images=1, filter_floats=16)),
    ("direct", Layer("", 640, 640, 8, 450, images=1, filter_floats=9)),
    ("F(4×4), filters transformed in registers", Layer("", 640, 640, 8, 960, images=1, filter_floats=9, at=(2, 9))),
)


@dataclass(frozen=True, slots=True)
class Made:
    """A layer ready to run alone: y = conv(ReLU(x · scale + shift)), maps NHWC."""

    network: Network  # owns the packed filters
    ops: library.Ops
    work: Tensor
    x: Tensor
    y: Tensor
    affine: tuple[Tensor, Tensor]
    weight: Tensor


def make(layer: Layer, loaded: library.Library, isa: str, algorithm: plan.Algorithm, threads: int) -> Made:
    random = torch.Generator().manual_seed(0)
    side = layer.side * layer.stride
    affine = torch.rand(layer.in_ch, generator=random) + 0.5, 0.3 * torch.randn(layer.in_ch, generator=random)
    weight = torch.randn(layer.out_ch, layer.in_ch, 3, 3, generator=random) / (9 * layer.in_ch) ** 0.5
    step = plan.Step(
        kind=library.WINOGRAD,
        x="input",
        y="logits",
        in_ch=layer.in_ch,
        out_ch=layer.out_ch,
        size=3,
        stride=layer.stride,
        act_in=plan.Activation("relu"),
        affine=(affine[0].double(), affine[1].double()),
        weight=weight,
    )
    network = Network((step,), loaded, isa, algorithm)
    planned = network._plan(layer.images, side, side, threads)
    x = torch.randn(layer.images, side, side, layer.in_ch, generator=random)
    planned.ops[0].x = x.data_ptr()
    y = planned.logits.view(layer.images, layer.side, layer.side, layer.out_ch)
    return Made(network, planned.ops, planned.memory[0], x, y, affine, weight)


def kernels() -> library.Library:
    loaded = library.load()
    if isinstance(loaded, str):
        raise SystemExit(f"kernels: {loaded}")
    return loaded


def measure(layer: Layer, threads: int = 2) -> float:
    """GFLOP/s."""
    loaded, isa = kernels(), library.isa()
    made = make(layer, loaded, isa, "fast", threads)
    seconds = []
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        start = time.perf_counter()
        loaded.run(isa, made.ops, threads, made.work)
        seconds.append(time.perf_counter() - start)
    return layer.flops / min(seconds) / 1e9


def errors(layer: Layer, isa: str, algorithm: plan.Algorithm) -> dict[str, tuple[float, float]]:
    """Of us and of torch in float32: max|a−b| / max|b| and the same of root mean squares, b from float64."""
    loaded = kernels()
    made = make(layer, loaded, isa, algorithm, 1)
    loaded.run(isa, made.ops, 1, made.work)

    def convolved(dtype: torch.dtype) -> Tensor:
        scale, shift = (each.to(dtype) for each in made.affine)
        x = (made.x.to(dtype) * scale + shift).relu().permute(0, 3, 1, 2)
        return F.conv2d(x, made.weight.to(dtype), stride=layer.stride, padding=1)

    exact = convolved(torch.float64)
    found = {}
    for name, y in (("ours", made.y.permute(0, 3, 1, 2)), ("torch", convolved(torch.float32))):
        off = y.double() - exact
        found[name] = float(off.abs().max() / exact.abs().max()), float(off.norm() / exact.norm())
    return found


def print_errors() -> None:
    ways: tuple[tuple[str, plan.Algorithm, int], ...] = (
        ("F(4×4)", "fast", 1),
        ("F(2×2)", "exact", 1),
        ("direct", "direct", 1),
        ("stride 2", "fast", 2),
        ("direct, stride 2", "direct", 2),
    )
    for isa in kernels().isas:
        for way, algorithm, stride in ways:
            for channels, side in ((32, 32), (64, 16), (160, 32), (320, 16), (640, 8)):
                out_ch = channels * stride
                # Images enough for stride 2 to be computed as with large batches; fewer for others, which do not mind.
                layer = Layer("", channels, out_ch, side // stride, 0, stride=stride, images=8 if stride == 2 else 2)
                for name, (largest, rms) in errors(layer, isa, algorithm).items():
                    print(f"{isa}, {way}, {channels}→{out_ch}@{side}, {name}: {largest:.1e}, rms {rms:.1e}")


def profile(name: str, batch: int, threads: int = 2) -> str:
    """A Markdown row: milliseconds in all, then of each part its share and its GFLOP/s."""
    loaded = kernels()
    isa = library.isa()
    steps = plan.lower(network(name))
    computes = Network(steps, loaded, isa, "fast")
    x = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    made = computes._plan(batch, 32, 32, threads)
    made.ops[0].x = x.data_ptr()
    alone = [(library.Op * 1)(op) for op in made.ops]
    best, began = [1e9] * len(alone), time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        for i, op in enumerate(alone):
            started = time.perf_counter()
            loaded.run(isa, op, threads, made.memory[0])
            best[i] = min(best[i], time.perf_counter() - started)
    parts = {part: [0.0, 0.0] for part in PARTS}
    for step, op, seconds in zip(steps, made.ops, best, strict=True):
        stage = f"stage {1 + step.segment}" if step.stride == 1 else "stride 2"
        part = parts[stage if step.size == 3 and step.kind != library.STEM else "stem, 1×1, head"]
        part[0] += seconds
        part[1] += 2 * batch * multiplications(op) / 1e9
    total = sum(seconds for seconds, _ in parts.values())
    cells = [f"{seconds / total:.0%}, {gflop / seconds:,.0f}" for seconds, gflop in parts.values()]
    return f"| {name} | {batch} | {1e3 * total:.3g} | {' | '.join(cells)} |"


PARTS = ("stem, 1×1, head", "stage 1", "stage 2", "stage 3", "stride 2")


def main(words: list[str]) -> int:
    match words:
        case ["speed"]:
            for layer in LAYERS:
                name = f"{layer.net} {layer.in_ch}→{layer.out_ch}@{layer.side}"
                print(f"{name}: {measure(layer):,.0f} GFLOP/s")
        case ["errors"]:
            print_errors()
        case ["profile", *rows]:
            print(f"| network | batch | ms | {' | '.join(PARTS)} |\n|{' --- |' * (3 + len(PARTS))}")
            for row in rows:
                name, _, batch = row.partition(":")
                print(profile(name, int(batch)), flush=True)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
