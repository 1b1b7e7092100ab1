"""What several test files share: where the shared real data lies."""

import os
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

from wideresnet import runtime
from wideresnet.data import Pictures

# The machine that runs the tests may be busy: no example fails for the time it takes.
settings.register_profile("wideresnet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wideresnet")

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("WRN_SHARED", ROOT.parent / "shared"))

# A shell's background job ignores Ctrl-C, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test reads or fills the cache of the person who runs it.
_CACHE = tempfile.TemporaryDirectory(prefix="wrn-cache-")
os.environ["WRN_CACHE"] = _CACHE.name


def shared(path: str) -> Path:
    """A file or folder of the shared data; skips the test, saying so, where a checkout has none (CI always has)."""
    found = SHARED / path
    if not found.exists():
        reason = f"{path} is not in WRN_SHARED ({SHARED})"
        if os.environ.get("CI"):
            pytest.fail(f"{reason}; CI must have it")
        pytest.skip(reason)
    return found


def pixels(pictures: Pictures) -> Tensor:
    """All of them, uint8 [N, C, size, size], wherever they are kept."""
    return pictures.images[torch.arange(len(pictures))]


def overwrite(path: Path, at: int, content: bytes) -> None:
    """`content` instead of what stands at byte `at` of a file, counted from its end if it is negative."""
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        file.write(content)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was said once on stderr, while the test ran."""
    lines: list[str] = []
    monkeypatch.setattr(runtime, "say_once", lambda text: lines.append(text) if text not in lines else None)
    return lines
