"""Doubtful labels, by what a model sees; and the check in short, at the start of a training."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pixels
from PIL import Image
from test_check import QUIET, checked, copied, flowers, textured
from test_jobs import shapes

import wideresnet as wrn
from wideresnet import cli, data, runtime
from wideresnet.data import Pictures, check, decode_all
from wideresnet.data.check import suspects
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
    assert all(one.likely != labels[one.row] and one.confidence >= 5 * one.of_label for one in found)


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
