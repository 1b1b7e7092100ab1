"""Data by name: real HTTP from a server on loopback, real archives in torchvision's forms, and nothing unasked."""

import gzip
import hashlib
import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torchvision

from wideresnet import cli, runs, runtime
from wideresnet.data import DOWNLOADS, Data, read
from wideresnet.errors import DataError, TrainingStopped, UsageError
from wideresnet.files import cache_folder
from wideresnet.reading import Reading

FETCH = Reading(download=True)
NUM = {"train": 40, "test": 20}  # pictures of a stand-in


class Server:
    """A folder served on loopback; `asked` are the paths that anyone asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[str]()
        asked = self.asked

        class Handler(SimpleHTTPRequestHandler):
            def log_request(self, *_: object) -> None:
                asked.append(self.path)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """And an empty cache in tmp_path/cache."""
    monkeypatch.setenv("WRN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("http_proxy", raising=False)
    (tmp_path / "served").mkdir()
    server = Server(tmp_path / "served")
    yield server
    server.close()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def pixels(split: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(len(split)).integers(0, 256, (NUM[split], *shape), dtype=np.uint8)


def labels(split: str) -> np.ndarray:
    return np.arange(NUM[split]) % 10


def tar(folder: str, contents: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as file:
        for name, content in contents.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def stand_in(name: str, server: Server) -> dict[str, Any]:
    """Serves a small data set in the form of `name`; the attributes of torchvision's class that say where it lies."""
    dataset: Any = getattr(torchvision.datasets, DOWNLOADS[name].dataset)
    if name.startswith("cifar"):
        fine = "fine_labels" if name == "cifar100" else "labels"
        contents = {
            split: pickle.dumps({"data": pixels(split, (3072,)), fine: labels(split).tolist()}) for split in NUM
        }
        contents["meta"] = pickle.dumps({dataset.meta["key"]: [f"class {i}" for i in range(10)]})
        archive = tar(dataset.base_folder, contents)
        (server.folder / dataset.filename).write_bytes(archive)
        return {
            "url": server.url + dataset.filename,
            "tgz_md5": md5(archive),
            "train_list": [["train", md5(contents["train"])]],
            "test_list": [["test", md5(contents["test"])]],
            "meta": {**dataset.meta, "filename": "meta", "md5": md5(contents["meta"])},
        }
    if name == "stl10":
        contents = {}
        for split in NUM:
            images = pixels(split, (96, 96, 3)).transpose(0, 3, 2, 1)  # column by column
            contents[f"{split}_X.bin"] = images.tobytes()
            contents[f"{split}_y.bin"] = (labels(split) + 1).astype(np.uint8).tobytes()
        archive = tar(dataset.base_folder, contents)
        (server.folder / dataset.filename).write_bytes(archive)
        lists = {f"{s}_list": [[f"{s}_{x}.bin", md5(contents[f"{s}_{x}.bin"])] for x in "Xy"] for s in NUM}
        return {"url": server.url + dataset.filename, "tgz_md5": md5(archive), **lists}
    if name == "svhn":
        rows = {}
        for split in NUM:
            path, y = server.folder / f"{split}.mat", labels(split)
            images = pixels(split, (32, 32, 3)).transpose(1, 2, 3, 0)
            scipy.io.savemat(path, {"X": images, "y": np.where(y == 0, 10, y)[:, None]})
            rows[split] = [server.url + path.name, path.name, md5(path.read_bytes())]
        return {"split_list": {**dataset.split_list, **rows}}
    resources = []
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, of = pixels(split, (28, 28)), labels(split).astype(np.uint8)
        for file, header, content in (
            (f"{prefix}-images-idx3-ubyte.gz", (0x803, *images.shape), images),
            (f"{prefix}-labels-idx1-ubyte.gz", (0x801, len(of)), of),
        ):
            packed = gzip.compress(struct.pack(f">{len(header)}I", *header) + content.tobytes())
            (server.folder / file).write_bytes(packed)
            resources.append((file, md5(packed)))
    return {"mirrors": ["http://127.0.0.1:9/gone/", server.url], "resources": resources}


