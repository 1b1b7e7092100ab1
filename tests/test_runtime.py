"""Device, seeds, signals."""

import os
import signal

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
