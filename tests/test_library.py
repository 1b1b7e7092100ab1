"""The compiled library where it is missing, broken, of another version or machine: said once, and torch computes."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel_networks import wrn

from wideresnet import kernels
from wideresnet.kernels import library
from wideresnet.kernels.library import Library


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the library would be; nothing is there. `load` looks anew."""
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    library.load.cache_clear()
    yield tmp_path / "_kernels.so"
    library.load.cache_clear()


def _falls_back(reason: str, said: list[str]) -> None:
    model = wrn()
    assert kernels.accelerate(model) is model
    assert len(said) == 1
    assert reason in said[0], said
    assert "torch computes" in said[0]


def test_no_library_is_said_and_torch_computes(elsewhere: Path, said: list[str]) -> None:
    assert not elsewhere.exists()
    _falls_back("not built: install a C++ compiler, then this package again", said)


@pytest.mark.parametrize("content", [b"", b"no library", b"\x7fELF\x01\x01\x01" + bytes(500)])
def test_a_file_that_is_no_library_of_this_machine_is_said(content: bytes, elsewhere: Path, said: list[str]) -> None:
    elsewhere.write_bytes(content)
    _falls_back("not loaded: ", said)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("int wrn_abi(void) { return 999; }", "interface 999, expected 3; install this package again"),
        ("int wrn_abi(void) { return 3; }", "undefined symbol"),
        ("int other(void) { return 1; }", "undefined symbol"),
    ],
)
def test_a_library_of_another_version_is_said(source: str, reason: str, elsewhere: Path, said: list[str]) -> None:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        pytest.skip("no C compiler")
    command = [compiler, "-x", "c", "-shared", "-fPIC", "-", "-o", str(elsewhere)]
    subprocess.run(command, input=source, text=True, check=True)
    _falls_back(reason, said)


def test_a_processor_without_vectors_is_said(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    library.load.cache_clear()
    original = Library.__init__

    def scalar_alone(self: Library, path: Path) -> None:
        original(self, path)
        self.isas = {"scalar": self.isas["scalar"]}

    with monkeypatch.context() as patch:
        patch.setattr(Library, "__init__", scalar_alone)
        _falls_back("this processor has none of the instruction sets", said)
    library.load.cache_clear()
