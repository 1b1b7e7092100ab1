"""`wrn data check`: what is planted is found, what is clean stays unnamed, and a cleaned copy trains."""

import io
import json
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

import wideresnet as wrn
from wideresnet import runtime
from wideresnet.data import check
from wideresnet.data.arrays import listing_of
from wideresnet.data.check import Finding, near
from wideresnet.data.check.looks import thumbnail
from wideresnet.data.listing import ALL, Data
from wideresnet.errors import DataError
from wideresnet.jobs import DataCheck

QUIET = runtime.QUIET


def flowers(num: int) -> list[Path]:
    """Photographs, as many of each class."""
    by_class = [sorted(folder.glob("*.jpg")) for folder in sorted(shared("data/flowers").iterdir())]
    return list(chain.from_iterable(zip(*by_class, strict=False)))[:num]


def copied(root: Path, places: dict[str, Path]) -> Path:
    """{"train/rose/a.jpg": file} → that folder."""
    for name, path in places.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, root / name)
    return root


def textured(seed: int, size: int = 40) -> Image.Image:
    """A picture with something on it at every scale, as photographs have."""
    random = np.random.default_rng(seed)
    noise = (Image.fromarray(random.integers(0, 256, (s, s, 3), dtype=np.uint8)) for s in (2, 4, 8, 16))
    layers = [one.resize((size, size), Image.Resampling.BICUBIC) for one in noise]
    weights = (0.35, 0.25, 0.2, 0.2)
    mixed = sum(w * np.asarray(layer, dtype=np.float32) for w, layer in zip(weights, layers, strict=True))
    return Image.fromarray(np.asarray(mixed).astype(np.uint8))


def arrays(images: list[Image.Image], labels: list[int] | None = None) -> Data:
    """Pictures of one size, without splits."""
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
    given_labels = np.array(labels if labels is not None else [i % 2 for i in range(len(images))], dtype=np.int64)
    names = tuple("abcdefgh"[: int(given_labels.max()) + 1])
    return Data("made", "made", names, {ALL: listing_of(ALL, pixels, given_labels)})


def found_in(listing: Data) -> list[Finding]:
    seen = check.gallery(listing, {split: check.look(one) for split, one in listing.splits.items()})
    twins = check.duplicates(seen.digests, seen.thumbnails, seen.comparable(check.SMALLEST))
    return check.find(seen, twins)


def names(checked: DataCheck, kind: str) -> list[tuple[str, ...]]:
    """Of each thing of that kind its pictures."""
    return [
        tuple(one.name for one in item.pictures)
        for finding in checked.findings
        if finding.kind == kind
        for item in finding.items
    ]


def checked(folder: Path, **options: object) -> DataCheck:
    return wrn.check_data(folder, watch=QUIET, **options)  # type: ignore[arg-type]


# What is found

JPEG = io.BytesIO


def recompressed(image: Image.Image) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=60)
    return Image.open(io.BytesIO(content.getvalue()))


