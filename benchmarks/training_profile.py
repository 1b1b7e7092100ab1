"""Where the time of a training step goes, in our kernels: each operation of both passes, in the network's order.

Usage: python benchmarks/training_profile.py NETWORK:BATCH...
    Two threads, the fastest of many passes, each operation a call of its own: a Markdown row of each kind's share, and,
    of those that multiply, the multiplications and additions that are really done, per second. On an idle machine.
"""

import sys
import time

import torch
from inference import multiplications
from inference_engines import network

from wideresnet.kernels import gradients, library, passes, program

SECONDS = 4.0  # of a network
# Kinds of operations, and what they are called in the table.
PARTS = {
    "3×3 forward": ("forward", library.WINOGRAD),
    "3×3, input's gradient": ("backward", library.WINOGRAD),
    "weight's gradient": ("backward", library.WEIGHT_GRAD),
    "its sums": ("backward", library.WEIGHT_SUM),
    "packing": ("both", library.PACK),
    "BN's gradient": ("backward", library.UNNORM),
    "the rest": ("", -1),
}


def products(op: library.Op) -> int:
    """Multiplications of an operation; those of a weight's gradient are its convolution's."""
    if op.kind == library.WEIGHT_GRAD:
        forward = library.Op.from_buffer_copy(op)
        forward.kind, forward.tile = library.WINOGRAD, 4
        each = multiplications(forward) if op.size == 3 else op.c * op.k * op.ho * op.wo
        return int(op.n * each)
    if op.kind != library.WINOGRAD:
        return 0
    if op.size == 1:
        small = min(op.h * op.w, op.ho * op.wo)
        return int(op.n * op.c * op.k * small)
    if op.transposed and op.stride == 2:
        tiles = -(-(op.ho + op.out_top) // 8) * -(-(op.wo + op.out_left) // 8)
        return int(op.n * 81 * tiles * op.c * op.k)
    return int(op.n * multiplications(op))


def part_of(which: str, op: library.Op) -> str:
    return next((part for part, (one, kind) in PARTS.items() if kind == op.kind and one in (which, "both")), "the rest")


def profile(name: str, batch: int, threads: int = 2) -> str:
    loaded, isa = library.load(), library.isa()
    if isinstance(loaded, str):
        raise SystemExit(f"the kernels are {loaded}")
    model = network(name).train()
    wanted = frozenset(each for each, _ in model.named_parameters())
    written = program.Program(model, batch, loaded, isa, threads=threads, wanted=wanted)
    passes.write(written, model, 32, 32)
    written.finish()
    bound = gradients._Bound(written, loaded.alloc(written.floats))
    x = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    pooled = torch.zeros(batch, model.backbone.out_channels)
    found = {each: torch.zeros(shape) for each, shape in written.gradients.items()}
    bound.run_forward(loaded, isa, x, pooled)
    bound.run_backward(loaded, isa, x, torch.randn_like(pooled), found)
    alone = [("forward", (library.Op * 1)(op)) for op in bound.forward]
    alone += [("backward", (library.Op * 1)(op)) for op in bound.backward]
    best, began = [1e9] * len(alone), time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        for i, (_, op) in enumerate(alone):
            started = time.perf_counter()
            loaded.run(isa, op, threads, bound.work)
            best[i] = min(best[i], time.perf_counter() - started)
    sums = {part: [0.0, 0.0] for part in PARTS}
    for (which, ops), seconds in zip(alone, best, strict=True):
        part = sums[part_of(which, ops[0])]
        part[0] += seconds
        part[1] += 2 * products(ops[0]) / 1e9
    total = sum(seconds for seconds, _ in sums.values())
    cells = [f"{seconds / total:.0%}{f', {g / seconds:,.0f}' if g else ''}" for seconds, g in sums.values()]
    return f"| {name} | {batch} | {1e3 * total:.3g} | {' | '.join(cells)} |"


def main(rows: list[str]) -> int:
    if not rows:
        print(__doc__, file=sys.stderr)
        return 2
    print(f"| network | batch | ms | {' | '.join(PARTS)} |\n|{' --- |' * (3 + len(PARTS))}")
    for row in rows:
        name, _, batch = row.partition(":")
        print(profile(name, int(batch)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
