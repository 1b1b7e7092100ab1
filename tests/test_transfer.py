"""Training that begins with a trained model: whose weights, whose rows, and what is refused."""

import csv
import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from test_jobs import QUICK, StopAfter, shapes

import wideresnet as wrn
from wideresnet import cli, jobs, networks, recipes, runs, runtime, training
from wideresnet.checkpoint import Card, ModelFile, load_model, save_model
from wideresnet.errors import Interrupted, ModelFileError, UsageError
from wideresnet.jobs import transfer


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
    tuned = wrn.train(few, out=tmp_path / "tuned", init=source, **{**options, "arch": None})
    assert tuned.evaluation.accuracy > anew.evaluation.accuracy + 0.15, (
        tuned.evaluation.accuracy,
        anew.evaluation.accuracy,
    )
    config = runs.read_config(tuned.folder)
    assert (config.recipe.name, config.arch, config.size) == ("finetune", "wrn_10_1", 8)
    assert load_model(tuned.folder).card.trained["init"] == "model.safetensors"


def test_weights_and_rows_of_known_classes_are_the_source_s_and_so_are_mean_and_std(
    source: Path, tmp_path: Path
) -> None:
    few = digits(tmp_path / "few.npz", [7, 3], 12)
    data = np.load(few)
    np.savez(few, **{**data, "class_names": np.array(["7", "new"])})
    lines = list[str]()
    options = {**QUICK, "lr": 0.0, "epochs": 1, "watch": runtime.Watch(line=lines.append)}
    run = wrn.train(few, out=tmp_path / "r", init=source, size=12, recipe="finetune", **options)
    old, new = load_model(source), load_model(run.folder)
    theirs, ours = old.model.state_dict(), new.model.state_dict()
    for name, parameter in new.model.named_parameters():
        if not name.startswith("fc."):
            assert torch.equal(parameter, theirs[name]), name
    assert torch.equal(ours["fc.weight"][0], theirs["fc.weight"][7])
    assert torch.equal(ours["fc.bias"][0], theirs["fc.bias"][7])
    assert not torch.equal(ours["fc.weight"][1], theirs["fc.weight"][3])
    assert new.card.preprocess == dataclasses.replace(old.card.preprocess, size=12)
    expected = (
        "(wrn_10_1): kept are stem, stage1, stage2, stage3, bn, and of fc the rows of class 7; class new begins anew"
    )
    assert [line.endswith(expected) for line in lines if "begins with" in line] == [True], lines


def test_pictures_that_the_source_was_trained_on_are_said_and_remembered(source: Path, tmp_path: Path) -> None:
    lines = list[str]()
    options = {**QUICK, "epochs": 1, "seed": 5, "watch": runtime.Watch(line=lines.append)}  # another split
    run = wrn.train("digits", out=tmp_path / "r", init=source, **options)
    assert any("pictures that are judged on here, which flatters" in line for line in lines), lines
    seen = {bytes(row) for row in load_model(run.folder).extra["seen"].numpy()}
    assert seen > {bytes(row) for row in load_model(source).extra["seen"].numpy()}