CHANGED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "recompressed": recompressed,
    "resized": lambda image: image.resize((image.width * 3 // 5, image.height * 3 // 5), Image.Resampling.BICUBIC),
    "enlarged": lambda image: image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC),
    "flipped": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "cropped": lambda image: image.crop((0, image.height // 12, image.width * 11 // 12, image.height)),
    "brighter": lambda image: image.point(lambda value: min(255, value + 20)),
}


@pytest.mark.parametrize("how", CHANGED)
def test_a_photograph_is_found_again_however_it_was_changed(tmp_path: Path, how: str) -> None:
    places = {f"train/{path.parent.name}/{path.name}": path for path in flowers(40)}
    root, lost = copied(tmp_path / "set", places), []
    for path in flowers(10):
        (root / "test" / path.parent.name).mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            CHANGED[how](image.convert("RGB")).save(root / "test" / path.parent.name / f"{path.stem}.png")
        lost.append((f"test/{path.parent.name}/{path.stem}.png", f"train/{path.parent.name}/{path.name}"))
    found = names(checked(root), "near-leak")
    assert sorted(map(sorted, found)) == sorted(map(sorted, lost)), how


def test_different_photographs_are_not_called_the_same(tmp_path: Path) -> None:
    found = checked(copied(tmp_path / "set", {f"{path.parent.name}/{path.name}": path for path in flowers(200)}))
    # These two pairs are: one in colour and in black and white, one taken twice.
    assert [[Path(name).name[:11] for name in pair] for pair in names(found, "near-duplicate")] == [
        ["10466290366", "10994032453"],
        ["10993710036", "10993818044"],
    ]


def test_digits_are_too_small_for_near_duplicates_and_nothing_is_wrong_with_them() -> None:
    found = wrn.check_data("digits", watch=QUIET)
    assert (found.num_images, found.findings) == (1797, ())
    assert "near duplicates were not looked for among 1,797 pictures" in found.notes[0]


def test_exact_copies_are_told_apart_by_where_they_are_and_what_they_are_called(tmp_path: Path) -> None:
    a, b, c, d = flowers(4)
    root = copied(
        tmp_path / "set",
        {"train/x/a.jpg": a, "test/x/a2.jpg": a, "train/x/b.jpg": b, "train/y/b2.jpg": b, "train/y/c.jpg": c,
         "train/y/c2.jpg": c, "train/x/d.jpg": d, "test/y/e.jpg": flowers(5)[4]},
    )  # fmt: skip
    found = checked(root)
    assert [sorted(one) for one in names(found, "leak")] == [["test/x/a2.jpg", "train/x/a.jpg"]]
    assert names(found, "clash") == [("train/x/b.jpg", "train/y/b2.jpg")]
    assert names(found, "duplicate") == [("train/y/c.jpg", "train/y/c2.jpg")]
    assert {one.kind for one in found.findings} == {"leak", "clash", "duplicate"}
    assert found.failed


def test_near_copies_with_different_labels_are_said_to_be_so(tmp_path: Path) -> None:
    a, b = flowers(2)
    root = copied(tmp_path / "set", {"x/a.jpg": a, "x/b.jpg": b})
    (root / "y").mkdir()
    with Image.open(a) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "y" / "mirror.png")
    [finding] = [one for one in checked(root).findings if one.kind == "near-clash"]
    assert finding.count == 1
    assert "in the mirror" in finding.items[0].note


@settings(max_examples=20)
@given(order=st.permutations(range(12)))
def test_what_is_found_is_the_same_in_whatever_order_the_pictures_are(order: list[int]) -> None:
    originals = [textured(seed) for seed in range(6)]
    copies = [originals[0], originals[1], *(one.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for one in originals[2:6])]
    images = originals + copies
    found = found_in(arrays([images[i] for i in order], [i % 2 for i in order]))
    pairs = {
        (finding.kind, frozenset(order[place.row] for place in item.pictures))
        for finding in found
        for item in finding.items
    }
    # 0 and 6, 1 and 7 have one label each, as have 2 and 8…
    assert pairs == {("duplicate", frozenset({i, i + 6})) for i in (0, 1)} | {
        ("near-duplicate", frozenset({i, i + 6})) for i in (2, 3, 4, 5)
    }


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    left=st.floats(0, 1),
    top=st.floats(0, 1),
    share=st.floats(0.88, 1),
    mirror=st.booleans(),
)
def test_a_part_of_a_picture_is_like_the_whole_wherever_it_lies(
    seed: int, left: float, top: float, share: float, mirror: bool
) -> None:
    image, other = textured(seed, 96), textured(seed + 1, 96)
    side = round(96 * share)
    x, y = round((96 - side) * left), round((96 - side) * top)
    part = image.crop((x, y, x + side, y + side))
    part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror and share > 0.98 else part
    small = np.stack([thumbnail(one) for one in (image, other, part)])
    assert [(one.first, one.second) for one in near.near_pairs(small, np.arange(3))] == [(0, 2)]


def test_unreadable_files_are_named_with_their_reasons_and_the_others_are_looked_at(tmp_path: Path) -> None:
    manifest = json.loads(shared("data/messy/MANIFEST.json").read_text(encoding="utf-8"))
    folder = shared("data/messy/single")
    errors = [name.removeprefix("single/") for name, one in manifest.items() if one.get("expect") == "error"]
    bad = [name for name in errors if (folder / name).exists() and name.endswith((".jpg", ".png"))]
    bad = [name for name in bad if "bomb" not in name]
    good = flowers(4)
    root = copied(
        tmp_path / "set", {f"a/{name}": folder / name for name in bad} | {f"b/{one.name}": one for one in good}
    )
    found = checked(root)
    assert sorted(names(found, "unreadable")) == sorted((f"a/{name}",) for name in bad)
    [finding] = [one for one in found.findings if one.kind == "unreadable"]
    assert all(item.note for item in finding.items)
    assert (found.num_images, found.failed) == (4, True)


