"""Whole trainings through our kernels: optimisers, hooks on parameters, copies; bits, memory, threads, processes."""

import copy
import gc
import os
import pickle
import threading
import time
from pathlib import Path

import pytest
import torch
from kernel_networks import accelerated
from test_accelerated import python
from test_kernel_gradients import (
    norm_of,
    one_thread,  # noqa: F401  (a fixture)
    same_buffers,
)
from test_kernel_training import by_kernels, close, loss, of, pair, smooth
from test_model import images
from torch import Tensor, nn

from wideresnet import kernels

# --- Trainings


def test_a_training_goes_as_torchs_with_clipping_ema_sam_and_nesterov() -> None:
    """Ten steps; what rounding makes of the first grows with each."""
    fast, expected = pair()
    found: list[list[float]] = []
    for compute in (fast, expected):
        optimizer = torch.optim.SGD(compute.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
        ema = torch.optim.swa_utils.AveragedModel(compute, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
        losses = []
        for step in range(10):
            x = images(4 if step % 5 < 4 else 2, 3, 9, 9, seed=step % 5)
            optimizer.zero_grad()
            loss(compute, x).backward()
            grads = [p.grad for p in compute.parameters() if p.grad is not None]
            size = torch.linalg.vector_norm(torch.stack([g.norm() for g in grads]))
            moved = [0.05 * g / size for g in grads]  # Foret et al. 2021: up the slope and back
            with torch.no_grad():
                torch._foreach_add_(list(compute.parameters()), moved)
            optimizer.zero_grad()
            value = loss(compute, x)
            value.backward()
            with torch.no_grad():
                torch._foreach_sub_(list(compute.parameters()), moved)
            torch.nn.utils.clip_grad_norm_(compute.parameters(), 1.0)
            optimizer.step()
            ema.update_parameters(compute)
            losses.append(value.item())
        with torch.no_grad():
            losses.append(loss(ema.eval()).item())
        found.append(losses)
    torch.testing.assert_close(*map(torch.tensor, found), rtol=2e-3, atol=2e-3)
    assert found[0][-2] < found[0][0] - 0.3
    by_kernels(fast)


def test_update_bn_computes_the_mean_of_all_batches() -> None:
    fast, expected = pair()
    for compute in (fast, expected):
        torch.optim.swa_utils.update_bn([images(3, 3, 9, 9, seed=s) for s in range(4)], compute)
    same_buffers(fast.model, expected)
    assert norm_of(fast.model, "bn").num_batches_tracked == 4


def test_hooks_on_parameters_see_and_change_gradients_and_step_inside_the_backward_pass() -> None:
    fast, expected = pair()
    seen: list[str] = []
    for compute in (fast, expected):
        for name, parameter in compute.named_parameters():
            if name.endswith("stage2.0.conv1.weight"):
                parameter.register_hook(lambda g: 2 * g)
            if name.endswith("stage1.0.bn1.weight"):
                parameter.register_post_accumulate_grad_hook(lambda _: seen.append("accumulated"))
        loss(compute).backward()
    close(of(fast), of(expected))
    assert seen == ["accumulated"] * 2

    def step(parameter: Tensor) -> None:
        with torch.no_grad():
            parameter.sub_(0.1 * parameter.grad)  # type: ignore[operator]
        parameter.grad = None

    fast, expected = pair()
    for compute in (fast, expected):
        for parameter in compute.parameters():
            parameter.register_post_accumulate_grad_hook(step)
        for _ in range(2):
            loss(compute).backward()
    for name, parameter in fast.model.named_parameters():
        torch.testing.assert_close(parameter, expected.get_parameter(name), rtol=1e-3, atol=1e-5)


def test_copies_and_pickles_after_a_step_train_on_by_themselves() -> None:
    fast, expected = pair()
    for compute in (fast, expected):
        loss(compute).backward()
    close(of(fast), of(expected))
    fast.zero_grad()
    expected.zero_grad()
    others = [copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))]
    loss(expected).backward()
    for other in others:
        assert other._trainer is None
        loss(other).backward()
        close(of(other), of(expected))
        by_kernels(other)
    assert all(g is None for g in of(fast).values())


# --- Bits