def test_a_stopped_run_goes_on_bitwise_and_not_with_another_source(source: Path, tmp_path: Path) -> None:
    begin = Path(shutil.copy(source / "model.safetensors", tmp_path / "begin.safetensors"))
    options = {**QUICK, "epochs": 2}
    wrn.train("digits", out=tmp_path / "whole", init=begin, **options)
    for epoch in (1, 2):  # before a checkpoint is written, and after
        stopped = tmp_path / f"stopped{epoch}"
        watch = runtime.Watch(progress=StopAfter(epoch))
        with pytest.raises(Interrupted):
            wrn.train("digits", out=stopped, init=begin, **{**options, "watch": watch})
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
        ({"in_channels": 2}, r"in_channels=2: expected 3 \(colour\) or 1 \(grey\)"),
        ({"from_model": "other"}, "two names of one option; give init"),
        ({"pretrained": True}, "--init and --pretrained both give the weights"),
        ({"mean": (0.1, 0.2, 0.3)}, "leave --mean out"),
    ],
)
def test_an_option_that_contradicts_the_source_is_refused_naming_both(
    source: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        wrn.train("digits", out=tmp_path / "r", init=source, watch=runtime.QUIET, **options)
    assert not (tmp_path / "r").exists()


def test_finetune_without_a_source_and_a_source_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name it: --init MODEL"):
        wrn.train("digits", out=tmp_path / "r", recipe="finetune", watch=runtime.QUIET)
    with pytest.raises(ModelFileError, match="no such file"):
        wrn.train("digits", out=tmp_path / "r", init=tmp_path / "gone", watch=runtime.QUIET)
    assert not (tmp_path / "r").exists()


def test_a_grey_source_makes_a_grey_network(tmp_path: Path) -> None:
    grey = wrn.train("digits", out=tmp_path / "grey", in_channels=1, **{**QUICK, "epochs": 1})
    run = wrn.train("digits", out=tmp_path / "r", init=grey.folder, **{**QUICK, "epochs": 1, "arch": None})
    assert runs.read_config(run.folder).in_channels == 1
    assert (
        jobs.describe_model(run.folder)["preprocess"]["mean"] == jobs.describe_model(grey.folder)["preprocess"]["mean"]
    )


def test_pictures_become_square_as_the_source_s_did_unless_told_otherwise(tmp_path: Path) -> None:
    quick = {**QUICK, "epochs": 1}
    padded = wrn.train("digits", out=tmp_path / "padded", fit="pad", **quick)
    for asked, fit in (("crop", "pad"), ("squash", "squash")):
        options: dict[str, Any] = {**quick, "arch": None, "fit": asked, "init": padded.folder}
        run = wrn.train("digits", out=tmp_path / asked, **options)
        assert wrn.load(run.folder).card.preprocess.fit == fit


def test_the_option_s_first_name_still_begins_with_a_model_and_its_runs_go_on(source: Path, tmp_path: Path) -> None:
    words = ["train", "digits", "--labels", "10", "--epochs", "2"]
    assert cli.run([*words, "--init", str(source), "--out", str(tmp_path / "init")]) == 0
    assert cli.run([*words, "--from", str(source), "--out", str(tmp_path / "from")]) == 0
    options: dict[str, Any] = {"labels": 10, "epochs": 2, "from_model": source}
    watch = runtime.Watch(progress=StopAfter(1))
    with pytest.raises(Interrupted):
        wrn.train("digits", out=tmp_path / "old", watch=watch, **options)
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    for name, old in {"init": "from_model", "init_digest": "from_digest"}.items():  # as versions before this wrote it
        config[old] = config.pop(name)
    for name in ("pretrained", "freeze"):
        del config[name]
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    wrn.resume(tmp_path / "old", watch=runtime.QUIET)
    files = [load_file(tmp_path / name / "checkpoint.safetensors") for name in ("init", "from", "old")]
    for other in files[1:]:
        assert files[0].keys() == other.keys()
        assert all(torch.equal(files[0][key], other[key]) for key in other)


def test_a_network_that_has_no_name_is_begun_with_too_and_the_run_s_command_repeats_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, names = wrn.WideResNetClassifier(10, 10, 1, stem="conv"), tuple("0123456789")
    preprocess = wrn.Preprocess(size=8, mean=(0.5,) * 3, std=(0.5,) * 3, per_image=True)
    card = Card(architecture=model.architecture, class_names=names, preprocess=preprocess)
    save_model(tmp_path / "m.safetensors", model.state_dict(), card)
    options: dict[str, Any] = {"labels": 10, "epochs": 2, "init": tmp_path / "m.safetensors", "dropout_p": 0.1}
    with pytest.raises(Interrupted):
        wrn.train("digits", out=tmp_path / "r", watch=runtime.Watch(progress=StopAfter(1)), **options)
    run = wrn.resume(tmp_path / "r", watch=runtime.QUIET)
    assert load_model(run.folder).card.architecture == {**model.architecture, "dropout_p": 0.1}
    assert load_model(run.folder).card.preprocess.per_image
    config = runs.read_config(run.folder)
    assert config.arch == "wrn_10_1 with stem=conv"
    assert cli.run([*shlex.split(config.command)[1:], "--out", str(tmp_path / "again")]) == 0
    a, b = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("r", "again"))
    assert all(torch.equal(a[key], b[key]) for key in a)


# Of other channels.

unit = st.floats(0.05, 0.95)


