"""A function of ours is called once another package is imported: whichever comes first, once, and harming no import."""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from wideresnet.arrival import call_when_imported

OURS = "arrival_probe:came"


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What `arrival_probe.came` noted; a package `guest` in tmp_path; all as before afterwards."""
    calls = list[str]()
    monkeypatch.setitem(
        sys.modules, "arrival_probe", SimpleNamespace(came=lambda: calls.append(sys.modules["guest"].there))
    )
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "guest").mkdir()
    (tmp_path / "guest" / "__init__.py").write_text("there = 'whole'\n")
    (tmp_path / "guest" / "part.py").write_text("")
    yield calls
    for name in [name for name in sys.modules if name.split(".")[0] == "guest"]:
        del sys.modules[name]


def finders() -> list[object]:
    return [finder for finder in sys.meta_path if type(finder).__module__ == "wideresnet.arrival"]


@pytest.mark.parametrize("first", ["guest", "guest.part"])
def test_it_is_called_when_the_package_has_been_run_to_its_end_and_never_again(calls: list[str], first: str) -> None:
    before = finders()
    call_when_imported("guest", OURS)
    importlib.import_module(first)
    assert calls == ["whole"]
    importlib.reload(sys.modules["guest"])
    assert (calls, finders()) == (["whole"], before)


def test_it_is_called_at_once_for_a_package_that_is_there(calls: list[str]) -> None:
    before = finders()
    importlib.import_module("guest")
    call_when_imported("guest", OURS)
    assert (calls, finders()) == (["whole"], before)


def test_the_package_is_as_it_is_without_us(calls: list[str]) -> None:
    alone = importlib.import_module("guest")
    kinds = [type(alone.__loader__), type(alone.__spec__.loader if alone.__spec__ else None)]
    del sys.modules["guest"]
    call_when_imported("guest", OURS)
    ours = importlib.import_module("guest")
    assert [type(ours.__loader__), type(ours.__spec__.loader if ours.__spec__ else None)] == kinds
    assert calls == ["whole"]


def test_looking_for_the_package_imports_nothing_and_calls_nothing(calls: list[str]) -> None:
    call_when_imported("guest", OURS)
    spec = importlib.util.find_spec("guest")
    assert spec is not None
    assert str(spec.origin).endswith("__init__.py")
    assert ("guest" in sys.modules, calls) == (False, [])
    importlib.import_module("guest")
    assert calls == ["whole"]


def test_an_import_that_fails_fails_by_itself_and_the_next_one_counts(calls: list[str], tmp_path: Path) -> None:
    (tmp_path / "guest" / "__init__.py").write_text("raise ImportError('half installed')")
    call_when_imported("guest", OURS)
    with pytest.raises(ImportError, match="half installed"):
        importlib.import_module("guest")
    assert calls == []
    (tmp_path / "guest" / "__init__.py").write_text("there = 'mended'")
    importlib.invalidate_caches()
    importlib.import_module("guest")
    assert calls == ["mended"]


def test_a_package_that_is_not_installed_is_missing_as_ever(calls: list[str]) -> None:
    call_when_imported("guest_who_never_comes", OURS)
    with pytest.raises(ModuleNotFoundError, match="guest_who_never_comes"):
        importlib.import_module("guest_who_never_comes")
    assert calls == []


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.usefixtures("calls")
def test_what_goes_wrong_in_our_function_is_one_warning_and_the_import_succeeds(there: bool) -> None:
    if there:
        importlib.import_module("guest")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call_when_imported("guest", "arrival_probe:nothing")
        assert importlib.import_module("guest").there == "whole"
        importlib.import_module("guest.part")
    (warning,) = caught
    assert str(warning.message) == (
        "guest does not know what arrival_probe has: 'types.SimpleNamespace' object has no attribute 'nothing'"
    )
