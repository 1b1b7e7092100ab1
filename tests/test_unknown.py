"""Unknown pictures: the score, its figures, what a model file keeps of it, and what `--ood` tells."""

import csv
import dataclasses
import importlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import roc_auc_score, roc_curve
from test_processes import WRN, torchrun

import wideresnet as wrn
from wideresnet import classification, metrics, prediction
from wideresnet import data as data_room
from wideresnet.checkpoint import ModelFile, load_model, save_model
from wideresnet.cli import run
from wideresnet.data import Pictures, Stream
from wideresnet.engines import Engine
from wideresnet.errors import DataError, ModelFileError
from wideresnet.evaluation import OodFigures
from wideresnet.jobs.evaluation import parts_of_training
from wideresnet.jobs.unknown import FIT_ON
from wideresnet.metrics.unknown import across

QUICK: dict[str, Any] = {"arch": "wrn_10_1", "epochs": 3, "watch": wrn.Watch()}
scores = st.integers(1, 60).flatmap(
    lambda n: arrays(np.float64, n, elements=st.sampled_from([-1.5, 0.0, 0.25, 1e-9, 3.0, 1e12]) | st.floats(-9, 9))
)


@given(known=scores, unknown=scores)
@example(known=np.zeros(3), unknown=np.zeros(2))
@example(known=np.array([1.0]), unknown=np.array([2.0]))
def test_auroc_and_fpr95_are_those_of_scikit_learn(known: np.ndarray, unknown: np.ndarray) -> None:
    both, is_unknown = np.concatenate([known, unknown]), np.arange(len(known) + len(unknown)) >= len(known)
    assert metrics.auroc(known, unknown) == pytest.approx(roc_auc_score(is_unknown, both), abs=1e-9)
    false, true, _ = roc_curve(~is_unknown, -both, drop_intermediate=False)
    accepted = np.round(true * len(known)).astype(int)  # shares are rounded, counts are not
    expected = false[np.argmax(100 * accepted >= 95 * len(known))]
    assert metrics.fpr95(known, unknown) == pytest.approx(expected, abs=1e-9)


def test_scores_that_are_none_or_no_numbers_are_refused() -> None:
    for bad in (np.array([]), np.array([1.0, np.nan]), np.array([np.inf]), np.zeros((2, 2))):
        for figure in (metrics.auroc, metrics.fpr95):
            for known, unknown in ((bad, np.ones(3)), (np.ones(3), bad)):
                with pytest.raises(ValueError, match=r"expected \[N\], N ≥ 1|are not finite"):
                    figure(known, unknown)


def features(seed: int, num: int = 200, dims: int = 12) -> np.ndarray:
    """Near three of their axes, as those of a trained network are."""
    draws = np.random.default_rng(seed)
    wide = np.where(np.arange(dims) < 3, 5.0, 0.3)
    return (draws.normal(size=(num, dims)) * wide + 1).astype(np.float32)


def fitted(seed: int = 0, **sizes: int) -> tuple[metrics.UnknownScore, np.ndarray, np.ndarray]:
    held = features(seed + 1, **sizes)
    logits = held[:, :3] * 2
    return metrics.fit_unknown(features(seed, **sizes), logits, held), logits, held


def test_energy_is_minus_logsumexp_and_overflows_nowhere() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32) * 30
    assert np.allclose(metrics.energy(logits), -torch.from_numpy(logits).double().logsumexp(1).numpy(), atol=1e-9)
    assert np.isfinite(metrics.energy(np.array([[1e30, -1e30]], np.float32))).all()


def test_the_distance_across_the_axes_is_that_of_a_principal_component_analysis() -> None:
    from sklearn.decomposition import PCA

    score, logits, held = fitted()
    pca = PCA(n_components=6).fit(features(0).astype(np.float64))
    back = pca.inverse_transform(pca.transform(held.astype(np.float64)))
    expected = np.linalg.norm(held - back, axis=1)
    assert np.allclose(across(held, score.mean, score.axes), expected, rtol=1e-4)
    assert score.weight == pytest.approx(logits.max(axis=1).mean() / expected.mean(), rel=1e-4)


