"""Pickles made to run code: none runs, with --trust-pickle either; every one is one line and exit code 2."""

import builtins
import codecs
import functools
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


def payloads(canary: Path) -> dict[str, Any]:
    """Each would leave `canary`, by another way."""
    touch = f"open({str(canary)!r}, 'w').close()"
    command = f"touch {canary}"
    return {
        "os.system": Made(os.system, command),
        "os.popen": Made(os.popen, command),
        "subprocess.Popen": Made(subprocess.Popen, ["touch", str(canary)]),
        "subprocess.call": Made(subprocess.call, ["touch", str(canary)]),
        "exec": Made(exec, touch),
        "eval": Made(eval, touch),
        "open": Made(open, str(canary), "w"),
        "codecs.open": Made(codecs.open, str(canary), "w"),
        "os.mkdir": Made(os.mkdir, str(canary)),
        "shutil.copy": Made(shutil.copyfile, os.devnull, str(canary)),
        "Path.touch": Made(Path.touch, canary),
        "getattr, then a call": Made(Made(getattr, os, "system").call[0], os, "mkdir"),
        "import": Made(builtins.__import__, "antigravity"),
        "partial": Made(functools.partial(os.mkdir), str(canary)),
        "methodcaller": Made(operator.methodcaller("mkdir"), canary),
        "torch.hub": Made(torch.hub.download_url_to_file, "http://127.0.0.1:9/x", str(canary)),
        "torch.load": Made(torch.load, str(canary)),
        "torch.save": Made(torch.save, {}, str(canary)),
        "a pickle in a pickle": Made(pickle.loads, pickle.dumps(Made(os.mkdir, str(canary)))),
        "map": Made(list, map(os.mkdir, [str(canary)])),
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
        try:
            FORMS[form](path, what)
        except (pickle.PicklingError, TypeError):  # of some forms there is none
            continue
        words = ["import", str(path), "--out", str(tmp_path / "ours.safetensors")]
        code = cli.run(words + ["--trust-pickle"] * trust)
        said = capsys.readouterr().err
        assert not canary.exists(), name
        assert code == 2, f"{name}: {said}"
        assert len(said.strip().splitlines()) == 1, f"{name}: {said}"
    assert not (tmp_path / "ours.safetensors").exists()


def test_the_payloads_would_have_left_what_is_looked_for(tmp_path: Path) -> None:
    left = 0
    for i, what in enumerate(payloads(tmp_path / "x").values()):
        canary = tmp_path / str(i)
        function, arguments = what.call
        text = [
            argument.replace(str(tmp_path / "x"), str(canary)) if isinstance(argument, str) else argument
            for argument in arguments
        ]
        if function in (os.system, exec, eval, open, os.mkdir, shutil.copyfile):
            function(*text)
            left += canary.exists()
    assert left == 6