def test_odd_pictures_are_found_each_by_its_kind(tmp_path: Path) -> None:
    root = copied(tmp_path / "set", {f"{path.parent.name}/{path.name}": path for path in flowers(60)})
    odd = root / "daisy"
    with Image.open(flowers(61)[60]) as image:
        photo = image.convert("RGB")
    photo.filter(ImageFilter.GaussianBlur(5)).save(odd / "blurred.png")
    photo.point(lambda value: value // 8).save(odd / "dark.png")
    photo.point(lambda value: 225 + value // 9).save(odd / "bright.png")
    Image.new("RGB", (90, 90), (40, 90, 160)).save(odd / "blank.jpg")
    photo.resize((1, 1)).save(odd / "pixel.png")
    photo.resize((400, 60)).save(odd / "long.png")
    photo.resize((20, 20)).save(odd / "small.png")
    photo.convert("L").save(odd / "gray.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    textured(5, 90).save(odd / "turned.jpg", exif=exif)
    found = checked(root)
    expected = {
        "blurred": ["blurred.png"],
        "dark": ["dark.png"],
        "bright": ["bright.png"],
        "blank": ["blank.jpg", "pixel.png"],
        "tiny": ["pixel.png"],
        "elongated": ["long.png"],
        "small": ["small.png"],
        "colours": ["gray.png"],
        "turned": ["turned.jpg"],
    }
    for kind, those in expected.items():
        assert sorted(name for (name,) in names(found, kind)) == [f"daisy/{name}" for name in those], kind
    assert found.facts["colours"] == {"RGB": 68, "grey": 1}


# Classes and splits


def test_classes_and_splits_that_cannot_be_right_are_told(tmp_path: Path) -> None:
    paths = flowers(40)
    places = {f"train/many/{i}.jpg": path for i, path in enumerate(paths[:30])} | {"train/one/0.jpg": paths[30]}
    places |= {"test/many/0.jpg": paths[31], "test/new/0.jpg": paths[32]}
    root = copied(tmp_path / "set", places)
    (root / "val" / "many").mkdir(parents=True)
    kinds = {one.kind: one.sentence for one in checked(root).findings}
    assert kinds == {
        "empty-split": "No picture that can be read is in val.",
        "never-trained": "1 class is there, but not in train: new.",
        "imbalance": "many has 30 pictures to train on and one has 1, 1 for 30.",
        "one-picture": "1 class is there with one picture to train on: one.",
        "never-judged": "1 class is trained on, but in neither val nor test: one.",
    }


@pytest.mark.parametrize("size", [1, 2, 7, 16, 33])
def test_pictures_of_one_colour_and_one_class_are_no_reason_to_fail(size: int) -> None:
    found = found_in(arrays([Image.new("RGB", (size, size), (i, i, i)) for i in range(3)], [0, 0, 0]))
    assert {"one-class", "blank"} <= {one.kind for one in found}
    assert "near-duplicate" not in {one.kind for one in found}


def test_data_without_a_picture_is_refused(tmp_path: Path) -> None:
    none = {"images": np.zeros((0, 8, 8, 3), np.uint8), "labels": np.zeros(0, np.int64)}
    np.savez(tmp_path / "none.npz", **none)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no picture to look at"):
        checked(tmp_path / "none.npz")


# Data whose pictures are all alike


def digits(num: int) -> list[Image.Image]:
    """Handwritten ones, enlarged to the size of MNIST's."""
    from sklearn.datasets import load_digits

    gray = np.round(load_digits().images[:num] * (255 / 16)).astype(np.uint8)
    return [Image.fromarray(one).resize((28, 28), Image.Resampling.BICUBIC) for one in gray]


def aligned(num: int) -> list[Image.Image]:
    """Two lungs each, in one place, and noise of their own."""
    random, (y, x) = np.random.default_rng(0), np.mgrid[:64, :64] / 32 - 1
    both = sum(90 * np.exp(-6 * ((x - side) ** 2 + y**2 / 2)) for side in (-0.4, 0.4))
    noisy = (120 + both + random.normal(0, 12, (64, 64)) for _ in range(num))
    return [Image.fromarray(one.clip(0, 255).astype(np.uint8)) for one in noisy]


@pytest.mark.parametrize(("make", "num"), [(digits, 600), (aligned, 120)])
def test_of_pictures_that_are_all_alike_none_is_called_a_copy_and_none_left_out(
    tmp_path: Path, make: Callable[[int], list[Image.Image]], num: int
) -> None:
    images = np.stack([np.asarray(one) for one in make(num)])
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(num) % 2)
    found = checked(tmp_path / "set.npz", fix=tmp_path / "clean.npz")
    assert (found.left_out, names(found, "near-duplicate"), names(found, "near-clash")) == ((), [], [])
    assert [note for note in found.notes if "are all alike: near copies cannot be told from them" in note]


def test_photographs_with_many_copies_of_each_are_not_all_alike(tmp_path: Path) -> None:
    root = copied(tmp_path / "set", {f"x/{path.stem}.jpg": path for path in flowers(10)})
    for path in flowers(10):
        with Image.open(path) as image:
            for quality in (30, 50, 70):
                image.convert("RGB").save(root / "x" / f"{path.stem}-{quality}.jpg", quality=quality)
    found = checked(root, fix=tmp_path / "clean")
    assert len(found.left_out) == 30
    assert not [note for note in found.notes if "alike" in note]


def test_a_copy_leaves_out_what_is_like_a_picture_that_stays_not_what_is_linked_to_one_by_others() -> None:
    images = [textured(seed) for seed in range(5)]
    listing = arrays(images, [0, 0, 0, 0, 1])
    seen = check.gallery(listing, {split: check.look(one) for split, one in listing.splits.items()})
    links = [(0, 1), (1, 2), (2, 3), (3, 4)]
    chain_of = check.Duplicates((), tuple(near.Pair(a, b, False, 0.99) for a, b in links), 5)
    # 1 is like 0, which stays; 2 is like 1 alone, which does not; 4 has another label than 3.
    assert check.left_out(seen, chain_of) == {1: "nearly the same as all[0]", 3: "nearly the same as all[2]"}
