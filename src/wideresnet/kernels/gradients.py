"""A forward pass in training, or one that needs gradients, by the kernels: one autograd function.

The memory of a pass, its arena, goes back to be used again when its backward pass is done or its graph is dropped.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from wideresnet.kernels import library, passes
from wideresnet.kernels.library import Library, Ops
from wideresnet.kernels.program import Open, Program
from wideresnet.model import PSSiLU, WideResNetClassifier

_KEPT_ARENAS = 2  # that no graph needs
_KEPT_PROGRAMS = 6  # of shapes and what is trained: whole batches, the last one, and the parts of accumulated ones

_APART = 0x9E3779B97F4A7C15  # 2⁶⁴ / golden ratio, odd: seeds of dropouts far from each other (Steele, Lea & Flood 2014)


class _Bound:
    """A program in an arena: its operations with all addresses but those that a call brings."""

    def __init__(self, program: Program, memory: Tensor) -> None:
        self.program, self._memory = program, memory
        base = memory.data_ptr()
        self.forward, self._forward_open = program.forward.bound(base)
        self.backward, self._backward_open = program.backward.bound(base)
        arrays = {id(program.forward): self.forward, id(program.backward): self.backward}
        self.dropouts = [(arrays[id(to)][index], number) for to, index, number in program.dropouts]
        self.work = memory[program.work :]
        self.state = memory[: program.state]
        ones = (library.SCALE, library.RSTD, library.P)
        identities = [norm for norm in program.norms if norm.module is None]
        self.ones = [memory[norm.at(row) :][: norm.channels] for norm in identities for row in ones]
        self.biases = [(conv.bias, memory[at:][: conv.out_channels]) for conv, (at, _) in program.biases.items()]
        self.statistics = [
            (norm.module, memory[norm.statistics :][: 2 * norm.channels].view(2, -1))
            for norm in program.norms
            if norm.module is not None and norm.module.training
        ]
        d = program.stem_gradient
        of_stem = memory[d.offset :][: program.n * d.step].view(program.n, d.h, d.w, -1)
        self.stem_gradient = of_stem[..., : d.c].permute(0, 3, 1, 2)

    def sums(self, offset: int, channels: int) -> Tensor:
        """float64 [threads, rows, channels] that operations summed."""
        padded = self.program.padded(channels)
        count = 2 * self.program.threads * library.SUM_ROWS * padded
        sums = self._memory[offset : offset + count].view(torch.float64).view(-1, library.SUM_ROWS, padded)
        return sums[..., :channels]

    def run_forward(self, loaded: Library, isa: str, x: Tensor, pooled: Tensor) -> None:
        _open(self._forward_open, input=x, pooled=pooled)
        self._run(loaded, isa, self.forward)

    def run_backward(
        self, loaded: Library, isa: str, x: Tensor, gradient: Tensor, parameters: dict[str, Tensor]
    ) -> None:
        _open(self._backward_open, input=x, gradient=gradient, **parameters)
        self._run(loaded, isa, self.backward)

    def _run(self, loaded: Library, isa: str, ops: Ops) -> None:
        if (found := loaded.run(isa, ops, self.program.threads, self.work)) != self.program.threads:
            raise RuntimeError(
                f"the system started {found} of {self.program.threads} threads, and sums would be of other bits; "
                "end other programs, or ask for fewer (torch.set_num_threads)"
            )


def _open(still_open: list[Open], **places: Tensor) -> None:
    addresses = {name: place.data_ptr() for name, place in places.items()}
    for op, name, given in still_open:
        setattr(op, name, addresses[given.name])


class _Arena:
    def __init__(self, memory: Tensor) -> None:
        self.memory = memory
        self._bound: dict[tuple[Any, ...], _Bound] = {}

    def bound(self, key: tuple[Any, ...], program: Program) -> _Bound:
        found = self._bound.get(key)
        if found is None or found.program is not program:
            _leave_room(self._bound)
            found = self._bound[key] = _Bound(program, self.memory)
        return found


def _leave_room(kept: dict[tuple[Any, ...], Any]) -> None:
    while len(kept) >= _KEPT_PROGRAMS:
        del kept[next(iter(kept))]


class _Lease:
    """An arena while a graph needs it, and what went through it."""

    def __init__(self, trainer: "Trainer", arena: _Arena, bound: _Bound, x: Tensor) -> None:
        self.bound, self.x = bound, x
        self.pooled = x.new_empty(x.shape[0], trainer.model.backbone.out_channels)
        self._trainer: Trainer | None = trainer
        self._arena = arena

    def give_back(self) -> None:
        """Also where a graph is collected, in any thread and in the middle of anything: `append` alone is undivided."""
        trainer, self._trainer = self._trainer, None
        if trainer is not None and len(trainer.free) < _KEPT_ARENAS:
            trainer.free.append(self._arena)

    def __del__(self) -> None:
        self.give_back()


def modal(model: nn.Module) -> list[nn.Module]:
    """The parts that compute otherwise in training mode."""
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.Dropout)]


def _size(arena: _Arena) -> int:
    return arena.memory.numel()


class Trainer:
    """`model`, in whatever modes its parts are: x → features, pooled; with a gradient for all that asks for one."""

    def __init__(self, model: WideResNetClassifier, loaded: Library, isa: str) -> None:
        self.model = model
        self.free: list[_Arena] = []  # that no graph needs
        self._loaded, self._isa = loaded, isa
        self._programs: dict[tuple[Any, ...], Program] = {}
        self._modal = modal(model)

    def __call__(self, x: Tensor) -> Tensor | None:
        """x float32 [N, C, H, W] → features' mean [N, channels]. Updates BN's buffers as torch does.

        None where that is not finite: Winograd's transforms overflow some 100 times before the network does. BN's
        buffers are then as they were.
        """
        named = dict(self.model.backbone.named_parameters(prefix="backbone"))
        inputs, grads = {"input": x, **named}, torch.is_grad_enabled()
        wanted = frozenset(name for name, each in inputs.items() if grads and each.requires_grad)
        lease = self._begin(x.detach().contiguous(), wanted)
        if lease is None or not wanted:
            return None if lease is None else lease.pooled
        pooled: Tensor = _Backbone.apply(self, lease, tuple(inputs), *inputs.values())
        return pooled

    @torch.no_grad()
    def _begin(self, x: Tensor, wanted: frozenset[str]) -> _Lease | None:
        """The forward pass: its result, and what the backward pass needs."""
        lease = self._lease(x, wanted)
        bound = lease.bound
        bound.state.zero_()
        for row in bound.ones:
            row.fill_(1)
        for bias, copy in bound.biases:
            assert bias is not None
            copy.copy_(bias)
        if bound.dropouts:
            seed = int(torch.randint(2**62, ()))  # torch's own generator, so that its seed is what decides
            for op, number in bound.dropouts:
                op.seed = (seed + number * _APART) % 2**63
        self._set_learnt(bound)
        bound.run_forward(self._loaded, self._isa, x, lease.pooled)
        if not math.isfinite(lease.pooled.sum()):
            return None
        self._update_buffers(bound)
        return lease

    @torch.no_grad()
    def end(self, lease: "_Lease", gradient: Tensor) -> dict[str, Tensor]:
        """The backward pass: the gradients of what is wanted."""
        bound, program = lease.bound, lease.bound.program
        found = {name: gradient.new_empty(shape) for name, shape in program.gradients.items()}
        bound.run_backward(self._loaded, self._isa, lease.x, gradient, found)
        for conv, (_, at) in program.biases.items():
            sums = bound.sums(at, conv.out_channels)
            if (name := f"{program.names[conv]}.bias") in found:
                found[name].copy_(sums[:, 0].sum(0))
            sums.zero_()
        self._of_learnt(bound, found)
        if "input" in program.wanted:
            stem = self.model.backbone.stem[0]
            assert isinstance(stem, nn.Conv2d)
            of_stem = bound.stem_gradient.contiguous()
            found["input"] = nn.functional.conv_transpose2d(of_stem, stem.weight, padding=1)
        return found

    def _lease(self, x: Tensor, wanted: frozenset[str]) -> _Lease:
        n, _, height, width = x.shape
        threads = library.num_threads()
        key = (n, height, width, threads, wanted, *(module.training for module in self._modal))
        program = self._programs.get(key)
        if program is None:
            _leave_room(self._programs)
            program = Program(self.model, n, self._loaded, self._isa, threads=threads, wanted=wanted)
            passes.write(program, self.model, height, width)
            program.finish()
            self._programs[key] = program
        # Arenas come back in other threads meanwhile, but one forward pass at a time takes them.
        there = sorted((self.free.pop() for _ in range(len(self.free))), key=_size)
        arena = there.pop() if there and _size(there[-1]) >= program.floats else None
        if arena is None:
            there.clear()  # what is too small now would lie beside what is large enough
            with torch.inference_mode(False):  # what is made there could be written there alone
                arena = _Arena(self._loaded.alloc(program.floats))
        self.free.extend(there)
        with torch.inference_mode(False):
            return _Lease(self, arena, arena.bound(key, program), x)

    def _learnt(self) -> PSSiLU | None:
        activation = self.model.backbone.activation
        return activation if isinstance(activation, PSSiLU) else None

    def _set_learnt(self, bound: _Bound) -> None:
        if (learnt := self._learnt()) is not None:
            alpha, beta = float(learnt.alpha.abs()), float(learnt.beta.abs())
            for op in (*bound.forward, *bound.backward):
                op.alpha, op.beta = alpha, beta

    def _of_learnt(self, bound: _Bound, found: dict[str, Tensor]) -> None:
        if (learnt := self._learnt()) is None:
            return
        total = torch.zeros(2, dtype=torch.float64)
        for norm in bound.program.norms:
            sums = bound.sums(norm.backward_sums, norm.channels)
            total += sums[:, 2:].sum((0, 2))
            sums.zero_()
        for i, (name, parameter) in enumerate(learnt.named_parameters()):
            if (name := f"{bound.program.names[learnt]}.{name}") in bound.program.wanted:
                found[name] = (total[i] * parameter.sign()).to(parameter.dtype)

    def _update_buffers(self, bound: _Bound) -> None:
        """Running mean and variance, and the number of batches, as torch's BN has them."""
        momenta: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
        counts = [bn.num_batches_tracked for bn, _ in bound.statistics if bn.num_batches_tracked is not None]
        if counts:
            torch._foreach_add_(counts, 1)
        for bn, statistics in bound.statistics:
            mean, var, count = bn.running_mean, bn.running_var, bn.num_batches_tracked
            assert mean is not None
            assert var is not None
            every = 0.0 if count is None else 1 / int(count)  # the mean of all batches; torch's 0 without their number
            momentum = every if bn.momentum is None else bn.momentum
            running, batch = momenta.setdefault(momentum, ([], []))
            running += (mean, var)
            batch += statistics.unbind()
        for momentum, (running, batch) in momenta.items():
            torch._foreach_lerp_(running, batch, momentum)