def test_a_picture_off_the_axes_and_one_between_the_classes_are_both_more_unknown() -> None:
    score, logits, held = fitted()
    usual = score.scores(logits, held)
    far = held.copy()
    far[:, 9] += 30
    assert (score.scores(logits, far) > usual.max()).all()
    assert metrics.auroc(usual, score.scores(logits * 0, held)) > 0.6


@given(seed=st.integers(0, 30), num=st.integers(20, 150))
def test_five_in_a_hundred_of_the_held_out_pictures_are_unknown_and_shares_are_those_of_the_less_unknown(
    seed: int, num: int
) -> None:
    score, logits, held = fitted(seed, num=num)
    own = score.scores(logits, held)
    shares = score.shares(own)
    assert (shares >= metrics.ACCEPTED_SHARE).sum() == num - -(-95 * num // 100)
    assert ((own > score.threshold) == (shares >= metrics.ACCEPTED_SHARE)).all()
    exact = (own[None] < own[:, None]).mean(axis=1)
    assert np.abs(shares - exact).max() <= 0.01 + 1 / num
    assert score.shares(np.array([own.max() + 1, np.nan, own.min() - 1])).tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("what", "train", "held"),
    [
        ("constant", np.ones((40, 8), np.float32), np.ones((40, 8), np.float32)),
        ("more dimensions than pictures", features(0, 25, 64), features(1, 25, 64)),
        ("one dimension", features(0, 40, 1), features(1, 40, 1)),
        ("all on one line", np.outer(np.arange(40), np.ones(8)).astype(np.float32), features(1, 40, 8)),
    ],
    ids=str,
)
def test_features_of_any_shape_are_fitted(what: str, train: np.ndarray, held: np.ndarray) -> None:
    score = metrics.fit_unknown(train, held[:, :2], held)
    own = score.scores(held[:, :2], held)
    assert np.isfinite(own).all(), what
    assert score.axes.nbytes <= 1 << 20
    assert (score.shares(own) >= 0.95).mean() <= 0.05, "what looks like all the others is known"
    assert metrics.auroc(own, own) == 0.5


def test_wide_embeddings_take_a_megabyte_at_most() -> None:
    wide = features(0, 700, 1024)
    score = metrics.fit_unknown(wide, wide[:, :5], wide)
    assert score.axes.shape == (1024, 256), "not 349, half the pictures, nor 512, half the dimensions"
    assert score.axes.nbytes <= 1 << 20


def test_too_few_pictures_and_numbers_that_are_none_are_refused() -> None:
    good = features(0)
    for train, held in ((good[:19], good), (good, good[:19])):
        with pytest.raises(ValueError, match=r"19 pictures (to fit on|held out); it takes 20"):
            metrics.fit_unknown(train, held[:, :3], held)
    for bad in (np.nan, np.inf):
        broken = good.copy()
        broken[3, 4] = bad
        with pytest.raises(ValueError, match="not finite"):
            metrics.fit_unknown(broken, good[:, :3], good)
        with pytest.raises(ValueError, match="not finite"):
            metrics.fit_unknown(good, broken[:, 2:5], good)


