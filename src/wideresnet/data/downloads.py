"""Data sets by name → the cache → `Data`: torchvision's own classes say where they lie, how they are checked and read.

Nothing is fetched unless it is asked for, and nothing is read before its checksum was right. CIFAR's batches are
pickles, which can run code when they are loaded; torchvision loads them only where their MD5 is the one in its own
source, so they are the bytes that their authors published (nobody has yet made a file for a given MD5).
"""

import hashlib
import shutil
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from wideresnet import files, runtime
from wideresnet.data.arrays import as_rgb, listing_of
from wideresnet.data.listing import Data
from wideresnet.errors import DataError, TrainingStopped
from wideresnet.reading import Reading

_TIMEOUT_S = 30.0  # without an answer, or without a byte of it
DatasetClass: TypeAlias = Any  # one of torchvision's, which has no types


@dataclass(frozen=True, slots=True)
class Archive:
    """One file to fetch: where torchvision looks for it below its root, the addresses that have it, its MD5."""

    path: str
    urls: Sequence[str]
    md5: str


def _tar(dataset: DatasetClass) -> list[Archive]:
    return [Archive(dataset.filename, [dataset.url], dataset.tgz_md5)]


def _mat(dataset: DatasetClass) -> list[Archive]:
    return [Archive(path, [url], md5) for url, path, md5 in (dataset.split_list[s] for s in ("train", "test"))]


def _idx(dataset: DatasetClass) -> list[Archive]:
    folder = f"{dataset.__name__}/raw"
    return [
        Archive(f"{folder}/{name}", [mirror + name for mirror in dataset.mirrors], md5)
        for name, md5 in dataset.resources
    ]


_FLAG = {"train": {"train": True}, "test": {"train": False}}
_WORD = {"train": {"split": "train"}, "test": {"split": "test"}}
_DIGITS = tuple("0123456789")
_STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A data set that torchvision knows. Pictures are its authors'; `source` has their terms."""

    dataset: str  # the class in torchvision.datasets
    size_mb: int  # of what is fetched
    archives: Callable[[DatasetClass], list[Archive]]
    splits: Mapping[str, Mapping[str, Any]]  # our split → the arguments of the class
    source: str
    class_names: tuple[str, ...] = ()  # where the class's own are missing or are no names


DOWNLOADS: dict[str, Download] = {
    "cifar10": Download(
        dataset="CIFAR10",
        size_mb=170,
        archives=_tar,
        splits=_FLAG,
        source="Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "cifar100": Download(
        dataset="CIFAR100",
        size_mb=169,
        archives=_tar,
        splits=_FLAG,
        source="Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "svhn": Download(
        dataset="SVHN",
        size_mb=246,
        archives=_mat,
        splits=_WORD,
        source="Netzer et al. 2011, for research only, http://ufldl.stanford.edu/housenumbers/",
        class_names=_DIGITS,
    ),
    "mnist": Download(
        dataset="MNIST",
        size_mb=12,
        archives=_idx,
        splits=_FLAG,
        source="LeCun et al. 1998, http://yann.lecun.com/exdb/mnist/",
        class_names=_DIGITS,
    ),
    "fashion-mnist": Download(
        dataset="FashionMNIST",
        size_mb=31,
        archives=_idx,
        splits=_FLAG,
        source="Xiao et al. 2017, MIT, https://github.com/zalandoresearch/fashion-mnist",
    ),
    "kmnist": Download(
        dataset="KMNIST",
        size_mb=21,
        archives=_idx,
        splits=_FLAG,
        source="Clanuwat et al. 2018, CC BY-SA 4.0, http://codh.rois.ac.jp/kmnist/",
    ),
    "stl10": Download(
        dataset="STL10",
        size_mb=2640,
        archives=_tar,
        splits=_WORD,
        source="Coates et al. 2011, of ImageNet's pictures, https://cs.stanford.edu/~acoates/stl10/",
        class_names=_STL10,
    ),
}
"""Name → data set. A new one is a new row."""


def read_download(name: str, reading: Reading, watch: runtime.Watch) -> Data:
    """From the cache, or fetched into it if `reading.download`. Raises DataError if it is not there and may not be
    fetched, cannot be fetched, or is not what it should be; TrainingStopped if the disk refuses."""
    from torchvision import datasets

    row = DOWNLOADS[name]
    dataset = getattr(datasets, row.dataset)
    here = f"; a folder of that name is ./{name}" if Path(name).exists() else ""
    root = files.cache_folder() / "downloads" / name
    if not root.is_dir():
        if not reading.download:
            raise DataError(
                f"{name}: not on this machine, and nothing is fetched unasked. "
                f"--download brings it, {row.size_mb:,} MB into {root}{here}"
            )
        _fetch(name, row, dataset, root, watch)
    parts = _open(name, row, dataset, root)
    listings = {}
    for split, part in parts.items():
        pixels = np.asarray(part.data)  # [N, H, W, 3], [N, 3, H, W] or [N, H, W], as the class has them
        if pixels.ndim == 4 and pixels.shape[1] == 3:
            pixels = pixels.transpose(0, 2, 3, 1)
        labels = np.asarray(part.targets if hasattr(part, "targets") else part.labels).astype(np.int64)
        listings[split] = listing_of(split, as_rgb(pixels, f"{name}: {split}"), labels)
    class_names = row.class_names or tuple(map(str, next(iter(parts.values())).classes))
    notes = (f"{name} is the data set of that name{here}",) if here else ()
    return Data(name, name, class_names, listings, notes)


