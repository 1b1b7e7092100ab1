"""A lowered network and its packed weights → logits, for any input shape; work memory and plans are kept for the next
call of the same shape."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from wideresnet.kernels import plan
from wideresnet.kernels.library import ACTIVATIONS, HEAD, POOL, STEM, Library, Op, Ops
from wideresnet.kernels.plan import Algorithm, Step

_ENDS = (HEAD, POOL)  # what they write is dense, and no map
_KEPT_SHAPES = 4  # input shapes whose plans and buffers are kept, the last used the longest
_KEPT_FLOATS = 1 << 27  # of buffers, 512 MB: what is larger is made for one call, as torch makes it


@dataclass(frozen=True, slots=True)
class _Plan:
    """The operations of one input shape and number of threads, and the memory that they point into."""

    ops: Ops
    logits: Tensor
    pooled: Tensor | None
    memory: tuple[Tensor, ...]

    @property
    def floats(self) -> int:
        return sum(map(torch.numel, self.memory))


class Network:
    """Not for several threads at once: its buffers are its own."""

    def __init__(self, steps: tuple[Step, ...], library: Library, isa: str, algorithm: Algorithm) -> None:
        self.algorithm: Algorithm = algorithm
        # The last is run for who asks for it: the packed weights of all before it serve both.
        self._steps = (*steps, plan.pooling(steps[-1]))
        self._library, self._isa = library, isa
        self._lanes = library.lanes(isa)
        self._vectors = [self._packed_vectors(step) for step in self._steps]
        self._weights: dict[tuple[int, ...], Tensor] = {}
        self._plans: OrderedDict[tuple[int, ...], _Plan] = OrderedDict()

    def __call__(self, x: Tensor, threads: int) -> Tensor:
        """x float32 [N, C, H, W], N ≥ 1 → logits [N, num_classes], a tensor of its own."""
        return self._run(x, threads, pooled=False).logits.clone()

    def embed(self, x: Tensor, threads: int) -> tuple[Tensor, Tensor]:
        """As a call, and the means over the last map that the logits are computed from, [N, 64k]."""
        ran = self._run(x, threads, pooled=True)
        assert ran.pooled is not None
        return ran.logits.clone(), ran.pooled.clone()

    def _run(self, x: Tensor, threads: int, *, pooled: bool) -> _Plan:
        x = x.resolve_neg().contiguous()
        n, _, height, width = x.shape
        key = (n, height, width, threads, int(pooled))
        found = self._plans.pop(key, None)
        if found is None:
            while len(self._plans) >= _KEPT_SHAPES or sum(each.floats for each in self._plans.values()) > _KEPT_FLOATS:
                self._plans.popitem(last=False)
            found = self._plan(n, height, width, threads, pooled=pooled)
        found.ops[0].x = x.data_ptr()
        self._library.run(self._isa, found.ops, threads, found.memory[0])
        if found.floats <= _KEPT_FLOATS:
            self._plans[key] = found
        return found

    def _padded(self, channels: int) -> int:
        return -(-channels // self._lanes) * self._lanes

    def _vector(self, values: Tensor, channels: int) -> Tensor:
        padded = self._library.alloc(self._padded(channels))
        padded[:channels] = values
        return padded

    def _packed_vectors(self, step: Step) -> dict[str, Tensor]:
        vectors = {}
        if step.bias is not None:
            vectors["bias"] = self._vector(step.bias, step.out_ch)
        if step.affine is not None:
            vectors["scale"], vectors["shift"] = (self._vector(each, step.in_ch) for each in step.affine)
        return vectors

    def _weight(self, index: int, op: Op, threads: int) -> Tensor:
        """Packed once for each algorithm that some shape asks for."""
        step = self._steps[index]
        assert step.weight is not None
        key = (index, op.kind, op.tile, op.raw_filters)
        if key not in self._weights:
            scale = None if step.out_scale is None else step.out_scale.float().contiguous()
            self._weights[key] = self._library.pack(
                self._isa, op, step.weight.detach().float().contiguous(), scale, threads
            )
        return self._weights[key]

    def _plan(self, n: int, height: int, width: int, threads: int, *, pooled: bool = False) -> _Plan:
        steps = self._steps if pooled else self._steps[:-1]
        ops = (Op * len(steps))()
        sides = {"input": (height, width)}  # of the map in each slot, as the steps go on
        floats: dict[str, int] = {}  # of each slot's buffer
        groups = self._groups(n, height, width, threads)
        for op, step in zip(ops, steps, strict=True):
            high, wide = sides[step.x]
            out_high, out_wide = (1, 1) if step.kind in _ENDS else (-(-side // step.stride) for side in (high, wide))
            sides[step.y] = out_high, out_wide
            op.segment, op.group = step.segment, groups[step.segment]
            op.n, op.h, op.w, op.c = n, high, wide, step.in_ch
            op.ho, op.wo, op.k = out_high, out_wide, step.out_ch
            op.size, op.stride, (op.pad_top, op.pad_left) = step.size, step.stride, step.padding(high, wide)
            activation = step.act_out if step.act_in == plan.NOTHING else step.act_in  # a network has one
            op.act_in, op.act_out = ACTIVATIONS.index(step.act_in.name), ACTIVATIONS.index(step.act_out.name)
            op.alpha, op.beta, op.cosine = activation.alpha, activation.beta, step.cosine
            chosen = plan.choose(step, op.group, out_high, out_wide, threads=threads, algorithm=self.algorithm)
            op.kind, op.tile, op.share, op.raw_filters = chosen.kind, chosen.tile, chosen.share, chosen.raw_filters
            op.block_tiles, op.block_panels, op.split = chosen.block_tiles, chosen.block_panels, chosen.split
            size = out_high * out_wide * (step.out_ch if step.kind in _ENDS else self._padded(step.out_ch))
            op.x_step = high * wide * (step.in_ch if step.kind == STEM else self._padded(step.in_ch))
            op.x_step *= step.x in plan.WHOLE
            op.y_step, op.res_step = size * (step.y in plan.WHOLE), size * (step.res in plan.WHOLE)
            floats[step.y] = max(floats.get(step.y, 0), size * (n if step.y in plan.WHOLE else op.group))
        buffers = {slot: self._library.alloc(count) for slot, count in floats.items()}
        for i, (op, step) in enumerate(zip(ops, steps, strict=True)):
            op.x = buffers[step.x].data_ptr() if step.x in buffers else None
            op.y = buffers[step.y].data_ptr()
            op.res = buffers[step.res].data_ptr() if step.res else None
            op.weight = None if step.weight is None else self._weight(i, op, threads).data_ptr()
            for name, vector in self._vectors[i].items():
                setattr(op, name, vector.data_ptr())
        work = self._library.alloc(self._library.work_floats(self._isa, ops, threads))
        logits, means = (buffers[name].view(n, -1) if name in buffers else None for name in ("logits", "pooled"))
        assert logits is not None
        return _Plan(ops, logits, means, (work, *buffers.values()))

    def _groups(self, n: int, height: int, width: int, threads: int) -> list[int]:
        """Images at a time in each segment."""
        groups = []
        for segment in range(1 + self._steps[-1].segment):
            if segment > 0:
                height, width = -(-height // 2), -(-width // 2)
            channels = max(step.out_ch for step in self._steps if step.segment == segment and step.kind not in _ENDS)
            groups.append(plan.group(n, height * width, channels, threads=threads))
        return groups