def test_pictures_to_fit_on_are_as_many_of_each_class_as_can_be_and_none_of_them_twice() -> None:
    labels = torch.tensor([0] * 90 + [1] * 7 + [2] * 3)
    images = torch.arange(100, dtype=torch.uint8)[:, None, None, None].repeat(1, 1, 2, 2)
    pictures = Pictures(images, labels, tuple(map(str, range(100))), tuple([b""] * 100))

    def embed(x: torch.Tensor | Stream) -> tuple[torch.Tensor, torch.Tensor]:
        assert isinstance(x, torch.Tensor)
        return torch.zeros(len(x), 3), x[:, 0, 0].float()

    seen = Engine("", "", lambda x: torch.zeros(len(x), 3), embed)
    rows = classification.embeddings_of_some(pictures, seen, 20, 0)[:, 0].long()
    assert len(set(rows.tolist())) == 20
    assert torch.bincount(labels[rows]).tolist() == [10, 7, 3]
    assert torch.equal(rows, classification.embeddings_of_some(pictures, seen, 20, 0)[:, 0].long())
    assert not torch.equal(rows, classification.embeddings_of_some(pictures, seen, 20, 1)[:, 0].long())
    assert len(classification.embeddings_of_some(pictures, seen, 500, 0)) == 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on digits."""
    out = tmp_path_factory.mktemp("unknown") / "run"
    wrn.train("digits", out=out, **{**QUICK, "epochs": 8})
    return out


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain folder of pictures, of nothing and of no class."""
    out = tmp_path_factory.mktemp("noise")
    draws = np.random.default_rng(0)
    for number in range(30):
        Image.fromarray(draws.integers(0, 256, (8, 8, 3), np.uint8)).save(out / f"{number:02d}.png")
    return out


def test_a_training_leaves_what_tells_unknown_pictures_in_the_model_file(folder: Path) -> None:
    file = load_model(folder)
    told = file.card.unknown
    assert {"score": "vim", "split": "val", "num_images": 179, "accepted": 0.95}.items() <= told.items()
    score = prediction.unknown_score(file)
    assert score is not None
    assert told["threshold"] == score.threshold
    assert sum(each.nbytes for name, each in file.extra.items() if name.startswith("unknown/")) < 20_000


def test_every_prediction_says_how_unlike_the_known_ones_its_picture_looks(folder: Path, noise: Path) -> None:
    predictor = wrn.load(folder)
    odd = [predictor(path) for path in sorted(noise.iterdir())]
    assert np.mean([bool(each.is_unknown) for each in odd]) > 0.8
    listing = wrn.evaluate(folder, "digits", split="val", watch=wrn.Watch())
    own = predictor.answers(torch.from_numpy(listing.logits))
    assert {each.unknown_score for each in own} == {None}, "by logits alone it is not told"
    black = predictor(np.zeros((8, 8, 3), np.uint8))
    assert black.unknown_score is not None
    assert 0 <= black.unknown_score <= 1
    assert black.is_unknown == (black.unknown_score >= 0.95)


def test_nothing_but_the_score_is_changed_by_it(folder: Path, tmp_path: Path) -> None:
    file = load_model(folder)
    bare = {name: value for name, value in file.extra.items() if not name.startswith("unknown/")}
    plain = tmp_path / "model.safetensors"
    save_model(plain, file.model.state_dict(), dataclasses.replace(file.card, unknown={}), bare)
    picture = np.full((8, 8, 3), 90, np.uint8)
    with_it, without = wrn.load(folder)(picture), wrn.load(plain)(picture)
    assert without.unknown_score is None
    assert without.is_unknown is None
    assert dataclasses.replace(with_it, unknown_score=None) == without


def test_a_model_file_of_a_later_score_has_none_and_one_that_does_not_fit_together_is_refused(folder: Path) -> None:
    file = load_model(folder)
    later = dataclasses.replace(file.card, unknown={**file.card.unknown, "score": "of 2031"})
    assert prediction.unknown_score(ModelFile(file.model, later, file.extra)) is None
    broken: list[dict[str, torch.Tensor]] = [
        {"unknown/mean": torch.zeros(3)},
        {"unknown/axes": torch.full((64, 2), torch.nan)},
        {"unknown/quantiles": torch.zeros(7)},
    ]
    for change in broken:
        with pytest.raises(ModelFileError, match="do not fit together"):
            prediction.unknown_score(ModelFile(file.model, file.card, {**file.extra, **change}))
    bare = {name: value for name, value in file.extra.items() if name != "unknown/axes"}
    with pytest.raises(ModelFileError, match="do not fit together"):
        prediction.unknown_score(ModelFile(file.model, file.card, bare))


