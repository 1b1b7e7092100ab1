"""Arrays of pictures → `Data`: .npz files, and the digits that scikit-learn carries."""

import unicodedata
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wideresnet.data.listing import ALL, SPLITS, Data, Listing
from wideresnet.errors import DataError

# What numpy, zipfile and zlib raise on files that are something else, are damaged or hold objects.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    SyntaxError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(path: Path) -> Data:
    """Keys `<split>_images` uint8 [N, H, W, 3], [N, H, W] or [N, H, W, 1], `<split>_labels` integers [N], and
    optionally `class_names` [C]; without a split in the names, `images` and `labels`. Raises DataError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except _UNREADABLE as error:
        raise DataError(f"{path}: not a readable .npz of plain arrays: {error}") from error
    keys = {split: (f"{split}_images", f"{split}_labels") for split in SPLITS} | {ALL: ("images", "labels")}
    present = {split: pair for split, pair in keys.items() if any(key in arrays for key in pair)}
    if ALL in present and len(present) > 1:
        raise DataError(f"{path}: has both `images` and `<split>_images`; keep one of the two")
    if not present:
        raise DataError(f"{path}: keys {sorted(arrays)}; expected train_images and train_labels, or images and labels")
    for pair in present.values():
        for key in pair:
            if key not in arrays:
                raise DataError(f"{path}: {key} is missing beside {next(k for k in pair if k != key)}")

    labels = {split: _labels(arrays[pair[1]], f"{path}: {pair[1]}") for split, pair in present.items()}
    class_names = _class_names(arrays, labels, path)
    listings = {}
    for split, (images_key, labels_key) in present.items():
        images = as_rgb(arrays[images_key], f"{path}: {images_key}")
        if len(images) != len(labels[split]):
            raise DataError(f"{path}: {len(images)} {images_key}, but {len(labels[split])} {labels_key}")
        listings[split] = listing_of(split, images, labels[split])
    return Data(path.stem, str(path.resolve()), class_names, listings)


def read_digits() -> Data:
    """1,797 handwritten digits of 8×8 pixels, 10 classes, from scikit-learn (UCI ML repository, Alpaydin & Kaynak)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    gray = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8], values 0…16 in the original
    listing = listing_of(ALL, as_rgb(gray, "digits"), bunch.target.astype(np.int64))
    return Data("digits", "digits", tuple(map(str, bunch.target_names)), {ALL: listing})


def listing_of(split: str, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> Listing:
    """Pictures of an array, called "train[17]"."""
    return Listing(images, tuple(f"{split}[{i}]" for i in range(len(images))), labels)


def as_rgb(images: npt.NDArray[np.generic], where: str) -> npt.NDArray[np.uint8]:
    """As uint8 [N, H, W, 3]; one channel is shown three times, without a copy."""
    shape = f"{where}: {images.dtype} {list(images.shape)}"
    if images.dtype != np.uint8:
        raise DataError(f"{shape}; expected uint8, 0 to 255. Scale and round floats first: (x * 255).round()")
    if images.ndim == 4 and images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
        raise DataError(f"{shape} has its channels first; expected [N, H, W, 3]: images.transpose(0, 2, 3, 1)")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape[1:]:
        raise DataError(f"{shape}; expected [N, H, W, 3], [N, H, W, 1] or [N, H, W]")
    return np.broadcast_to(images, (*images.shape[:3], 3))


def _labels(labels: npt.NDArray[np.generic], where: str) -> npt.NDArray[np.int64]:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{where}: {labels.dtype} {list(labels.shape)}; expected integers [N], counted from 0")
    if len(labels) and labels.min() < 0:
        raise DataError(f"{where}[{int(np.argmin(labels))}] is {labels.min()}; expected labels counted from 0")
    if len(labels) and labels.max() > np.iinfo(np.int64).max:  # uint64: a signed number would wrap
        raise DataError(f"{where}[{int(np.argmax(labels))}] is {labels.max()}; expected labels counted from 0")
    return labels.astype(np.int64)


def _class_names(
    arrays: Mapping[str, npt.NDArray[np.generic]], labels: Mapping[str, npt.NDArray[np.int64]], path: Path
) -> tuple[str, ...]:
    largest = max((int(values.max()) for values in labels.values() if len(values)), default=-1)
    if "class_names" not in arrays and largest > max(1000, sum(map(len, labels.values()))):
        split, row = next((s, int(np.argmax(v))) for s, v in labels.items() if len(v) and v.max() == largest)
        raise DataError(
            f"{path}: the largest label is {largest} ({split} label {row}); labels count the classes from 0"
        )
    if "class_names" not in arrays:
        return tuple(str(label) for label in range(largest + 1))
    if arrays["class_names"].ndim != 1:
        raise DataError(f"{path}: class_names {list(arrays['class_names'].shape)}; expected one name a class, [C]")
    texts = (n.decode(errors="replace") if isinstance(n, bytes) else str(n) for n in arrays["class_names"].tolist())
    names = tuple(unicodedata.normalize("NFC", name) for name in texts)
    if len(set(names)) < len(names):
        raise DataError(f"{path}: class_names has the same name twice")
    for split, values in labels.items():
        if len(values) and values.max() >= len(names):
            row = int(np.argmax(values))
            raise DataError(f"{path}: {split} label {row} is {values[row]}, but class_names has {len(names)} names")
    return names