@given(seed=st.integers(0, 99), mean=unit, stds=st.tuples(unit, unit, unit))
def test_a_network_made_grey_answers_grey_pictures_as_it_did_where_its_means_are_equal(
    seed: int, mean: float, stds: tuple[float, ...]
) -> None:
    conv, source = stem_and_source(seed, 3, (mean,) * 3, stds)
    grey = torch.randint(0, 256, (2, 1, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    colour, one = source.file.card.preprocess, source.preprocess(1)
    assert one.mean == (mean,)
    before = F.conv2d(colour.normalise(grey.expand(-1, 3, -1, -1)).double(), conv, padding=1)
    after = F.conv2d(one.normalise(grey).double(), transfer.with_channels(conv, stds, 1), padding=1)
    torch.testing.assert_close(
        after, before, rtol=1e-5, atol=1e-5 * float(before.abs().max())
    )  # `normalise` is float32


@given(seed=st.integers(0, 99), means=st.tuples(unit, unit, unit), stds=st.tuples(unit, unit, unit))
def test_of_unequal_means_what_differs_is_a_constant_for_each_filter(
    seed: int, means: tuple[float, ...], stds: tuple[float, ...]
) -> None:
    conv, source = stem_and_source(seed, 3, means, stds)
    grey = torch.randint(0, 256, (2, 1, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    before = F.conv2d(source.preprocess(3).normalise(grey.expand(-1, 3, -1, -1)).double(), conv)  # no border
    after = F.conv2d(source.preprocess(1).normalise(grey).double(), transfer.with_channels(conv, stds, 1))
    difference = (after - before).transpose(0, 1).flatten(1)  # [filters, pictures and pixels]
    assert float((difference - difference[:, :1]).abs().max()) < 1e-5 * float(before.abs().max() + 1)


@given(seed=st.integers(0, 99), mean=unit, std=unit)
def test_a_network_made_to_take_colours_answers_a_picture_as_it_did_the_picture_made_grey(
    seed: int, mean: float, std: float
) -> None:
    conv, source = stem_and_source(seed, 1, (mean,), (std,))
    image = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    grey, colour = dataclasses.replace(source.preprocess(1), size=1), source.preprocess(3)
    planes = torch.tensor(image).permute(2, 0, 1)
    luma = torch.cat([grey.resize(image[i : i + 1, j : j + 1]) for i in range(6) for j in range(5)]).view(1, 1, 6, 5)
    before = F.conv2d(grey.normalise(luma).double(), conv, padding=1)
    after = F.conv2d(colour.normalise(planes[None]).double(), transfer.with_channels(conv, (std,), 3), padding=1)
    rounding = 0.501 / 255 / std * conv.abs().sum((1, 2, 3))  # grey is rounded to a byte before it is normalised
    assert ((after - before).abs().amax((0, 2, 3)) <= rounding + 1e-5).all()
    back = transfer.with_channels(transfer.with_channels(conv, (std,), 3), (std,) * 3, 1)
    torch.testing.assert_close(back, conv)


def stem_and_source(
    seed: int, channels: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[torch.Tensor, transfer.Source]:
    torch.manual_seed(seed)
    model = wrn.WideResNetClassifier(2, 10, 1, in_channels=channels).double()
    preprocess = wrn.Preprocess(size=6, mean=mean, std=std)
    card = Card(architecture=model.architecture, class_names=("a", "b"), preprocess=preprocess)
    return model.state_dict()["backbone.stem.0.weight"], transfer.Source("x", "", ModelFile(model, card))


@pytest.mark.parametrize(("had", "asked"), [(3, 1), (1, 3)])
def test_a_model_is_gone_on_with_in_grey_and_in_colour(tmp_path: Path, had: int, asked: int) -> None:
    begin = wrn.train("digits", out=tmp_path / "begin", in_channels=had, **{**QUICK, "epochs": 4})
    lines = list[str]()
    # The digits are grey pictures, so their channels share mean and std, and in judging every answer is the same.
    options = {**QUICK, "arch": None, "epochs": 1, "lr": 0.0, "watch": runtime.Watch(line=lines.append)}
    run = wrn.train("digits", out=tmp_path / "r", init=begin.folder, in_channels=asked, freeze="backbone", **options)
    old, new = load_model(begin.folder), load_model(run.folder)
    assert new.card.architecture["in_channels"] == new.card.preprocess.channels == asked
    assert any(line.endswith("summed up for 1 channel" if asked == 1 else "spread over 3 channels") for line in lines)
    np.testing.assert_allclose(run.evaluation.logits, begin.evaluation.logits, rtol=1e-4, atol=1e-4)
    assert new.card.preprocess.mean == pytest.approx((old.card.preprocess.mean[0],) * asked, abs=1e-9)


# Frozen parts.

KEPT = ("backbone.stem.", "backbone.stage1.")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema_decay": 0.9, "weight_decay": 0.1, "decay_norm_and_bias": True},
        {"swa_epochs": 2, "select": "last"},
        {"sam_rho": 0.05, "clip_norm": 1.0, "accumulate": 2},
        {"precision": "bf16", "dropout_p": 0.3, "layer_decay": 0.5},
    ],
    ids=str,
)
def test_what_is_frozen_is_bitwise_the_source_s_after_training_bn_statistics_and_averages_too(
    source: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    options = {**QUICK, "arch": None, "epochs": 3, "labels": 20, **changes}
    run = wrn.train("digits", out=tmp_path / "r", init=source, freeze=("stage1", "stem"), **options)
    begun, trained = load_model(source).model.state_dict(), load_file(run.folder / "checkpoint.safetensors")
    for part in ("model", *(["average"] if "average/fc.bias" in trained else [])):
        for key, value in begun.items():
            same = torch.equal(trained[f"{part}/{key}"], value)
            assert same is key.startswith(KEPT), f"{part}/{key}"
    assert not any(key.startswith(tuple(f"momentum/{name}" for name in KEPT)) for key in trained)
    assert load_model(run.folder).card.trained["freeze"] == ["stem", "stage1"]
    assert runs.read_config(run.folder).freeze == ("stem", "stage1")
    assert "stem, stage1" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_a_stopped_run_with_frozen_parts_and_a_rate_for_each_goes_on_bitwise(source: Path, tmp_path: Path) -> None:
    options = {**QUICK, "arch": None, "epochs": 2, "freeze": "stem,stage1", "layer_decay": 0.7, "init": source}
    wrn.train("digits", out=tmp_path / "whole", **options)
    with pytest.raises(Interrupted):
        wrn.train("digits", out=tmp_path / "r", **{**options, "watch": runtime.Watch(progress=StopAfter(1))})
    wrn.resume(tmp_path / "r", watch=runtime.QUIET)
    for name in ("checkpoint.safetensors", "model.safetensors"):
        a, b = load_file(tmp_path / "whole" / name), load_file(tmp_path / "r" / name)
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_the_backbone_is_all_but_the_head(source: Path, tmp_path: Path) -> None:
    options = {**QUICK, "arch": None, "epochs": 1, "labels": 5}
    run = wrn.train("digits", out=tmp_path / "r", init=source, freeze="backbone", **options)
    assert runs.read_config(run.folder).freeze == ("stem", "stage1", "stage2", "stage3", "bn")
    old, new = load_model(source).model.state_dict(), load_model(run.folder).model.state_dict()
    assert {key for key in old if not torch.equal(old[key], new[key])} == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        ("stage4", r"--freeze stage4; did you mean 'stage[123]'\?"),
        ("stem,head", r"--freeze head; expected one of stem, stage1, stage2, stage3, bn, fc, backbone"),
        ("backbone,fc", r"--freeze stem,stage1,stage2,stage3,bn,fc: nothing is left to train; leave out fc at least"),
    ],
)
def test_freezing_what_is_not_there_or_everything_is_one_clear_error(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], freeze: str, message: str
) -> None:
    words = ["train", "digits", "--init", str(source), "--freeze", *freeze.split(" "), "--out", str(tmp_path / "r")]
    assert cli.run(words) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(f"wrn: {message}\n", said), said
    assert not (tmp_path / "r").exists()


def test_freezing_a_network_that_has_learnt_nothing_is_told(tmp_path: Path) -> None:
    lines = list[str]()
    options = {**QUICK, "epochs": 1, "labels": 5, "watch": runtime.Watch(line=lines.append)}
    wrn.train("digits", out=tmp_path / "r", freeze="stem", **options)
    assert any("stem: frozen as drawn, for nothing was learnt yet" in line for line in lines), lines


# A learning rate for each part.


def test_each_part_learns_at_its_share_of_the_head_s_rate() -> None:
    torch.manual_seed(0)
    model = wrn.WideResNetClassifier(3, 10, 1)
    changes = {"layer_decay": 0.8, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    recipe = recipes.change(recipes.find("fast"), changes)
    state = training.start(model, recipe, networks.lr_scales(model, recipe.layer_decay))
    x, before = torch.randn(8, 3, 8, 8), {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss(network: torch.nn.Module, batch: torch.Tensor) -> training.StepLoss:
        return training.StepLoss(network(batch).square().mean(), len(batch))

    model.train()
    training.update(state, model, x, loss, recipe, lr=0.25, seed=0)
    shares = {"stem": 0.8**4, "stage1": 0.8**3, "stage2": 0.8**2, "stage3": 0.8, "bn": 0.8, "fc": 1.0}
    for name, parameter in model.named_parameters():
        share = shares[name.removeprefix("backbone.").split(".")[0]]
        assert parameter.grad is not None
        expected = before[name] - 0.25 * share * parameter.grad
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=1e-7, msg=name)


def test_the_search_for_a_rate_and_the_search_over_recipes_train_with_the_same_shares_and_frozen_parts(
    source: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"init": source, "labels": 10, "watch": runtime.QUIET, "freeze": "stem"}
    curves = [
        wrn.find_lr("digits", out=tmp_path / f"{decay}.png", layer_decay=decay, **options).curve for decay in (1.0, 0.1)
    ]
    assert curves[0].losses != curves[1].losses
    found = wrn.find_lr("digits", out=tmp_path / "c.png", layer_decay=0.1, **options)
    assert " --layer-decay 0.1 " in found.command
    assert f" --init {source / 'model.safetensors'} --freeze stem" in found.command
    tuned = wrn.tune("digits", out=tmp_path / "t", trials=1, search=("lr",), epochs=1, layer_decay=0.1, **options)
    trained = wrn.train("digits", out=tmp_path / "r", epochs=1, layer_decay=0.1, **options)
    [row] = csv.DictReader((trained.folder / "metrics.csv").open())
    assert tuned.study.best.score == pytest.approx(float(row["val_accuracy"]))
    assert shlex.split(tuned.command)[-2:] == ["--freeze", "stem"]


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5, float("nan")])
def test_a_decay_that_cannot_be_is_refused(value: float) -> None:
    with pytest.raises(UsageError, match=r"layer_decay=.*: expected a value in \[0.01, 1\]"):
        recipes.change(recipes.find("fast"), {"layer_decay": value})


