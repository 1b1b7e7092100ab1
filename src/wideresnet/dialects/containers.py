"""A checkpoint file of another project → what lies in it: mappings, plain values and tensors, as its author saved them.

What the file is, its first bytes say, whatever its name. No pickle is opened unless trusted, and then by torch's
restricted loader, which builds tensors and plain values and runs no code of the file's.
"""

import io
import pickle
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from wideresnet.dialects import pickles
from wideresnet.errors import ModelFileError, UsageError, missing_extra

WRITTEN = (".pth", ".pt", ".safetensors", ".npz")
_HEAD = 512
_KERAS_LEAVES: dict[str, tuple[str, ...]] = {  # in the order in which Keras 3 numbers them
    "conv2d": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "dense": ("kernel", "bias"),
}
# Formats that are known and not read: how the file begins (or is named) → what it is, and what to do.
_REFUSED: tuple[tuple[bytes, str], ...] = (
    (rb"\x93NUMPY", "a NumPy .npy file; JAX and haiku pickle whole objects into these: save its arrays as .npz"),
    (
        rb"[\x01-\x07]\0\0\0[\x01-\x0a]\0\0\0",
        "a Lua Torch .t7 file, which is not read: convert it where Lua Torch runs",
    ),
    (rb"(\xef\xbb\xbf)?\s*<", "a web page or XML: a download that failed? Fetch it again"),
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (rb"\x1f\x8b", "compressed by gzip: unpack it first"),
    (rb"BZh|7z\xbc\xaf|\xfd7zXZ|Rar!", "a compressed archive: unpack it first"),
)
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.|\.index\.json$")
_TENSORFLOW = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5}|pb|ckpt)$")


def read(path: Path, *, trust_pickle: bool = False) -> Any:
    """Raises ModelFileError, saying what the file is and what can be done, where it is not read."""
    if path.is_dir():
        what = "a TensorFlow SavedModel" if (path / "saved_model.pb").exists() else "a folder"
        raise ModelFileError(f"{path}: {what}; expected one checkpoint file")
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file; expected a checkpoint")
    if _SHARD.search(path.name):
        raise ModelFileError(f"{path}: one part of a sharded checkpoint; join its parts into one file first")
    if _TENSORFLOW.search(path.name):
        raise ModelFileError(
            f"{path}: a TensorFlow checkpoint (TF1 or TensorBundle), which is not read; save its variables as .npz"
        )
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        raise ModelFileError(f"{path}: empty; fetch it again")
    for pattern, what in _REFUSED:
        if re.match(pattern, head):
            raise ModelFileError(f"{path}: {what}")
    try:
        return _reader(path, head, trust_pickle=trust_pickle)()
    except (ModelFileError, UsageError):
        raise
    except MemoryError as error:
        raise ModelFileError(f"{path}: says that it holds more than there is memory for; damaged?") from error
    except Exception as error:  # a file of anybody's making, read by four libraries
        raise ModelFileError(f"{path}: damaged or cut short; fetch it again ({_first_line(error)})") from error


def _reader(path: Path, head: bytes, *, trust_pickle: bool) -> Callable[[], Any]:
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return lambda: _keras(path)
    if head.startswith(b"PK\x03\x04"):
        names = zipfile.ZipFile(path).namelist()
        if any(name.endswith(".npy") for name in names):
            return lambda: _npz(path)
        if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
            raise ModelFileError(f"{path}: TorchScript, a program with its weights; save the module's state_dict()")
        if not any(name.endswith("data.pkl") for name in names):
            raise ModelFileError(f"{path}: a ZIP archive of {', '.join(names[:3]) or 'nothing'}; unpack it first")
    elif head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return lambda: _safetensors(path)
    elif not head.startswith(b"\x80") and path.suffix.lower() not in (
        ".pkl",
        ".pickle",
    ):  # protocols 0 and 1 have no mark
        if tarfile.is_tarfile(path):
            raise ModelFileError(f"{path}: a tar archive (torch before 0.4 wrote those); save it anew by a later torch")
        raise ModelFileError(f"{path}: of no known format; expected .pt, .pth, .pkl, .safetensors, .npz or .h5")
    if not trust_pickle:
        raise ModelFileError(
            f"{path}: a pickle, as torch.save writes it. Say --trust-pickle to read it: its tensors and plain values "
            "are taken, and no code in it is run"
        )
    return lambda: _pickle(path, raw=not _by_torch(head))


def _by_torch(head: bytes) -> bool:
    """Whether torch.save wrote it: a ZIP, or before 1.6 a pickle that begins with torch's magic number."""
    return head.startswith(b"PK") or b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19" in head[:32]


def _safetensors(path: Path) -> dict[str, Tensor]:
    with safetensors.safe_open(path, framework="pt") as file:
        if "wideresnet" in (file.metadata() or {}):
            raise ModelFileError(f"{path}: a model file of ours already; there is nothing to import")
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping


