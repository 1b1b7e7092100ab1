"""Several processes as one: which of them this is, sums over all, and BN over the batch that they share.

torchrun starts the processes and tells each its place; everything here is then exact: one process and many compute the
same, up to the order of additions. Alone, every sum is the value itself, and nothing is initialised. What happens when
one of them ends before the others: `lifeline`.
"""

import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from wideresnet import runtime
from wideresnet.errors import UsageError
from wideresnet.processes.lifeline import JOIN_S, Lifeline, Terminated, connections

T = TypeVar("T")

# A sum waits for the others as long as they live, whatever they are about: that one does not, the lifeline tells.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class World:
    """This process among all that train together. `rank` counts from 0; `local_rank` on this machine alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    machines: int = 1

    @property
    def is_main(self) -> bool:
        """True for the one process that speaks and writes files."""
        return self.rank == 0

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """On each machine one process does what is inside first, and the others find what it has fetched and cached;
        then all go on together, however long each has taken."""
        line = _ties.line
        if self.size == 1 or line is None:
            yield
            return
        where, num_first = line.meeting(), self.total(int(self.local_rank == 0))
        if self.local_rank:
            line.wait_for(num_first, f"{where}, first")
        yield
        if not self.local_rank:
            line.arrive(f"{where}, first")
        line.arrive(where)
        line.wait_for(self.size, where)

    def differing(self, facts: Mapping[str, object]) -> list[str]:
        """What has not the same text in all processes, in words, for each: "torch: 2.13 in process 1, 2.14 in 0"."""
        if self.size == 1:
            return []
        everyone: list[Any] = [None] * self.size
        dist.all_gather_object(everyone, {name: str(value) for name, value in facts.items()})
        names = dict.fromkeys(name for one in everyone for name in one)
        values = {name: [one.get(name, "none") for one in everyone] for name in names}
        return [f"{name}: {_who_has_what(texts)}" for name, texts in values.items() if len(set(texts)) > 1]

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of `rows`, cut into `size` runs whose lengths differ by at most one; together, all."""
        return rows.tensor_split(self.size)[self.rank]

    def add(self, values: Tensor) -> Tensor:
        """The sum over all processes, for each. `values` has the same shape in all; it is overwritten."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def total(self, number: int) -> int:
        """The sum over all processes, for each."""
        return int(self.add(torch.tensor(number)))

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers, for each."""
        if self.size == 1:  # asked at every step
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def gather(self, part: Tensor) -> Tensor:
        """The parts of all processes one after another, for each: [n, …] → [N, …], the inverse of `share`."""
        if self.size == 1:
            return part
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(part)
        longest = int(self.add(lengths).max())
        padded = part.new_zeros(longest, *part.shape[1:])
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.cat([gathered[:length] for gathered, length in zip(parts, lengths.tolist(), strict=True)])

    def from_main(self, value: T) -> T:
        """The value of the main process, for each; anything that pickles."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box)
        received: T = box[0]
        return received

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Each gradient becomes its sum over all processes. One message for each kind of number, not one a tensor."""
        if self.size == 1:
            return
        by_kind: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for parameter in parameters:
            if parameter.requires_grad:
                if parameter.grad is None:  # not every process need have used it
                    parameter.grad = torch.zeros_like(parameter)
                by_kind.setdefault((parameter.dtype, parameter.device), []).append(parameter.grad)
        for gradients in by_kind.values():
            flat = self.add(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def buffers_from_main(self, *models: nn.Module | None) -> None:
        """BN statistics of the main process, for each: without `synchronise_bn` every process has gathered its own."""
        for model in models if self.size > 1 else ():
            for buffer in () if model is None else model.buffers():
                dist.broadcast(buffer, 0)


ALONE = World()


@dataclass(slots=True)
class _Ties:
    """What ties this process to the others: as long as it lives the store of torchrun, and while it has `joined` them
    the lifeline."""

    store: Store | None = None
    num_joined: int = 0  # each time under keys of its own
    line: Lifeline | None = None


_ties = _Ties()


def _who_has_what(texts: list[str]) -> str:
    """`texts` by rank."""
    ranks = {text: [str(rank) for rank, other in enumerate(texts) if other == text] for text in texts}
    return "; ".join(
        f"{textwrap.shorten(text, 80)} in process {', '.join(who[:4])}{', …' if len(who) > 4 else ''}"
        for text, who in ranks.items()
    )


def current() -> World:
    """The world that `joined` has joined; `ALONE` outside of it."""
    if not dist.is_initialized():
        return ALONE
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")), _num_machines())


def check_alone(what: str) -> None:
    """Raises UsageError where torchrun has started several processes: `wrn {what}` is the work of one."""
    if (size := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise UsageError(f"wrn {what}: the work of one process, and these are {size}; start it without torchrun")


@contextmanager
def joined() -> Iterator[World]:
    """The world of the processes that torchrun has started, until the end; `ALONE` where it has not.

    A function so decorated finds it with `current`, and may be called again. If one process fails or dies, all do: the
    first says why (`errors.speaker`). Raises UsageError if the others cannot be reached or run other versions.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1" or _ties.line is not None:
        yield current()
        return
    world = _place()
    store, line = _connected(world)
    try:
        with Terminated(line), line.watched(), _group(world, store):
            _ties.line = line
            if found := world.differing(runtime.versions()):
                raise UsageError(f"the processes run different versions ({'; '.join(found)}); install the same")
            yield world
    except BaseException as error:
        raise line.end(error)  # noqa: B904 - mostly the same error
    else:
        line.close()
    finally:
        _ties.line = None


def others_watched() -> AbstractContextManager[None]:
    """While open, torch's errors about a process that has gone are a TrainingStopped that names it."""
    return nullcontext() if _ties.line is None else _ties.line.watched()


def restarted() -> bool:
    """Whether torchrun has started these processes anew, after one of them ended."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0")


def _place() -> World:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if unset := [name for name in names if not os.environ.get(name, "").isdecimal()]:
        raise UsageError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} says that there are several processes, but {' and '.join(unset)} "
            "is no number; start them with torchrun, or unset WORLD_SIZE"
        )
    rank, size, local_rank = (int(os.environ[name]) for name in names)
    return World(rank, size, local_rank, _num_machines())


def _num_machines() -> int:
    return int(os.environ.get("GROUP_WORLD_SIZE", "1"))


def _connected(world: World) -> tuple[Store, Lifeline]:
    """What all processes share, and the lifeline. Raises UsageError if they do not find each other."""
    address = os.environ.get("MASTER_ADDR", "")
    try:
        if _ties.store is None:
            _ties.store = next(rendezvous("env://", world.rank, world.size, timeout=timedelta(seconds=JOIN_S)))[0]
        _ties.num_joined += 1
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"wideresnet/{start}/{_ties.num_joined}", _ties.store)
        line = store.clone()  # a connection of its own: this one may be waiting when the other is needed
        return store, Lifeline(line, world.rank, world.size, connections(line, world.rank, world.size, address))
    except (OSError, RuntimeError, ValueError) as error:  # torch's own network errors are RuntimeErrors
        at = f"{address}:{os.environ.get('MASTER_PORT')}"
        raise UsageError(f"process {world.rank} of {world.size} cannot join the others at {at}: {error}") from error


@contextmanager
def _group(world: World, store: Store) -> Iterator[None]:
    """torch's group of all processes; one that a script has made itself stays."""
    if dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(world.local_rank % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    group = PrefixStore("group", store)
    dist.init_process_group(backend, store=group, rank=world.rank, world_size=world.size, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """Sum over all processes. The loss is the sum of all their losses, so gradients are summed on the way back too."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous().clone()
        dist.all_reduce(summed)
        return summed


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """BN whose statistics in training are those of the batch of all processes together, of unequal parts too.

    torch's own SyncBatchNorm computes on GPUs alone. The same parameters, buffers and keys as `nn.BatchNorm2d`; in eval
    mode it is that. Mean first, then the variance around it: as exact as BN of the whole batch. In float32 at least,
    whatever the input is.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        kind = torch.float64 if x.dtype == torch.float64 else torch.float32
        with torch.autocast(x.device.type, enabled=False):
            values = x.to(kind)
            count = torch.tensor([x.numel() // x.shape[1]], dtype=kind, device=x.device)
            dist.all_reduce(count)  # values of each channel, over all processes
            mean = _sum(values.sum((0, 2, 3))) / count  # [C]
            centred = values - mean[:, None, None]
            variance = _sum(centred.square().sum((0, 2, 3))) / count  # [C], of the population
            self._update_statistics(mean.detach(), variance.detach() * (count / (count - 1)))
            y = centred * (variance + self.eps).rsqrt()[:, None, None]
            y = y if self.weight is None else y * self.weight[:, None, None] + self.bias[:, None, None]
        return y.to(x.dtype)

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        """As torch: momentum None is the mean over all batches so far."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(unbiased_variance.to(self.running_var.dtype), weight)


def _sum(values: Tensor) -> Tensor:
    summed: Tensor = _Sum.apply(values)
    return summed


def synchronise_bn(model: nn.Module) -> None:
    """Every BN of `model` takes its statistics from all processes. In place; parameters and keys stay what they are."""
    for name, module in model.named_modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronisedBatchNorm2d
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise UsageError(f"--sync-bn: {name} is a {type(module).__name__}, which is not synchronised; leave it out")