class _Backbone(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, trainer: Trainer, lease: _Lease, names: tuple[str, ...], *inputs: Tensor) -> Tensor:
        ctx.trainer, ctx.lease, ctx.names = trainer, lease, names
        # So that torch notices a change of theirs before the backward pass, which reads them where they are now.
        ctx.save_for_backward(*inputs)
        ctx.places = [each.detach() for each in inputs]
        return lease.pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the kernels have no second derivatives (create_graph=True); take them of the model itself, without "
                "wideresnet.accelerate, or train with --engine torch"
            )
        functorch = torch._C._functorch
        if functorch.is_functorch_wrapped_tensor(gradient) or functorch.is_legacy_batchedtensor(gradient):
            raise RuntimeError(
                "the kernels take one gradient at a time (is_grads_batched=False, vectorize=False); take many of the "
                "model itself, without wideresnet.accelerate"
            )
        for name, now, then in zip(ctx.names, inputs, ctx.places, strict=True):
            if now.data_ptr() != then.data_ptr():
                raise RuntimeError(f"{name}'s data was replaced between the forward and the backward pass")
        found = ctx.trainer.end(ctx.lease, gradient.contiguous())
        if not torch._C._autograd._get_current_graph_task_keep_graph():
            ctx.lease.give_back()
        return None, None, None, *(found.get(name) for name in ctx.names)