def test_frozen_layers_are_not_given_channels_of_another_mean(tmp_path: Path) -> None:
    """The constant that this leaves for each filter is taken away by the next BN, which a frozen one cannot."""
    shapes(tmp_path / "data", {"a": 20, "b": 20}, size=16)
    given: dict[str, Any] = {"arch": "wrn_10_1", "epochs": 1, "watch": wrn.Watch()}
    wrn.train(tmp_path / "data", mean=(0.6, 0.45, 0.3), std=(0.25,) * 3, out=tmp_path / "run", **given)
    with pytest.raises(wrn.UsageError, match=r"--freeze with --in-channels 1: .* different means"):
        wrn.train(tmp_path / "data", init=tmp_path / "run", in_channels=1, freeze=["stem"], epochs=1, watch=wrn.Watch())


def test_what_a_frozen_part_shares_is_frozen_with_it(tmp_path: Path) -> None:
    shapes(tmp_path / "data", {"a": 20, "b": 20}, size=16)
    given: dict[str, Any] = {"epochs": 1, "watch": wrn.Watch()}
    wrn.train(tmp_path / "data", arch="wrn_10_1.robustbench-dai2021pssilu", out=tmp_path / "run", **given)
    wrn.train(tmp_path / "data", init=tmp_path / "run", freeze=["stage2"], out=tmp_path / "fine", **given)
    before, after = (load_model(tmp_path / name).model.state_dict() for name in ("run", "fine"))
    frozen = [key for key in before if key.startswith("backbone.stage2.")]
    assert any(key.endswith("activation.alpha") for key in frozen)
    assert all(torch.equal(before[key], after[key]) for key in frozen)
