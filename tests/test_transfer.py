"""Training that begins with a trained model: whose weights, whose rows, and what is refused."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from test_jobs import QUICK, StopAfter

import wideresnet as wrn
from wideresnet import jobs, runs, runtime
from wideresnet.checkpoint import load_model, save_model
from wideresnet.errors import Interrupted, ModelFileError, UsageError


def digits(path: Path, labels: list[int], count: int) -> Path:
    """An .npz of these digits: train has `count` pictures of each, test the others; classes are called "0", "1", …"""
    bunch, arrays = load_digits(), {"class_names": np.array([str(label) for label in labels])}
    for split, part in (("train", slice(0, count)), ("test", slice(count, None))):
        rows = np.concatenate([np.flatnonzero(bunch.target == label)[part] for label in labels])
        images = np.round(bunch.images[rows] * (255 / 16)).astype(np.uint8)
        arrays[f"{split}_images"] = images[..., None].repeat(3, -1)
        arrays[f"{split}_labels"] = np.array([labels.index(label) for label in bunch.target[rows]])
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits, of a few epochs."""
    place = tmp_path_factory.mktemp("source")
    return wrn.train("digits", out=place / "run", **{**QUICK, "epochs": 5}).folder


def test_what_was_learnt_before_helps_with_few_pictures(source: Path, tmp_path: Path) -> None:
    few = digits(tmp_path / "few.npz", [7, 3, 1], 10)
    options = {**QUICK, "epochs": 2, "crop_padding": 0}
    anew = wrn.train(few, out=tmp_path / "anew", **options)
    tuned = wrn.train(few, out=tmp_path / "tuned", from_model=source, **{**options, "arch": None})
    assert tuned.evaluation.accuracy > anew.evaluation.accuracy + 0.15, (
        tuned.evaluation.accuracy,
        anew.evaluation.accuracy,
    )
    config = runs.read_config(tuned.folder)
    assert (config.recipe.name, config.arch, config.size) == ("finetune", "wrn_10_1", 8)
    assert load_model(tuned.folder).card.trained["from_model"] == "model.safetensors"


def test_weights_and_rows_of_known_classes_are_the_source_s_and_so_are_mean_and_std(
    source: Path, tmp_path: Path
) -> None:
    few = digits(tmp_path / "few.npz", [7, 3], 12)
    data = np.load(few)
    np.savez(few, **{**data, "class_names": np.array(["7", "new"])})
    lines = list[str]()
    options = {**QUICK, "lr": 0.0, "epochs": 1, "watch": runtime.Watch(line=lines.append)}
    run = wrn.train(few, out=tmp_path / "r", from_model=source, size=12, recipe="finetune", **options)
    old, new = load_model(source), load_model(run.folder)
    theirs, ours = old.model.state_dict(), new.model.state_dict()
    for name, parameter in new.model.named_parameters():
        if not name.startswith("fc."):
            assert torch.equal(parameter, theirs[name]), name
    assert torch.equal(ours["fc.weight"][0], theirs["fc.weight"][7])
    assert torch.equal(ours["fc.bias"][0], theirs["fc.bias"][7])
    assert not torch.equal(ours["fc.weight"][1], theirs["fc.weight"][3])
    assert new.card.preprocess == dataclasses.replace(old.card.preprocess, size=12)
    assert any("1 of 2 classes are known to it" in line for line in lines)


def test_pictures_that_the_source_was_trained_on_are_said_and_remembered(source: Path, tmp_path: Path) -> None:
    lines = list[str]()
    options = {**QUICK, "epochs": 1, "seed": 5, "watch": runtime.Watch(line=lines.append)}  # another split
    run = wrn.train("digits", out=tmp_path / "r", from_model=source, **options)
    assert any("pictures that are judged on here, which flatters" in line for line in lines), lines
    seen = {bytes(row) for row in load_model(run.folder).extra["seen"].numpy()}
    assert seen > {bytes(row) for row in load_model(source).extra["seen"].numpy()}


def test_a_stopped_run_goes_on_bitwise_and_not_with_another_source(source: Path, tmp_path: Path) -> None:
    begin = Path(shutil.copy(source / "model.safetensors", tmp_path / "begin.safetensors"))
    options = {**QUICK, "epochs": 2}
    wrn.train("digits", out=tmp_path / "whole", from_model=begin, **options)
    for epoch in (1, 2):  # before a checkpoint is written, and after
        stopped = tmp_path / f"stopped{epoch}"
        watch = runtime.Watch(progress=StopAfter(epoch))
        with pytest.raises(Interrupted):
            wrn.train("digits", out=stopped, from_model=begin, **{**options, "watch": watch})
        wrn.resume(stopped, watch=runtime.QUIET)
        for name in ("checkpoint.safetensors", "model.safetensors"):
            a, b = load_file(tmp_path / "whole" / name), load_file(stopped / name)
            assert a.keys() == b.keys()
            assert all(torch.equal(a[key], b[key]) for key in a), (epoch, name)
    file = load_model(begin)
    save_model(begin, {key: value + 1 for key, value in file.model.state_dict().items()}, file.card, file.extra)
    with pytest.raises(ModelFileError, match=r"begin\.safetensors: not the file this run began with"):
        wrn.resume(stopped, watch=runtime.QUIET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "wrn_10_2"}, r"--arch wrn_10_2: .*model\.safetensors is a wrn_10_1"),
        ({"arch": "wrn_10_1.paper"}, "is a wrn_10_1"),
        ({"arch": "resnet18"}, "expected wrn_DEPTH_WIDEN"),
        ({"in_channels": 1}, "takes 3"),
        ({"mean": (0.1, 0.2, 0.3)}, "leave --mean out"),
    ],
)
def test_an_option_that_contradicts_the_source_is_refused_naming_both(
    source: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        wrn.train("digits", out=tmp_path / "r", from_model=source, watch=runtime.QUIET, **options)
    assert not (tmp_path / "r").exists()


def test_finetune_without_a_source_and_a_source_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name it: --from MODEL"):
        wrn.train("digits", out=tmp_path / "r", recipe="finetune", watch=runtime.QUIET)
    with pytest.raises(ModelFileError, match="no such file"):
        wrn.train("digits", out=tmp_path / "r", from_model=tmp_path / "gone", watch=runtime.QUIET)
    assert not (tmp_path / "r").exists()


def test_a_grey_source_makes_a_grey_network(tmp_path: Path) -> None:
    grey = wrn.train("digits", out=tmp_path / "grey", in_channels=1, **{**QUICK, "epochs": 1})
    run = wrn.train("digits", out=tmp_path / "r", from_model=grey.folder, **{**QUICK, "epochs": 1, "arch": None})
    assert runs.read_config(run.folder).in_channels == 1
    assert (
        jobs.describe_model(run.folder)["preprocess"]["mean"] == jobs.describe_model(grey.folder)["preprocess"]["mean"]
    )


def test_pictures_become_square_as_the_source_s_did_unless_told_otherwise(tmp_path: Path) -> None:
    quick = {**QUICK, "epochs": 1}
    padded = wrn.train("digits", out=tmp_path / "padded", fit="pad", **quick)
    for given, fit in (("crop", "pad"), ("squash", "squash")):
        options: dict[str, Any] = {**quick, "arch": None, "fit": given, "from_model": padded.folder}
        run = wrn.train("digits", out=tmp_path / given, **options)
        assert wrn.load(run.folder).card.preprocess.fit == fit
