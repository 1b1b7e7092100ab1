"""Networks by name: torchvision's and timm's train, answer and go on as ours do, with the weights that lie on disk."""

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from test_jobs import StopAfter, shapes
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

import wideresnet as wrn
from wideresnet import cli, jobs, networks, runs, runtime
from wideresnet.checkpoint import load_model
from wideresnet.dialects import FORMS
from wideresnet.errors import Interrupted, ModelFileError, UsageError
from wideresnet.model import count_macs
from wideresnet.networks import libraries

SMALL = ("torchvision:shufflenet_v2_x0_5", "timm:test_resnet")
OPTIONS: dict[str, Any] = {"epochs": 2, "size": 32, "batch_size": 16, "watch": runtime.QUIET}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes(tmp_path_factory.mktemp("photos") / "set", {"disc": 40, "bar": 40}, size=32)


@pytest.mark.parametrize("arch", SMALL)
def test_a_library_s_network_trains_answers_and_goes_on_through_the_same_engine(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arch: str
) -> None:
    run = wrn.train(photos, arch=arch, out=tmp_path / "r", **OPTIONS)
    file, (library, _, name) = load_model(run.folder), arch.partition(":")
    assert file.card.architecture == {"library": library, "name": name, "num_classes": 2, "in_channels": 3}
    assert list(run.folder.iterdir())
    again = wrn.evaluate(run.folder, photos, watch=runtime.QUIET)
    np.testing.assert_array_equal(again.logits, run.evaluation.logits)
    assert cli.run(["predict", str(run.folder), str(photos / "bar" / "0.png"), "--format", "jsonl"]) == 0
    assert set(json.loads(capsys.readouterr().out)["probs"]) == {"bar", "disc"}
    assert cli.run(["predict", str(run.folder), str(photos / "bar" / "0.png"), "--engine", "kernels"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1), "a network that our kernels do not know"
    assert said.err.startswith("wrn: --engine kernels: ")
    assert cli.run(["info", str(run.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["network"] == arch
    assert "library" in file.card.architecture
    with pytest.raises(Interrupted):
        wrn.train(photos, arch=arch, out=tmp_path / "s", **{**OPTIONS, "watch": runtime.Watch(progress=StopAfter(1))})
    wrn.resume(tmp_path / "s", watch=runtime.QUIET)
    a, b = (load_file(tmp_path / folder / "checkpoint.safetensors") for folder in "rs")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_library_s_model_has_no_dialect_to_be_written_in(photos: Path, tmp_path: Path) -> None:
    run = wrn.train(photos, arch=SMALL[0], out=tmp_path / "r", **{**OPTIONS, "epochs": 1})
    with pytest.raises(UsageError, match=r"torchvision:shufflenet_v2_x0_5, no Wide ResNet; its weights lie under"):
        wrn.convert(run.folder, "trades", tmp_path / "o.pth")
    assert not (tmp_path / "o.pth").exists()


def test_the_weights_in_the_file_are_the_library_s_own_state_dict(photos: Path, tmp_path: Path) -> None:
    run = wrn.train(photos, arch=SMALL[0], out=tmp_path / "r", **{**OPTIONS, "epochs": 1})
    weights = load_file(run.folder / "model.safetensors")
    theirs = models.get_model("shufflenet_v2_x0_5", num_classes=2).eval()
    theirs.load_state_dict(
        {k.removeprefix("weights/"): v for k, v in weights.items() if k.startswith("weights/")}, strict=True
    )
    predictor, image = wrn.load(run.folder), np.asarray(Image.open(photos / "bar" / "1.png"))
    x = predictor.card.preprocess.normalise(torch.tensor(image).permute(2, 0, 1)[None])
    with torch.no_grad():
        torch.testing.assert_close(predictor.logits(image), theirs(x), rtol=1e-4, atol=1e-5)


def test_a_library_s_model_is_begun_with_for_other_classes_in_grey_and_partly_frozen(
    photos: Path, tmp_path: Path
) -> None:
    alike: dict[str, Any] = {"mean": (0.4,) * 3, "std": (0.25,) * 3}
    begin = wrn.train(photos, arch=SMALL[0], out=tmp_path / "begin", **OPTIONS, **alike)
    other = shapes(tmp_path / "other", {"bar": 20, "ring-disc": 20, "dot": 20}, size=32)
    lines = list[str]()
    options = {**OPTIONS, "epochs": 1, "watch": runtime.Watch(line=lines.append), "freeze": "conv1,stage2"}
    run = wrn.train(other, init=begin.folder, in_channels=1, layer_decay=0.9, out=tmp_path / "r", **options)
    assert runs.read_config(run.folder).arch == SMALL[0]
    old, new = load_model(begin.folder).model.state_dict(), load_model(run.folder).model.state_dict()
    frozen = {key for key in old if key.startswith(("conv1.", "stage2.")) and not key.endswith("conv1.0.weight")}
    assert len(frozen) > 20
    assert all(torch.equal(old[key], new[key]) for key in frozen)
    assert not torch.equal(old["conv5.0.weight"], new["conv5.0.weight"])
    assert new["conv1.0.weight"].shape[1] == 1
    kept = "kept are conv1, stage2, stage3, stage4, conv5, and of fc the rows of class bar"
    assert any(f"{kept}; classes dot, ring-disc begin anew" in line for line in lines), lines


# What a library publishes.


@pytest.fixture(scope="module")
def torch_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where torch keeps what it fetched: a resnet18 of torchvision, with weights drawn here."""
    home = tmp_path_factory.mktemp("torch")
    (home / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(7)
    name = models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    torch.save(models.resnet18().state_dict(), home / "hub" / "checkpoints" / name)
    return home


RESNET18 = ("--arch", "torchvision:resnet18", "--pretrained", "--epochs", "1", "--size", "32", "--batch-size", "16")


@pytest.mark.parametrize("channels", [3, 1])
def test_published_weights_bring_their_backbone_mean_and_std_and_the_head_begins_anew(
    torch_home: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    words = ["train", str(photos), *RESNET18, "--lr", "0", "--in-channels", str(channels), "--out", str(tmp_path / "r")]
    assert cli.run(words) == 0
    config, file = runs.read_config(tmp_path / "r"), load_model(tmp_path / "r")
    assert (config.recipe.name, config.pretrained, config.init) == ("finetune", True, None)
    published = torch.load(next((torch_home / "hub" / "checkpoints").iterdir()), weights_only=True)
    state = file.model.state_dict()
    for name, _ in file.model.named_parameters():
        if not name.startswith("fc.") and (channels == 3 or name != "conv1.weight"):
            assert torch.equal(state[name], published[name]), name
    assert state["fc.weight"].shape == (2, 512)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    if channels == 1:
        scaled = published["conv1.weight"] * (sum(std) / 3 / torch.tensor(std))[:, None, None]
        torch.testing.assert_close(state["conv1.weight"], scaled.sum(1, keepdim=True))
        mean, std = ((sum(values) / 3,) for values in (mean, std))  # type: ignore[assignment]
    assert file.card.preprocess.mean == pytest.approx(mean)
    assert file.card.preprocess.std == pytest.approx(std)
    assert " --pretrained" in config.command


def test_classes_that_the_weights_know_by_name_keep_their_rows(
    torch_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    data = shapes(tmp_path / "set", {"goldfish": 20, "a bar of ours": 20}, size=32)
    options: dict[str, Any] = {**OPTIONS, "epochs": 1, "lr": 0.0}
    run = wrn.train(data, arch="torchvision:resnet18", pretrained=True, out=tmp_path / "r", **options)
    published = torch.load(next((torch_home / "hub" / "checkpoints").iterdir()), weights_only=True)
    row = models.ResNet18_Weights.DEFAULT.meta["categories"].index("goldfish")
    state = load_model(run.folder).model.state_dict()
    assert torch.equal(state["fc.weight"][1], published["fc.weight"][row])
    assert not (state["fc.weight"][0] == published["fc.weight"]).all(1).any()


def test_a_run_that_began_with_published_weights_goes_on_bitwise_and_not_with_others(
    torch_home: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    options: dict[str, Any] = {
        **OPTIONS,
        "arch": "torchvision:resnet18",
        "pretrained": True,
        "freeze": "conv1,bn1,layer1",
    }
    wrn.train(photos, out=tmp_path / "whole", **options)
    with pytest.raises(Interrupted):
        wrn.train(photos, out=tmp_path / "r", **{**options, "watch": runtime.Watch(progress=StopAfter(1))})
    wrn.resume(tmp_path / "r", watch=runtime.QUIET)
    a, b = (load_file(tmp_path / folder / "checkpoint.safetensors") for folder in ("whole", "r"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    other = tmp_path / "torch" / "hub" / "checkpoints"
    other.mkdir(parents=True)
    torch.save(models.resnet18().state_dict(), other / next((torch_home / "hub" / "checkpoints").iterdir()).name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(ModelFileError, match="published weights: not those this run began with"):
        wrn.resume(tmp_path / "r", watch=runtime.QUIET)


def test_weights_that_are_not_there_are_fetched_only_if_told_to_and_what_fails_is_one_line(
    photos: Path, tmp_path: Path
) -> None:
    nowhere = "http://127.0.0.1:9"  # the network of this process leads there
    variables = {"TORCH_HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT / "src")}
    variables |= {"https_proxy": nowhere, "http_proxy": nowhere, "HTTPS_PROXY": nowhere, "HTTP_PROXY": nowhere}
    name = "resnet18-f37072fd.pth"
    for arch, extra, said in (
        ("torchvision:resnet18", [], f"are not in {tmp_path}/hub/checkpoints ({name}); add --download"),
        ("torchvision:resnet18", ["--download"], f"cannot be fetched from https://download.pytorch.org/models/{name}"),
        ("timm:test_resnet", [], "are not in Hugging Face's cache (timm/test_resnet.r160_in1k); add --download"),
    ):
        words = ["train", str(photos), "--arch", arch, "--pretrained", "--out", str(tmp_path / "r"), *extra]
        command = [sys.executable, "-m", "wideresnet", *words]
        done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert done.stderr.startswith(f"wrn: --pretrained: the weights of {arch}"), done.stderr
        assert said in done.stderr
        assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged, or no weights"),
        (b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.", "damaged, or no weights"),  # code, which is not run
        (None, "not the weights of this network"),
    ],
)
def test_a_file_that_is_not_those_weights_is_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, said: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    place.parent.mkdir(parents=True)
    torch.save(models.resnet34().state_dict(), place) if content is None else place.write_bytes(content)
    with pytest.raises(ModelFileError, match=f"resnet18-f37072fd.pth: {said}"):
        wrn.train(photos, arch="torchvision:resnet18", pretrained=True, out=tmp_path / "r", watch=runtime.QUIET)


def test_timm_s_weights_are_taken_from_hugging_face_s_cache(photos: Path, tmp_path: Path) -> None:
    import timm

    hub = tmp_path / "hf" / "hub" / "models--timm--test_resnet.r160_in1k"
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("f00")
    (hub / "snapshots" / "f00").mkdir(parents=True)
    torch.manual_seed(3)
    state = timm.create_model("test_resnet").state_dict()
    save_file(state, hub / "snapshots" / "f00" / "model.safetensors")
    words = ["train", str(photos), "--arch", "timm:test_resnet", "--pretrained", "--epochs", "1", "--lr", "0"]
    command = [sys.executable, "-m", "wideresnet", *words, "--batch-size", "16", "--out", str(tmp_path / "r")]
    variables = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_CACHE": str(hub.parent), "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    file = load_model(tmp_path / "r")
    for name, parameter in file.model.named_parameters():
        assert torch.equal(parameter, state[name]) or name.startswith("fc."), name
    assert (file.card.preprocess.size, file.card.preprocess.mean) == (160, (0.5, 0.5, 0.5))  # of the weights


# Mistakes.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--arch torchvision:wide_resnet50", "no network 'wide_resnet50' there; did you mean wide_resnet50_2 or"),
        ("--arch timm:resnt18", "no network 'resnt18' there; did you mean resnet18 or"),
        ("--arch timm:qqqqqqqqq", "no network 'qqqqqqqqq' there; see timm.list_models()"),
        ("--arch timm:resnet18.a9_in1k", "resnet18 has no weights 'a9_in1k'; did you mean 'a"),
        ("--arch torchvison:resnet18", "did you mean 'torchvision'?"),
        ("--arch torchvision:inception_v3", "has a second head, which is not trained here"),
        ("--arch torchvision:vit_b_16 --size 64", "takes no pictures of 64×64 pixels"),
        ("--arch torchvision:resnet18 --dropout-p 0.1", "dropout_p=0.1: is for our own blocks"),
        ("--arch torchvision:resnet18 --freeze layr1", "--freeze layr1; did you mean 'layer1'?"),
        ("--arch torchvision:resnet18 --size 32 --batch-size 1", "BN needs more than one value of each channel"),
        ("--pretrained", "give --arch torchvision:NAME or timm:NAME"),
        ("--arch wrn_16_2 --pretrained", "give --arch torchvision:NAME or timm:NAME"),
        ("--arch timm:resnt18 --pretrained", "no network 'resnt18' there"),
        ("--arch timm:resnet18d.x --pretrained", "resnet18d has no weights 'x'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    assert cli.run(["train", str(photos), *words.split(), "--out", str(tmp_path / "r")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("wrn: ")
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "r").exists()


def test_without_timm_its_extra_is_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = wrn.train(photos, arch="timm:test_resnet", out=tmp_path / "r", **{**OPTIONS, "epochs": 1})
    monkeypatch.setitem(sys.modules, "timm", None)
    for words in (["train", str(photos), "--arch", "timm:resnet18"], ["predict", str(run.folder), str(photos)]):
        assert cli.run(words) == 2
        needs = "wrn: --arch timm:NAME needs an extra that is not installed: pip install 'wideresnet[hub]'\n"
        assert capsys.readouterr().err == needs


# What every name has.


# Two are refused, and one takes as long as all others: its 645 million weights are made on the CPU.
LEFT_OUT = ("googlenet", "inception_v3", "regnet_y_128gf")


# One of three, and those that we point to; all of them took two minutes, and passed on 2026-11-27.
SEEN = [name for name in models.list_models(module=models) if name not in LEFT_OUT]


@pytest.mark.parametrize("name", sorted({*SEEN[::3], "wide_resnet50_2", "wide_resnet101_2"}))
def test_every_network_of_torchvision_has_a_front_a_head_and_the_size_of_its_weights(name: str) -> None:
    arch = f"torchvision:{name}"
    for channels in (3, 1):
        model = networks.without_weights(arch, 7, in_channels=channels)
        assert model.get_submodule(networks.first_conv(model) or "").in_channels == channels
    assert networks.count_macs(model, 1, libraries.default_size(arch)) > 10**6
    parts = networks.parts(model)
    assert sorted(chain.from_iterable(parts.values())) == sorted(name for name, _ in model.named_parameters())
    layer = model.get_submodule(networks.class_layer(model))
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    assert len(layer.weight) == 7
    assert f"{networks.class_layer(model)}.weight" in parts[list(parts)[-1]]


@torch.no_grad()
def by_torch(model: nn.Module, channels: int, size: int) -> int:
    """Multiply-accumulates as torch counts them while it computes."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, channels, size, size, device="meta"))
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_ours_has_the_same_parts_and_is_counted_as_the_model_counts_itself(form: str) -> None:
    model = networks.without_weights(f"wrn_16_2.{form}" if form else "wrn_16_2", 7)
    assert isinstance(model, wrn.WideResNetClassifier)
    parts = [part for part in ("stem", "stage1", "stage2", "stage3", "bn", "fc") if part != "bn" or form != "jem"]
    assert list(networks.parts(model)) == parts
    assert (networks.class_layer(model), networks.first_conv(model)) == ("fc", "backbone.stem.0")
    assert by_torch(model, 3, 32) == networks.count_macs(model, 3, 32) == count_macs(model)


@given(
    depth=st.sampled_from([10, 16]), widen=st.integers(1, 3), channels=st.sampled_from([1, 3]), size=st.integers(1, 40)
)
def test_multiply_accumulates_are_counted_as_the_model_counts_them(
    depth: int, widen: int, channels: int, size: int
) -> None:
    model = networks.without_weights(f"wrn_{depth}_{widen}", 4, in_channels=channels)
    assert isinstance(model, wrn.WideResNetClassifier)
    assert (
        by_torch(model, channels, size) == networks.count_macs(model, channels, size) == count_macs(model, size, size)
    )


def test_the_table_of_networks_points_to_the_other_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["models"]) == 0
    said = capsys.readouterr()
    line = said.err.splitlines()[-1]
    assert "torchvision and timm are another family (bottleneck, ImageNet)" in line
    assert "wrn train DATA --arch torchvision:wide_resnet50_2 --pretrained" in line
    assert "wrn_28_10" in said.out
    assert jobs.list_models()
    published = networks.without_weights("torchvision:wide_resnet50_2", 1000)
    assert sum(p.numel() for p in published.parameters()) == 68_883_240  # as torchvision's page has it