def test_predict_marks_unknown_pictures_in_words_and_adds_columns_at_the_end(
    folder: Path, noise: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = str(noise / "00.png")
    assert run(["predict", str(folder), odd]) == 0
    assert capsys.readouterr().out.rstrip().endswith("%  unlike what it was trained on")
    assert run(["predict", str(folder), odd, str(noise / "none.png"), "--format", "csv"]) == 1
    first, none = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert list(first)[:5] == ["path", "label", "confidence", "error", "abstains"]
    assert list(first)[5:] == ["unknown_score", "is_unknown"]
    assert float(first["unknown_score"]) >= 0.95
    assert (first["is_unknown"], none["is_unknown"], none["unknown_score"]) == ("true", "", "")
    assert run(["predict", str(folder), odd, "--format", "jsonl"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["is_unknown"], row["unknown_score"]) == (True, float(first["unknown_score"]))


def test_ood_tells_a_plain_folder_from_the_known_pictures(
    folder: Path, noise: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "r.html"
    assert run(["evaluate", str(folder), "digits", "--ood", str(noise), "--report", str(page), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["ood"]
    assert (found["data"], found["num_images"], found["score"]) == (str(noise), 30, "vim")
    assert found["auroc"] > 0.9
    assert found["called_unknown"] > 0.8
    assert found["known_called_unknown"] < 0.12
    text = page.read_text(encoding="utf-8")
    assert "Pictures of something else" in text
    assert found["sentence"].replace(" %", "\u202f%") in text
    assert run(["evaluate", str(folder), "digits", "--ood", str(noise)]) == 0
    out = capsys.readouterr().out
    assert "unknown    " in out
    assert "FPR@95" in out
    assert "Pictures of something else" not in (folder / "report.html").read_text(encoding="utf-8")


def test_figures_without_ood_are_bitwise_those_with_it(folder: Path, noise: Path) -> None:
    plain, with_it = (wrn.evaluate(folder, "digits", ood=ood, watch=wrn.Watch()) for ood in (None, noise))
    assert np.array_equal(plain.logits, with_it.logits)
    assert {**with_it.figures(), "ood": None} == plain.figures()
    flipped = wrn.evaluate(folder, "digits", ood=noise, tta="flip", watch=wrn.Watch())
    assert flipped.ood is not None
    assert with_it.ood is not None
    np.testing.assert_array_equal(flipped.ood.known, with_it.ood.known)  # of each picture as it is, not of views
    np.testing.assert_array_equal(flipped.ood.unknown, with_it.ood.unknown)


def test_the_same_pictures_on_both_sides_cannot_be_told_apart(folder: Path) -> None:
    lines = list[str]()
    watch = wrn.Watch(line=lines.append)
    found = wrn.evaluate(folder, "digits", split="test", ood="digits", watch=watch).ood
    assert found is not None
    assert found.auroc < 0.55, "it reads all of digits: most were trained on, and look the more known"
    assert any("--ood digits: 1,618 of its 1,797 pictures were trained on or are among the known" in x for x in lines)
    assert found.sentence.endswith("as if the two were exchanged.") == (found.auroc < 0.4)
    alike = dataclasses.replace(found, known=found.unknown)
    assert "can hardly tell them apart" in alike.sentence


def test_a_model_without_what_it_takes_is_judged_by_the_energy_and_says_so(
    folder: Path, noise: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = load_model(folder)
    plain, page = tmp_path / "model.safetensors", tmp_path / "r.html"
    save_model(plain, file.model.state_dict(), dataclasses.replace(file.card, unknown={}), {})
    assert run(["evaluate", str(plain), "digits", "--ood", str(noise), "--report", str(page)]) == 0
    assert "keeps nothing of its training to tell unknown ones by" in capsys.readouterr().out
    assert "The model has no threshold" in page.read_text(encoding="utf-8")
    found = wrn.evaluate(plain, "digits", ood=noise, watch=wrn.Watch())
    assert found.ood is not None
    assert np.array_equal(found.ood.known, metrics.energy(found.logits))
    assert found.ood.called_unknown is None


def test_ood_data_that_is_none_is_an_error_that_says_so(folder: Path, tmp_path: Path, noise: Path) -> None:
    with pytest.raises(DataError, match="no pictures in class folders"):
        wrn.evaluate(folder, "digits", ood=tmp_path, watch=wrn.Watch())
    assert run(["evaluate", str(folder), "digits", "--ood", str(tmp_path / "nowhere")]) == 2
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"bad\.png"):
        wrn.evaluate(folder, "digits", ood=tmp_path, watch=wrn.Watch())
    (tmp_path / "good.png").write_bytes((noise / "00.png").read_bytes())
    found = wrn.evaluate(folder, "digits", ood=tmp_path, max_bad=1, watch=wrn.Watch()).ood
    assert found is not None
    assert found.names == ("good.png",)


def test_figures_of_unlike_lengths_or_without_pictures_are_refused() -> None:
    good: dict[str, Any] = {"data": "x", "names": ("a",), "known": np.ones(2), "unknown": np.ones(1), "score": "vim"}
    good |= {"threshold": 1.0, "taken_for": ("c",), "confidence": np.ones(1)}
    OodFigures(**good)
    wrongs: tuple[dict[str, Any], ...] = ({"names": ()}, {"unknown": np.array([np.nan])}, {"known": np.array([])})
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"expected|not finite"):
            OodFigures(**{**good, **wrong})


def test_a_training_without_enough_held_out_pictures_says_so_and_leaves_none(tmp_path: Path) -> None:
    lines = list[str]()
    draws = np.random.default_rng(0)
    images, labels = draws.integers(0, 256, (40, 8, 8, 3), np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "few.npz", images=images, labels=labels, class_names=np.array(["a", "b"]))
    watch = wrn.Watch(line=lines.append)
    wrn.train(tmp_path / "few.npz", out=tmp_path / "run", **{**QUICK, "epochs": 1, "watch": watch})
    assert any("will not tell unknown pictures" in line for line in lines)
    assert wrn.load(tmp_path / "run")(images[0]).unknown_score is None


def test_without_a_val_part_the_threshold_is_of_test_which_is_said(tmp_path: Path) -> None:
    lines = list[str]()
    watch = wrn.Watch(line=lines.append)
    wrn.train("digits", recipe="paper", out=tmp_path / "run", **{**QUICK, "epochs": 1, "watch": watch})
    assert load_model(tmp_path / "run").card.unknown["split"] == "test"
    assert any("what counts as unknown is measured on test" in line for line in lines)


def test_processes_together_fit_what_one_does(tmp_path: Path) -> None:
    words = ("--arch", "wrn_10_1", "--epochs", "1", "--out", str(tmp_path / "run"))
    (done,) = torchrun(2, *WRN, "train", "digits", *words)
    assert done.returncode == 0, done.stderr
    file = load_model(tmp_path / "run")
    told, score = file.card.unknown, prediction.unknown_score(file)
    assert score is not None
    assert (told["split"], told["num_images"]) == ("val", 179)
    engine = wrn.load(tmp_path / "run").engine
    listing = data_room.read("digits")
    loaded = data_room.load(listing, file.card.preprocess)
    fingerprint = data_room.fingerprint(listing.class_names, loaded.parts)
    parts, _ = parts_of_training(loaded.parts, fingerprint, file.card)
    train = classification.embeddings_of_some(parts["train"], engine, FIT_ON, file.card.trained["seed"])
    logits, embeddings = classification.embed(parts["val"], engine)
    assert embeddings is not None
    alone = metrics.fit_unknown(train.numpy(), logits.numpy(), embeddings.numpy())
    assert score.weight == pytest.approx(alone.weight, rel=1e-4)
    assert np.allclose(score.quantiles, alone.quantiles, atol=1e-3)


def test_pictures_that_are_decoded_anew_each_time_are_fitted_on_as_those_in_memory(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for name, mean in (("dark", 60), ("light", 190)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(150):
            pixels = draws.normal(mean, 30, (8, 8, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    told = []
    caches: tuple[data_room.Cache, ...] = ("memory", "off")
    for cache in caches:
        wrn.train(tmp_path / "data", out=tmp_path / cache, size=8, cache=cache, **{**QUICK, "epochs": 1})
        told.append(load_model(tmp_path / cache).card.unknown)
    assert told[0] == told[1]
    assert told[0]["num_images"] == 30


def test_the_candidates_of_the_benchmark_compute_what_they_are_named_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    unknown_scores = importlib.import_module("unknown_scores")
    e = features(0).astype(np.float64)
    labels = (e[:, 0] > 1).astype(int)
    known = unknown_scores.Known(e[:, :2], e, labels, np.eye(2, 12), np.zeros(2))
    means = [e[labels == k].mean(axis=0) for k in (0, 1)]
    covariance = EmpiricalCovariance(assume_centered=True).fit(e - np.stack(means)[labels])
    expected = np.min([covariance.mahalanobis(e - mean) for mean in means], axis=0)
    assert np.allclose(unknown_scores.mahalanobis(known)[0](e[:, :2], e), expected, rtol=1e-6)
    for name, make in unknown_scores.CANDIDATES.items():
        score, _ = make(known)
        odd = e.copy()
        odd[:, 9] += 30
        if name not in ("MSP", "max logit", "energy"):
            assert metrics.auroc(score(e[:, :2], e), score(odd[:, :2], odd)) > 0.99, name


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("mean", lambda x: x[:-1]),
        ("mean", lambda x: x.bfloat16()),
        ("mean", lambda x: x * float("nan")),
        ("axes", lambda x: x[:-1]),
        ("axes", lambda x: x * 2),
        ("axes", lambda x: torch.cat([x, x, x], 1)),
        ("quantiles", lambda x: x * float("nan")),
        ("quantiles", lambda x: x.flip(0)),
        ("quantiles", lambda x: x[:50]),
        ("quantiles", lambda x: x.float()),
    ],
)
def test_parts_that_do_not_fit_the_network_or_each_other_are_refused_with_the_file(
    folder: Path, tmp_path: Path, name: str, broken: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    found = load_model(folder)
    extra = {**found.extra, f"unknown/{name}": broken(found.extra[f"unknown/{name}"]).contiguous()}
    save_model(file := tmp_path / "odd.safetensors", found.model.state_dict(), found.card, extra)
    with pytest.raises(ModelFileError, match=r"odd\.safetensors: .*tell unknown pictures.* do not fit together"):
        wrn.load(file)


def test_parts_that_fit_each_other_and_another_network_are_refused(folder: Path, tmp_path: Path) -> None:
    found = load_model(folder)
    extra = {**found.extra, "unknown/mean": torch.zeros(2), "unknown/axes": torch.eye(2)[:, :1].contiguous()}
    save_model(file := tmp_path / "odd.safetensors", found.model.state_dict(), found.card, extra)
    with pytest.raises(ModelFileError, match="do not fit together"):
        wrn.load(file)


@pytest.mark.parametrize("weight", [True, -1.0, "1", None, 10**400])
def test_a_weight_that_is_none_is_refused(folder: Path, tmp_path: Path, weight: Any) -> None:
    found = load_model(folder)
    card = dataclasses.replace(found.card, unknown={**found.card.unknown, "weight": weight})
    save_model(file := tmp_path / "odd.safetensors", found.model.state_dict(), card, found.extra)
    with pytest.raises(ModelFileError, match="do not fit together"):
        wrn.load(file)


def test_an_empty_name_is_no_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(folder), "digits", "--ood", ""]) == 2
    assert "--ood: its name is empty" in capsys.readouterr().err
