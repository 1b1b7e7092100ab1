"""Pickles made to run code: none runs, with --trust-pickle either; every one is one line and exit code 2."""

import codecs
import contextlib
import functools
import io
import operator
import os
import pickle
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wideresnet import cli


class Made:
    """An object whose pickle calls `function(*arguments)`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


class Method:
    """A method of an object, which its pickle finds by `getattr`."""

    def __init__(self, of: Any, name: str) -> None:
        self.of = (of, name)

    def __call__(self) -> None:
        """So that it may be called by a pickle."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, str]]:
        return (getattr, self.of)


def payloads(canary: Path) -> dict[str, Any]:
    """Each would leave `canary`, by another way."""
    name, command = str(canary), f"touch {canary}"
    return {
        "os.system": Made(os.system, command),
        "subprocess.run": Made(subprocess.run, ["touch", name]),
        "subprocess.call": Made(subprocess.call, ["touch", name]),
        "subprocess.getoutput": Made(subprocess.getoutput, command),
        "exec": Made(exec, f"open({name!r}, 'w').close()"),
        "eval": Made(eval, f"open({name!r}, 'w').close()"),
        "eval, import": Made(eval, f"__import__('os').mkdir({name!r})"),
        "open": Made(open, name, "w"),
        "io.open": Made(io.open, name, "w"),
        "codecs.open": Made(codecs.open, name, "w"),
        "os.mkdir": Made(os.mkdir, name),
        "os.open": Made(os.open, name, os.O_CREAT),
        "os.symlink": Made(os.symlink, os.devnull, name),
        "shutil.copyfile": Made(shutil.copyfile, os.devnull, name),
        "Path.touch": Made(Path.touch, canary),
        "getattr": Made(Method(canary, "touch")),
        "partial": Made(functools.partial(os.mkdir, name)),
        "methodcaller": Made(operator.methodcaller("mkdir"), canary),
        "map": Made(list, map(os.mkdir, [name])),
        "torch.save": Made(torch.save, {}, name),
        "a pickle in a pickle": Made(pickle.loads, pickle.dumps(Made(os.mkdir, name))),
    }


def _zipped(path: Path, what: Any) -> None:
    """A pickle in a zip in a zip."""
    inner = path.with_suffix(".inner")
    torch.save(what, inner)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inner, "archive/data.pkl")
        archive.writestr("archive/version", "3")


FORMS: dict[str, Callable[[Path, Any], object]] = {
    "torch": lambda path, what: torch.save({"state_dict": {"a": torch.ones(2)}, "extra": what}, path),
    "torch, old": lambda path, what: torch.save({"extra": what}, path, _use_new_zipfile_serialization=False),
    "pickle 0": lambda path, what: path.write_bytes(pickle.dumps({"extra": what}, 0)),
    "pickle 4": lambda path, what: path.write_bytes(pickle.dumps([what], 4)),
    "zip in zip": _zipped,
}


@pytest.mark.parametrize("trust", [True, False], ids=["trusted", "not trusted"])
@pytest.mark.parametrize("form", FORMS)
def test_no_pickle_runs_code(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, trust: bool) -> None:
    canary = tmp_path / "canary"
    for i, (name, what) in enumerate(payloads(canary).items()):
        path = tmp_path / f"{i}.pth"
        FORMS[form](path, what)
        words = ["import", str(path), "--out", str(tmp_path / "ours.safetensors")]
        code = cli.run(words + ["--trust-pickle"] * trust)
        said = capsys.readouterr().err
        assert not canary.exists(), name
        assert code == 2, f"{name}: {said}"
        assert len(said.strip().splitlines()) == 1, f"{name}: {said}"
    assert not (tmp_path / "ours.safetensors").exists()


@pytest.mark.parametrize("name", payloads(Path("canary")))
def test_a_reader_of_pickles_that_nobody_guards_would_have_run_it(tmp_path: Path, name: str) -> None:
    content = pickle.dumps(payloads(tmp_path / "canary")[name])
    with contextlib.suppress(TypeError, AttributeError):  # what it then makes of the answer
        pickle.loads(content)
    assert os.path.lexists(tmp_path / "canary")