def _open(name: str, row: Download, dataset: DatasetClass, root: Path) -> dict[str, Any]:
    """Split → the data set as torchvision reads it, after its checksums."""
    try:
        for archive in row.archives(dataset):
            if archive.path.endswith(".gz") and not archive.path.endswith(".tar.gz"):
                _check_unpacked(root / archive.path, archive.md5)
        return {split: dataset(root, **arguments) for split, arguments in row.splits.items()}
    except (OSError, RuntimeError, ValueError, EOFError, zlib.error) as error:
        raise DataError(
            f"{name}: its files in {root} are damaged ({error}). Remove that folder, then bring it anew: --download"
        ) from error


def _check_unpacked(archive: Path, md5: str) -> None:
    """torchvision does not look at these files again once they are unpacked: the archive's MD5 vouches for it, and the
    CRC-32 at its end for what was unpacked from it."""
    content, unpacked = archive.read_bytes(), archive.with_suffix("").read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"{archive.name} has another checksum")
    if zlib.crc32(unpacked) != int.from_bytes(content[-8:-4], "little"):
        raise ValueError(f"{archive.stem} has another checksum than when it was unpacked")


def _fetch(name: str, row: Download, dataset: DatasetClass, root: Path, watch: runtime.Watch) -> None:
    """Brings all of it into a folder of its own, unpacks and opens it there, then renames that folder to `root`.

    So two runs that fetch at once each have a whole one, and the first to be done gives the folder.
    """
    watch.line(f"downloading {name} ({row.size_mb:,} MB; {row.source}) into {root}")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=root.parent))
    except OSError as error:
        raise TrainingStopped(f"{root.parent}: cannot be written: {error.strerror}") from error
    try:
        fetched = 0

        def progress(num_bytes: int) -> None:
            nonlocal fetched
            fetched += num_bytes
            total = row.size_mb * 1_000_000
            watch.progress(f"downloading {name}", min(fetched, total - 1), total, f"{fetched / 1e6:,.0f} MB")

        for archive in row.archives(dataset):
            _fetch_archive(name, archive, temporary, progress)
        for arguments in row.splits.values():
            dataset(temporary, download=True, **arguments)  # finds the archives there, and only unpacks them
        for archive in row.archives(dataset):
            if archive.path.endswith(".tar.gz"):
                (temporary / archive.path).unlink()
        temporary.chmod(0o755)  # mkdtemp makes 0700; the cache may be shared
        try:
            temporary.rename(root)
        except OSError:
            if not root.is_dir():  # else another run was faster, and its files are as good
                raise
    except (OSError, RuntimeError, EOFError, zlib.error) as error:
        raise TrainingStopped(f"{name}: cannot be unpacked in {root.parent}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fetch_archive(name: str, archive: Archive, root: Path, progress: Callable[[int], None]) -> None:
    """From the first address that has the right bytes. Raises DataError with the reasons of all, OSError of a disk."""
    path, reasons = root / archive.path, []
    path.parent.mkdir(parents=True, exist_ok=True)
    for url in archive.urls:
        digest = hashlib.md5(usedforsecurity=False)
        try:
            with path.open("wb") as file:
                for chunk in _received(url):
                    file.write(chunk)
                    digest.update(chunk)
                    progress(len(chunk))
        except _UnreachableError as error:
            reasons.append(f"{url}: {error}")
            continue
        if digest.hexdigest() == archive.md5:
            return
        reasons.append(f"{url}: {path.stat().st_size:,} bytes, not with the data set's checksum (MD5 {archive.md5})")
    raise DataError(f"{name}: cannot be downloaded, and nothing was kept: {'; '.join(reasons)}")


class _UnreachableError(Exception):
    """Why an address does not answer."""


def _received(url: str) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            while chunk := answer.read(1 << 18):
                yield chunk
    except (OSError, HTTPException) as error:  # URLError, and so HTTPError, is an OSError
        raise _UnreachableError(str(getattr(error, "reason", None) or error or type(error).__name__)) from error
