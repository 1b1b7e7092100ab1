"""Doubtful labels, by what a model sees; and the check in short, at the start of a training."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, pixels
from PIL import Image
from test_check import QUIET, checked, copied, flowers, textured
from test_jobs import shapes

import wideresnet as wrn
from wideresnet import cli, data, runtime
from wideresnet.checkpoint import Card, save_model
from wideresnet.data import Pictures, check, decode_all
from wideresnet.data.check import quality, suspects
from wideresnet.data.check.brief import AT_MOST, _rows_at_once
from wideresnet.data.check.findings import IMBALANCE, KINDS
from wideresnet.data.check.near import ALIKE
from wideresnet.data.check.suspects import TIMES
from wideresnet.model import WideResNetClassifier
from wideresnet.preprocess import Preprocess

# Doubtful labels


def clusters(num: int, wrong: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, set[int]]:
    """Embeddings [num, 8] of three classes that lie apart, labels of which some are wrong, and which."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, num)
    embeddings = random.normal(size=(num, 8)) + 4 * np.eye(3, 8)[labels]
    changed = random.choice(num, wrong, replace=False)
    labels[changed] = (labels[changed] + random.integers(1, 3, wrong)) % 3
    return embeddings, labels, set(changed.tolist())


def test_wrong_labels_among_clear_classes_are_the_first_suspects_with_the_class_they_are() -> None:
    embeddings, labels, wrong = clusters(600, 30)
    probs, judged = check.out_of_sample(embeddings, labels, list(range(600)))
    found = suspects(probs, labels, judged)
    assert judged.all()
    rows = [one.row for one in found]
    assert set(rows) <= wrong
    assert len(rows) >= 28, f"{len(rows)} of 30"
    assert all(one.likely != labels[one.row] and one.confidence >= TIMES * one.of_label for one in found)


def test_who_is_suspected_does_not_depend_on_the_order_of_the_pictures() -> None:
    embeddings, labels, _ = clusters(300, 20)
    order = np.random.default_rng(1).permutation(300)
    first = suspects(*_judged(embeddings, labels, np.arange(300)))
    other = suspects(*_judged(embeddings[order], labels[order], order))
    assert {one.row for one in first} == {int(order[one.row]) for one in other}


