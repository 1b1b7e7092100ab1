"""What this machine offers and how a computation is made repeatable: device, threads, seeds, versions, signals; and
what a waiting person is shown."""

import contextlib
import ctypes
import gc
import hashlib
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from wideresnet.errors import UsageError

_ECHO_S = 2.0
DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str = "auto") -> torch.device:
    """ "auto" → the first of CUDA, MPS, CPU that is there. Raises UsageError if the one asked for is not."""
    kind = name.partition(":")[0]
    if kind not in DEVICES:
        raise UsageError(f"--device {name}: expected one of {', '.join(DEVICES)}")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if kind == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if not available[kind]:
        there = ", ".join(device for device, is_there in available.items() if is_there)
        raise UsageError(f"--device {name}: not available on this machine; available: {there}")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: expected {kind}, or {kind}:NUMBER") from error


def check_compiler(device: torch.device) -> None:
    """Raises UsageError if torch.compile cannot compile here: tried on one addition, which takes some seconds once."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(1, device=device))
    except RuntimeError as error:  # what torch's compiler raises is one
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UsageError(f"--compile: torch.compile does not work here ({reason}); train without it") from error


def num_cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine's."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, there // _processes_here())


def _processes_here() -> int:
    """How many processes torchrun has started on this machine: cores and memory are shared by them."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(text)) if text.isdecimal() else 1


def memory_bytes() -> int:
    """Memory that this process may use, or 2^62 where it cannot be asked: the machine's, or what a container or a
    limit of the process (`ulimit -v`, `-d`) leaves of it."""
    names = getattr(os, "sysconf_names", {})
    known = "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 1 << 62
    return min(machine, *(limit for limit, _ in (*_cgroup_limits(), *_process_limits())), 1 << 62)


def free_memory_bytes() -> int:
    """How much of `memory_bytes` is free: what the system says is available, within every limit."""
    available = memory_bytes()
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        available = int(text.partition("MemAvailable:")[2].split()[0]) * 1024
    available //= _processes_here()
    return max(0, min(available, *(limit - used for limit, used in (*_cgroup_limits(), *_process_limits())), 1 << 62))


def _process_limits() -> Iterator[tuple[int, int]]:
    """(limit, used) of address space and of data, in bytes, where they are limited."""
    try:
        import resource
    except ImportError:  # Windows
        return
    used = [0] * 7
    with contextlib.suppress(OSError):
        page = resource.getpagesize()
        used = [int(pages) * page for pages in Path("/proc/self/statm").read_text(encoding="ascii").split()]
    for which, taken in ((resource.RLIMIT_AS, used[0]), (resource.RLIMIT_DATA, used[5])):
        limit = resource.getrlimit(which)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit, taken


def _cgroup_limits(
    mount: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> Iterator[tuple[int, int]]:
    """(limit, used) of the container that this process is in and of those around it, in bytes; Linux's cgroups, both
    versions. File pages that nobody writes count as free: the system drops them first."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = mount / "memory" if controllers else mount
        limit_name, used_name = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        )
        # In a container the path may be the host's, and only the root is to be seen.
        for parts in range(len(Path(path).parts), 0, -1):
            group = root.joinpath(*Path(path).parts[1:parts])
            with contextlib.suppress(OSError, ValueError):
                limit = int((group / limit_name).read_text(encoding="ascii"))  # "max": no number, no limit
                used = int((group / used_name).read_text(encoding="ascii"))
                stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
                yield limit, used - int(stat.get("inactive_file", 0))


@contextmanager
def threads(num: int) -> Iterator[None]:
    """torch computes with `num` threads while open; then with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def memory_kept() -> Iterator[None]:
    """While open, freed memory stays with the process instead of going back to the system; then what is free goes back.

    glibc gives each large tensor pages of its own and returns them when it is freed, so that every step of a training
    waits for the system to clear the same pages anew: 0.85 to 0.9 of the speed (docs/numbers.md). Elsewhere: nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        yield
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)
    mallopt(top_pad, 1 << 28)
    try:
        yield
    finally:
        mallopt(mmap_max, 1 << 16)  # these three are glibc's own defaults
        mallopt(trim_threshold, 1 << 17)
        mallopt(top_pad, 1 << 17)
        ctypes.CDLL(None).malloc_trim(0)


def give_memory_back(device: torch.device) -> None:
    """What was freed, and what only waits to be, goes back to the system or the GPU, for others to be given."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def thread_pool() -> ThreadPoolExecutor:
    """A worker for each core; torch computes with one thread in each, so that they do not get in each other's way."""
    torch.get_num_threads()  # fixes the caller's own number: a thread that has not asked takes what was set last
    return ThreadPoolExecutor(num_cores(), initializer=torch.set_num_threads, initargs=(1,))


def derive_seed(seed: int, *purpose: int | str) -> int:
    """A seed in [0, 2^63) for one purpose, as (seed, "order", epoch): the same on every machine, unlike `hash`."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *purpose: int | str) -> torch.Generator:
    """A CPU generator seeded for one purpose. Draws are made on the CPU, so that every device gets the same ones."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, for config.json and the model file."""
    packages = ("wideresnet", "torch", "torchvision", "numpy", "Pillow")
    found = {name: metadata.version(name) for name in packages}
    return {**found, "python": platform.python_version(), "platform": f"{sys.platform}-{platform.machine()}"}


def processor() -> str:
    """The instructions that torch computes with on the CPU: others round otherwise."""
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Watch:
    """What a person who waits is shown: two functions. The command line passes its own; `QUIET` shows nothing."""

    line: Callable[[str], None] = _ignore  # one line that stays
    progress: Callable[[str, int, int, str], None] = _ignore  # what, done, total, details: a bar that moves


QUIET = Watch()
PRINT = Watch(line=print)


class StoppedAtOnce(BaseException):
    """A signal that came while `StopSignals.at_once` was open."""


class StopSignals:
    """While open, the first Ctrl-C or SIGTERM only sets `caught`, for a loop to end between two steps.

    So nothing that is being written is cut. A second one is obeyed at once, as it would be without this. Under torchrun
    a second one within 2 s counts as the first: it passes on what all processes may have got already.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self._deaf_until = 0.0
        self._before: dict[int, Any] = {}
        self._at_once = False

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._catch)
        return self

    def _catch(self, number: int, frame: object) -> None:  # noqa: ARG002 - the interpreter's own signature
        if self.caught is None:
            self.caught = number
            self._deaf_until = time.monotonic() + _ECHO_S
            if os.environ.get("WORLD_SIZE", "1") == "1":
                self._restore()
            if self._at_once:
                raise StoppedAtOnce
        elif time.monotonic() > self._deaf_until:
            self._restore()
            signal.raise_signal(number)

    @contextmanager
    def at_once(self, wanted: bool) -> Iterator[None]:
        """While open, if `wanted`, the first signal raises StoppedAtOnce, for work that may be left half done."""
        self._at_once = wanted
        try:
            if wanted and self.caught is not None:
                raise StoppedAtOnce
            yield
        finally:
            self._at_once = False

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(self, *_: object) -> None:
        self._restore()


_said: set[str] = set()


def say_once(text: str) -> None:
    """One line on stderr, the first time that this process says it."""
    if text not in _said:
        _said.add(text)
        print(text, file=sys.stderr)