def steps(model: nn.Module, count: int = 4) -> str:
    """All bits of a few steps of a network with dropout, as one number."""
    fast = kernels.accelerate(model)
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(7)
    for step in range(count):
        optimizer.zero_grad()
        loss(fast, images(3 + step % 2, 3, 13, 17, seed=step)).backward()
        optimizer.step()
    bits = torch.cat([value.flatten() for value in fast.state_dict().values() if value.is_floating_point()])
    return str(hash(bits.numpy().tobytes()))


BITS = """
import os, sys, torch
from kernel_networks import accelerated, wrn
from test_kernel_training import X, loss, smooth
from test_kernel_trainings import steps
torch.set_num_threads(int(sys.argv[1]))
first = steps(smooth(dropout_p=0.3, conv_bias="all"))
assert steps(smooth(dropout_p=0.3, conv_bias="all")) == first
if sys.argv[2] == "forks":  # the backbone alone: a child waits for torch's own threads for ever
    fast = accelerated(smooth())
    loss(fast)
    def walked():
        fast.zero_grad()
        fast._trainer(X).sum().backward()
        return [p.grad.numpy().tobytes() for p in fast.model.backbone.parameters()]
    expected = walked()
    child = os.fork()
    if child == 0:
        os._exit(0 if walked() == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
print(first)
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_training_has_the_same_bits_each_time_in_each_process_and_in_a_forked_child(threads: str) -> None:
    found = {python(BITS, threads, what, PYTHONHASHSEED="0") for what in ("forks", "alone")}
    assert len(found) == 1, found


# --- Memory, threads, processes


def test_graphs_that_are_dropped_give_their_memory_back() -> None:
    statm = Path("/proc/self/statm")
    fast, _ = pair(widen_factor=2)
    x = images(8, 3, 32, 32)

    def resident() -> int:
        gc.collect()
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0

    def drop(count: int) -> None:
        for turn in range(count):
            loss(fast, x)  # dropped at once
            kept = [loss(fast, x[: 8 - turn % 3]) for _ in range(3)]  # three alive, one walked
            kept[1].backward()
            del kept
            assert len(by_kernels(fast).free) <= 2

    drop(3)
    before = resident()
    drop(20)
    arena = max(each.memory.numel() for each in by_kernels(fast).free) * 4
    assert resident() - before < 2 * arena, (resident() - before, arena)
    assert len(by_kernels(fast)._programs) <= 6


def test_models_trained_in_threads_of_their_own_have_the_bits_of_each_alone() -> None:
    alone = [steps(smooth(seed)) for seed in range(3)]
    models = [smooth(seed) for seed in range(3)]  # here: the generator that draws their weights is everybody's
    found: dict[int, str] = {}

    def train(seed: int) -> None:
        torch.set_num_threads(1)
        found[seed] = steps(models[seed])

    callers = [threading.Thread(target=train, args=(seed,)) for seed in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert [found[seed] for seed in range(3)] == alone


def test_one_model_in_several_threads_gives_each_its_own_gradients() -> None:
    """Arenas come back while another thread takes one: two passes in the same memory would be wrong, not crash."""
    fast, _ = pair()
    fast.model.eval()  # so that a pass changes nothing for the others
    inputs = [images(1 + number % 3, 3, 9 + number, 12, seed=number) for number in range(4)]

    def gradient(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(loss(fast, x), x)[0]

    expected = [gradient(x) for x in inputs]
    wrong: list[int] = []

    def ask(number: int) -> None:
        torch.set_num_threads(1)
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            if not torch.equal(gradient(inputs[number]), expected[number]):
                wrong.append(number)

    callers = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def half_of_the_batch(rank: int, folder: str) -> None:
    """One of two processes; BN in eval mode, for it would see half a batch each."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    fast = accelerated(smooth().eval())
    parallel = nn.parallel.DistributedDataParallel(fast)
    for _ in range(2):
        fast.zero_grad()
        parallel(images(4, 3, 8, 8).chunk(2)[rank]).square().mean().backward()
    by_kernels(fast)
    torch.save(of(fast), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_of_ddp_have_the_gradients_of_the_whole_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.multiprocessing.spawn(half_of_the_batch, (str(tmp_path),), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    expected = smooth().eval()
    expected(images(4, 3, 8, 8)).square().mean().backward()
    for rank in range(2):
        close(torch.load(tmp_path / f"{rank}.pt", weights_only=True), of(expected))
