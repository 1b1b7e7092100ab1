"""Device, seeds, signals."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wideresnet import runtime
from wideresnet.errors import UsageError


def test_a_device_that_is_not_there_is_named_with_those_that_are() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(UsageError, match=r"--device cuda: not available on this machine; available: .*cpu"):
        runtime.choose_device("cuda")
    with pytest.raises(UsageError, match=r"--device gpu: expected one of auto, cpu, cuda, mps"):
        runtime.choose_device("gpu")
    assert runtime.choose_device("auto").type in {"cpu", "mps"}


def test_memory_of_a_training_is_reused_and_given_back_at_its_end() -> None:
    probe = """
import resource, torch
from wideresnet import runtime
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def resident(): return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
def work():
    for _ in range(20): torch.zeros(64 << 20, dtype=torch.uint8)
work()
start = faults(); work(); without = faults() - start
with runtime.memory_kept():
    work()
    start = faults(); work(); kept = faults() - start
    held = resident()
print(without, kept, held - resident())
"""
    if sys.platform != "linux":
        pytest.skip("glibc's allocator alone")
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    without, kept, given_back = map(int, done.stdout.split())
    assert kept < without / 10, (without, kept)
    assert given_back > 60 << 20


@given(st.integers(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_seeds_of_two_purposes_differ_and_each_is_always_the_same(seed: int, a: int, b: int) -> None:
    assert runtime.derive_seed(seed, "order", a) == runtime.derive_seed(seed, "order", a)
    assert (runtime.derive_seed(seed, "order", a) == runtime.derive_seed(seed, "order", b)) == (a == b)
    assert 0 <= runtime.derive_seed(seed, "x", a) < 2**63


def test_a_derived_seed_is_the_same_on_every_machine() -> None:
    assert runtime.derive_seed(0, "order", 1) == 4374215849138048446


def test_the_first_signal_is_kept_for_the_loop_and_the_second_obeyed() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us with it ignored
    with runtime.StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.caught == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_memory_is_what_the_machine_has_and_less_where_a_limit_of_the_process_says_so() -> None:
    assert 0 < runtime.free_memory_bytes() <= runtime.memory_bytes() < 1 << 62
    probe = """
import resource
from wideresnet import runtime
resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))
print(runtime.memory_bytes(), runtime.free_memory_bytes())
held = bytearray(1 << 30)
print(runtime.free_memory_bytes())
"""
    if sys.platform != "linux":
        pytest.skip("asks Linux")
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    total, before, after = map(int, done.stdout.split())
    assert total == 3 << 30
    assert (1 << 30) * 0.9 < before - after < (1 << 30) * 1.1


def cgroup(folder: Path, files: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")


def test_the_memory_of_a_container_is_its_own_or_that_of_one_around_it(tmp_path: Path) -> None:
    v2 = {"memory.current": 700, "memory.stat": "anon 500\ninactive_file 150\nfile 1"}
    cgroup(tmp_path / "v2" / "a" / "b", {"memory.max": "max", **v2})
    cgroup(tmp_path / "v2" / "a", {"memory.max": 1000, **v2})
    (tmp_path / "own").write_text("0::/a/b\n")
    assert list(runtime._cgroup_limits(tmp_path / "v2", tmp_path / "own")) == [(1000, 550)]
    (tmp_path / "own").write_text("0::/of/the/host\n")
    cgroup(tmp_path / "v2", {"memory.max": 900, **v2})
    assert list(runtime._cgroup_limits(tmp_path / "v2", tmp_path / "own")) == [(900, 550)]
    v1 = {"memory.limit_in_bytes": 800, "memory.usage_in_bytes": 300, "memory.stat": "cache 9"}
    cgroup(tmp_path / "v1" / "memory" / "job", v1)
    (tmp_path / "own").write_text("7:cpu,cpuacct:/job\n4:memory:/job\n0::/\n")
    assert list(runtime._cgroup_limits(tmp_path / "v1", tmp_path / "own")) == [(800, 300)]
    assert list(runtime._cgroup_limits(tmp_path, tmp_path / "none")) == []


def test_a_signal_that_torchrun_passes_on_to_processes_that_have_it_already_counts_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with runtime.StopSignals() as signals:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert signals.caught == signal.SIGINT
        signals._deaf_until = 0.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