def _npz(path: Path) -> dict[str, Tensor]:
    import numpy as np

    found = dict[str, Tensor]()
    with zipfile.ZipFile(path) as archive:  # before NumPy is asked: it opens a pickle for arrays of objects
        for member in archive.namelist():
            with archive.open(member) as file:
                if b"'descr': '|O'" in file.read(_HEAD):
                    raise ModelFileError(
                        f"{path}: {member} is an array of Python objects, a pickle; save numbers alone"
                    )
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            array = arrays[key]
            if array.dtype.kind not in "fiub":
                raise ModelFileError(f"{path}: {key} is of the type {array.dtype}; expected numbers")
            found[key] = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    return found


def _pickle(path: Path, *, raw: bool) -> Any:
    try:
        return pickles.read_raw(path) if raw else pickles.read_torch(path)
    except (pickle.UnpicklingError, AttributeError, ModuleNotFoundError) as error:
        raise ModelFileError(f"{path}: {_what_it_wants(str(error))}") from error


def _what_it_wants(message: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)|forbidden: ([\w.]+)", message)
    if found is None:
        return f"a pickle that cannot be read without running code ({_first_line(message)})"
    module, _, kind = (found[1] or found[2]).rpartition(".")
    wants = f"a pickle that wants {module or 'builtins'}.{kind}, code which is not run"
    # A recipe for running it is given for a project's own class alone; what the standard library has is no network.
    if not module or module.partition(".")[0] in {*sys.stdlib_module_names, "torch", "numpy", "posix", "nt"}:
        return f"{wants}: no weights need it; leave this file"
    return (
        f'{wants}. If you trust its author, where {module} is at hand: python -c "import torch; '
        "m = torch.load('FILE', weights_only=False); torch.save(getattr(m, 'state_dict', lambda: m)(), 'weights.pth')\""
    )


def _keras(path: Path) -> dict[str, Tensor]:
    """Keras 2's and 3's weights, of a whole model or alone: "conv2d_1/kernel" → tensor, layers counted from the first.

    A session that made other networks before counts on from theirs; the order stays. Links are not followed.
    """
    try:
        import h5py
    except ImportError as error:
        raise missing_extra(f"{path}: reading Keras's .h5", "keras") from error
    layers = dict[str, dict[str, Tensor]]()
    with h5py.File(path, "r") as file:
        root = file.get("model_weights", file)
        datasets = dict[str, Any]()
        root.visititems(lambda name, item: datasets.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        for name, item in datasets.items():
            if item.external or item.is_virtual or item.dtype.kind not in "fiub":
                raise ModelFileError(f"{path}: {name} is no array of numbers of this file's own")
            layer, leaf = _keras_place(name)
            if layer not in ("optimizer", "optimizer_weights", "top_level_model_weights"):
                layers.setdefault(layer, {})[leaf] = torch.from_numpy(item[()])
    if any(name.startswith("convolution2d") for name in layers):
        raise ModelFileError(
            f"{path}: of Keras 1, whose kernels may be mirrored (Theano) with nothing in the file to tell; "
            "load and save it by Keras 2 first"
        )
    found = dict[str, Tensor]()
    for kind in _KERAS_LEAVES:
        names = [name for name in layers if re.sub(r"_\d+$", "", name) == kind]
        for number, name in enumerate(sorted(names, key=lambda name: int((re.search(r"_(\d+)$", name) or [0, 0])[1]))):
            numbered = f"{kind}_{number}" if number else kind
            found |= {f"{numbered}/{leaf}": value for leaf, value in layers.pop(name).items()}
    # Layers of a kind that no Wide ResNet has: kept under their names, so that no rule takes the file for one.
    return found | {f"{name}/{leaf}": value for name, parts in layers.items() for leaf, value in parts.items()}


def _keras_place(name: str) -> tuple[str, str]:
    """Where a dataset lies → layer and weight. Keras 3's .weights.h5 has layers/LAYER/vars/NUMBER."""
    parts = name.split("/")
    if parts[0] != "layers" or len(parts) < 3:
        return parts[0], parts[-1].removesuffix(":0")
    layer, number = parts[1], parts[-1]
    known = _KERAS_LEAVES.get(re.sub(r"_\d+$", "", layer), ())
    return layer, known[int(number)] if number.isdecimal() and int(number) < len(known) else "/".join(parts[2:])


def _first_line(error: object) -> str:
    return str(error).strip().split("\n")[0][:200]


def has_tensors(tree: Any, least: int = 3) -> bool:
    """Whether `tree` is a state dict: a mapping with tensors, `least` of them at least of two dimensions."""
    if not isinstance(tree, Mapping):
        return False
    weights = [value for value in tree.values() if isinstance(value, Tensor) and value.dim() > 1]
    return len(weights) >= least and all(isinstance(key, str) for key in tree)


def content(tensors: Mapping[str, Tensor], suffix: str) -> bytes:
    """The bytes of a checkpoint file that ends in `suffix`, one of `WRITTEN`."""
    if suffix == ".safetensors":
        return save({key: value.contiguous() for key, value in tensors.items()})
    buffer = io.BytesIO()
    if suffix == ".npz":
        import numpy as np

        arrays: dict[str, Any] = {key: value.numpy() for key, value in tensors.items()}
        np.savez(buffer, **arrays)
    else:
        torch.save(dict(tensors), buffer)
    return buffer.getvalue()