def _judged(embeddings: np.ndarray, labels: np.ndarray, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    probs, judged = check.out_of_sample(embeddings, labels, [f"{mark:04d}".encode() for mark in marks])
    return probs, labels, judged


def test_copies_are_held_out_together_so_that_none_vouches_for_another() -> None:
    embeddings, labels, _ = clusters(300, 0)
    embeddings, labels = np.concatenate([embeddings, embeddings[:5]]), np.concatenate([labels, labels[:5]])
    labels[:5] = labels[300:] = (labels[:5] + 1) % 3  # five wrong ones, twice each
    marks = [*range(300), *range(5)]
    found = suspects(*_with(labels, check.out_of_sample(embeddings, labels, marks)))
    assert set(range(5)) | set(range(300, 305)) <= {one.row for one in found}


def _with(labels: np.ndarray, judged: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return judged[0], labels, judged[1]


@pytest.mark.parametrize("labels", [[0] * 20, [0] * 10 + [1], list(range(20)), [0, 0, 1, 1]])
def test_classes_too_small_to_judge_are_not_judged(labels: list[int]) -> None:
    embeddings = np.random.default_rng(0).normal(size=(len(labels), 4))
    probs, judged = check.out_of_sample(embeddings, np.array(labels), list(range(len(labels))))
    assert not judged.any()
    assert suspects(probs, np.array(labels), judged) == []


@pytest.mark.parametrize("as_many", [1, 2])
def test_a_class_of_copies_is_not_called_mislabelled(as_many: int) -> None:
    """Copies are held out as one: what the other parts learn of such a class is little, or nothing."""
    embeddings, labels, _ = clusters(300, 0)
    random = np.random.default_rng(2)
    copies = np.repeat(random.normal(size=(as_many, 8)), 20, axis=0)
    marks = [*range(300), *(-1 - i // 20 for i in range(20 * as_many))]
    embeddings, labels = np.concatenate([embeddings, copies]), np.concatenate([labels, [3] * len(copies)])
    probs, judged = check.out_of_sample(embeddings, labels, marks)
    assert judged[:300].all()
    assert not judged[300:].any()
    assert suspects(probs, labels, judged) == []


def test_a_picture_is_not_judged_where_its_class_was_held_out_whole() -> None:
    embeddings, labels, _ = clusters(300, 0)
    labels[:10] = 3  # ten different ones, each a copy of one of class 0 that is held out in the first part
    others = np.flatnonzero(labels == 0)
    order = sorted(others.tolist(), key=lambda row: str(1000 + row))
    marks = np.arange(1000, 1300)
    marks[:10] = marks[order[:50:5]]
    probs, judged = check.out_of_sample(embeddings, labels, marks.tolist())
    assert not judged[:10].any()
    assert judged[others].all()
    assert not {one.row for one in suspects(probs, labels, judged)} & set(range(10))


def test_a_model_whose_embeddings_are_no_numbers_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shapes(tmp_path / "set", {"disc": 10, "bar": 10})
    model = WideResNetClassifier(num_classes=2, depth=10, widen_factor=1)
    with torch.no_grad():
        next(iter(model.parameters())).fill_(1e38)
    preprocess = Preprocess(size=16, mean=(0.5,) * 3, std=(0.2,) * 3)
    card = Card(architecture=model.architecture, class_names=("bar", "disc"), preprocess=preprocess)
    save_model(tmp_path / "m.safetensors", model.state_dict(), card)
    code = cli.run(["data", "check", str(root), "--model", str(tmp_path / "m.safetensors"), "--device", "cpu"])
    err = capsys.readouterr().err
    assert (code, "Traceback" in err) == (2, False)
    assert re.search(r"m\.safetensors: its answers to 20 of 20 pictures are not finite, first to bar/", err)


def test_a_model_names_the_pictures_that_were_put_into_the_wrong_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shapes(tmp_path / "set", {"disc": 60, "bar": 60})
    wrn.train(root, arch="wrn_10_1", epochs=12, out=tmp_path / "run", watch=QUIET)
    moved = [root / "disc" / f"{i}.png" for i in range(3)]
    for path in moved:
        path.rename(root / "bar" / f"was-disc-{path.name}")
    code = cli.run(["data", "check", str(root), "--model", str(tmp_path / "run"), "--device", "cpu"])
    out = capsys.readouterr().out
    assert code == 0
    assert "pictures are rather of another class, as a model sees them" in out
    assert "the model was trained on" in out
    found = checked(root, model=tmp_path / "run")
    [finding] = [one for one in found.findings if one.kind == "suspect"]
    first = {one.pictures[0].name for one in finding.items[:5]}
    assert {f"bar/was-disc-{path.name}" for path in moved} <= first
    assert finding.items[0].note.startswith("rather disc: ")
    assert cli.run(["data", "check", str(root), "--model", str(tmp_path / "run"), "--device", "cuda:9"]) == 2


def test_the_page_of_the_docs_has_the_numbers_of_the_code() -> None:
    page = (ROOT / "docs" / "data-check.md").read_text(encoding="utf-8")
    words = {5: "five", 10: "ten", 4: "four"}
    assert f"another class is at least {words[TIMES]} times as likely as the label" in page
    assert f"Classes of fewer than {words[check.FEWEST]} different pictures are not judged" in page
    assert f"{words[IMBALANCE]} times as many pictures in one class as in another" in page
    assert f"{words[int(quality.LONG)]} times as long as wide" in page
    assert f"99 % of it below {quality.DARK + 1} or above {quality.BRIGHT - 1} of 255" in page
    assert f"under {quality.TINY} pixels" in page
    assert f"pictures below {check.SMALLEST} pixels are not compared" in page
    assert f"any two is at least {ALIKE:g}" in page
    assert f"above {AT_MOST:,} pictures" in page
    assert all(f"`{kind}`" in page for kind in KINDS)


# In short, at the start of a training

SMALL = Preprocess(size=32, mean=(0.0,) * 3, std=(1.0,) * 3)


def decoded(root: Path) -> tuple[dict[str, Pictures], tuple[str, ...]]:
    listing = data.read(root)
    return decode_all(listing, SMALL)[0], listing.class_names


def test_the_short_check_names_what_is_wrong_and_how_to_see_more(tmp_path: Path) -> None:
    paths = flowers(24)
    places = {f"train/many/{i}.jpg": path for i, path in enumerate(paths[:20])} | {"train/few/0.jpg": paths[20]}
    root = copied(tmp_path / "a set", {**places, "test/many/0.jpg": paths[21], "test/few/0.jpg": paths[22]})
    with Image.open(paths[0]) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "test" / "few" / "mirror.png")
    Image.new("RGB", (40, 40)).save(root / "train" / "many" / "blank.png")
    notes = check.brief(*decoded(root), str(root))
    assert [note.partition("; `wrn")[0] for note in notes] == [
        "many has 21 pictures and few has 1: --class-weights or --balanced help",
        "1 picture is blank, as train/many/blank.png",
        "1 pair is nearly the same in two splits, which flatters the figures, as test/few/mirror.png and "
        "train/many/0.jpg",
        "1 pair is nearly the same and differently labelled, as test/few/mirror.png (few) and train/many/0.jpg (many)",
    ]
    assert all(note.endswith(f"; `wrn data check '{root}'` shows more") for note in notes)


def test_the_short_check_has_nothing_to_say_of_clean_data(tmp_path: Path) -> None:
    listing = data.read("digits")
    parts, _ = decode_all(listing, Preprocess(size=8, mean=(0.0,) * 3, std=(1.0,) * 3))
    assert check.brief(parts, listing.class_names, "digits") == []
    root = copied(tmp_path / "set", {f"{path.parent.name}/{path.name}": path for path in flowers(100)})
    assert check.brief(*decoded(root), str(root)) == []


def test_a_training_says_it_and_its_figures_do_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = shapes(tmp_path / "set", {"disc": 40, "bar": 40})
    Image.new("RGB", (20, 20)).save(root / "bar" / "blank.png")
    lines = list[str]()
    watch = runtime.Watch(line=lines.append)
    first = wrn.train(root, arch="wrn_10_1", epochs=1, size=16, out=tmp_path / "a", watch=watch)
    assert [line for line in lines if "1 picture is blank, as bar/blank.png; `wrn data check" in line]
    monkeypatch.setattr(check, "brief", lambda *_: [])
    second = wrn.train(root, arch="wrn_10_1", epochs=1, size=16, out=tmp_path / "b", watch=QUIET)
    assert np.array_equal(first.evaluation.logits, second.evaluation.logits)


def test_the_short_check_takes_a_moment() -> None:
    """2,000 pictures of 32×32: a training of them takes minutes."""
    images = torch.stack(
        [torch.from_numpy(np.asarray(textured(i % 50, 32)).copy()).permute(2, 0, 1) for i in range(50)]
    )
    random = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (2000, 3, 32, 32), generator=random, dtype=torch.uint8)
    noise[:50] = images
    names = tuple(map(str, range(2000)))
    digests = tuple(name.encode() for name in names)
    parts = {"train": Pictures(noise, torch.arange(2000) % 2, names, digests)}
    assert pixels(parts["train"]).shape == (2000, 3, 32, 32)
    check.brief(parts, ("a", "b"), "x")  # its matrices are made once
    start = time.process_time()
    assert check.brief(parts, ("a", "b"), "x") == []
    assert time.process_time() - start < 5


@pytest.mark.parametrize(("side", "said"), [(12, False), (20, False), (40, True)])
def test_pictures_that_training_enlarges_are_not_compared_in_short(tmp_path: Path, side: int, said: bool) -> None:
    """Digits of 8×8 at --size 32, say: many are nearly the same there."""
    root = copied(tmp_path / "set", {f"train/{'xy'[i % 2]}/{i}.png": path for i, path in enumerate(flowers(20))})
    (root / "test" / "x").mkdir(parents=True)
    with Image.open(flowers(1)[0]) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "test" / "x" / "mirror.png")
    for path in root.rglob("*.png"):
        with Image.open(path) as image:
            small = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        small.save(path)
    lines = list[str]()
    watch = runtime.Watch(line=lines.append)
    wrn.train(root, arch="wrn_10_1", epochs=1, size=32, out=tmp_path / "run", watch=watch)
    assert any("1 pair is nearly the same in two splits" in line for line in lines) == said


def test_a_copy_in_another_split_counts_in_short_too(tmp_path: Path) -> None:
    a, b = flowers(2)
    root = copied(tmp_path / "set", {"train/x/a.jpg": a, "test/x/a.jpg": a, "test/x/b.jpg": b})
    with Image.open(a) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "test" / "x" / "mirror.png")
    [note] = [note for note in check.brief(*decoded(root), "x") if "two splits" in note]
    assert "1 pair is nearly the same in two splits" in note
    assert "train/x/a.jpg" in note


@pytest.mark.parametrize("size", [8, 32, 224, 640, 4000])
def test_the_short_check_takes_little_memory_whatever_the_size_of_the_pictures(size: int) -> None:
    rows, of_one = _rows_at_once((10**6, 3, size, size)), 4 * 3 * size**2
    assert rows >= 1
    assert rows == 1 or rows * of_one <= 16 * 2**20


def test_the_short_check_reads_no_more_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, of_torch = list[int](), torch.nn.functional.interpolate

    def counted(images: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        taken.append(images.nbytes)
        return of_torch(images, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "interpolate", counted)
    images = torch.randint(0, 256, (40, 3, 256, 256), dtype=torch.uint8)
    names = tuple(map(str, range(40)))
    check.brief({"train": Pictures(images, torch.arange(40) % 2, names, tuple(map(str.encode, names)))}, "ab", "x")
    assert len(taken) == 2
    assert max(taken) <= 16 * 2**20