def install(name: str, attributes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for attribute, value in attributes.items():
        monkeypatch.setattr(getattr(torchvision.datasets, DOWNLOADS[name].dataset), attribute, value)


def left_in_the_cache() -> list[str]:
    return sorted(path.name for path in cache_folder().rglob("*") if path.parent.name == "downloads")


@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_name_is_fetched_when_asked_kept_and_read_from_the_cache_ever_after(
    name: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(name, stand_in(name, server), monkeypatch)
    with pytest.raises(
        DataError, match=rf"{name}: not on this machine.*--download brings it, [\d,]+ MB into .*/{name}"
    ):
        read(name)
    assert (server.asked, left_in_the_cache()) == ([], [])
    said: list[str] = []
    data = read(name, FETCH, runtime.Watch(line=said.append))
    assert len(said) == 1
    assert DOWNLOADS[name].source in said[0]
    check(name, data)
    asked = len(server.asked)
    check(name, read(name))
    check(name, read(name, FETCH))
    assert (len(server.asked), left_in_the_cache()) == (asked, [name])
    if name in ("cifar10", "stl10"):
        assert not list(cache_folder().rglob("*.tar.gz"))


def check(name: str, data: Data) -> None:
    assert (data.name, data.place, list(data.splits), len(data.class_names)) == (name, name, ["train", "test"], 10)
    for split, part in data.splits.items():
        assert part.labels.tolist() == labels(split).tolist()
        assert isinstance(part.sources, np.ndarray)
        if name.startswith("cifar"):
            expected = pixels(split, (3072,)).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        elif name in ("svhn", "stl10"):
            expected = pixels(split, (32, 32, 3) if name == "svhn" else (96, 96, 3))
        else:
            expected = np.repeat(pixels(split, (28, 28))[..., None], 3, -1)
        assert np.array_equal(part.sources, expected)


class Evil:
    """What a pickle can do to who loads it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def test_an_archive_with_another_checksum_is_refused_before_it_is_read_and_nothing_is_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attributes = stand_in("cifar10", server)
    install("cifar10", attributes, monkeypatch)
    contents = {batch: pickle.dumps(Evil(str(tmp_path / "owned"))) for batch in ("train", "test", "meta")}
    (server.folder / "cifar-10-python.tar.gz").write_bytes(tar("cifar-10-batches-py", contents))
    with pytest.raises(
        DataError, match=r"cifar10: cannot be downloaded, and nothing was kept: .* not with the data set's"
    ):
        read("cifar10", FETCH)
    assert (left_in_the_cache(), (tmp_path / "owned").exists()) == ([], False)
    # Even inside an archive whose checksum is right, a batch with another one is not loaded.
    changed = (server.folder / "cifar-10-python.tar.gz").read_bytes()
    install("cifar10", {"tgz_md5": md5(changed)}, monkeypatch)
    with pytest.raises(TrainingStopped, match="cifar10: cannot be unpacked"):
        read("cifar10", FETCH)
    assert (left_in_the_cache(), (tmp_path / "owned").exists()) == ([], False)


@pytest.mark.parametrize("name", ["cifar10", "svhn", "fashion-mnist", "stl10"])
def test_a_file_of_the_cache_that_was_damaged_since_is_refused_whichever_it_is(
    name: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(name, stand_in(name, server), monkeypatch)
    read(name, FETCH)
    files = [path for path in (cache_folder() / "downloads" / name).rglob("*") if path.is_file()]
    assert len(files) >= 2
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
        with pytest.raises(DataError, match=rf"{name}: its files in .* are damaged .*Remove that folder"):
            read(name, FETCH)
        path.write_bytes(whole)
    check(name, read(name))


@pytest.mark.parametrize("how", ["no server", "no such file", "cut short"])
def test_a_download_that_fails_is_one_line_with_its_reason_and_leaves_nothing(
    how: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("cifar10", stand_in("cifar10", server), monkeypatch)
    archive = server.folder / "cifar-10-python.tar.gz"
    if how == "no server":
        server.close()
    elif how == "no such file":
        archive.unlink()
    else:
        archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"cannot be downloaded.*(refused|File not found|5,000 bytes)") as caught:
        read("cifar10", FETCH)
    assert "\n" not in str(caught.value)
    assert left_in_the_cache() == []


def test_two_runs_that_fetch_at_once_both_read_and_leave_one_folder(server: Server) -> None:
    code = (
        "import json, sys, torchvision\n"
        "for name, value in json.loads(sys.argv[1]).items(): setattr(torchvision.datasets.CIFAR10, name, value)\n"
        "from wideresnet.data import read; from wideresnet.reading import Reading\n"
        "input(); print(len(read('cifar10', Reading(download=True)).splits['train']))\n"
    )
    command = [sys.executable, "-c", code, json.dumps(stand_in("cifar10", server))]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:  # both have loaded their modules, or nearly so, before either begins
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate() for process in both]
    assert [out for out, _ in said] == ["40\n", "40\n"], said
    assert left_in_the_cache() == ["cifar10"]


def test_the_command_fetches_only_with_its_option_trains_and_goes_on_without_the_network(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install("cifar10", stand_in("cifar10", server), monkeypatch)
    monkeypatch.chdir(tmp_path)
    words = ["train", "cifar10", "--arch", "wrn_10_1", "--epochs", "1", "--size", "8"]
    assert cli.run(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("wrn: cifar10: not on this machine")
    assert (said.count("\n"), server.asked, (tmp_path / "runs").exists()) == (1, [], False)
    assert cli.run([*words, "--download"]) == 0
    config = runs.read_config(tmp_path / "runs" / "cifar10-1")
    assert (config.data, config.reading) == ("cifar10", FETCH)
    assert " --download " in config.command
    server.close()
    assert cli.run(["train", "--resume", "runs/cifar10-1"]) == 0
    assert cli.run(["evaluate", "runs/cifar10-1", "cifar10"]) == 0
    assert "cifar10, test: 20 pictures" in capsys.readouterr().out


def test_a_folder_of_a_data_set_s_name_is_told_how_it_is_meant(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("mnist", stand_in("mnist", server), monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    with pytest.raises(DataError, match=r"a folder of that name is \./mnist"):
        read("mnist")
    assert read("mnist", FETCH).notes == ("mnist is the data set of that name; a folder of that name is ./mnist",)


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRN_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("WRN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "wideresnet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "wideresnet"
    assert cache_folder().is_dir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WRN_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"the cache cannot be made there: .*; set WRN_CACHE"):
        cache_folder()
