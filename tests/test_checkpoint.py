"""Model files hold all it takes to predict, and are refused whole when they are not what they should be."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from wideresnet.checkpoint import Card, load_checkpoint, load_model, save_checkpoint, save_model
from wideresnet.errors import ModelFileError
from wideresnet.model import WideResNetClassifier
from wideresnet.preprocess import Preprocess

OPTIONS: dict[str, Any] = {"stem": "conv", "shortcut": "activated", "dropout_at": "after-act2", "in_channels": 1}


def small(num_classes: int = 3, **options: Any) -> WideResNetClassifier:
    torch.manual_seed(5)
    return WideResNetClassifier(num_classes, 10, 1, **options).eval()


def card(model: WideResNetClassifier, **fields: Any) -> Card:
    channels = model.architecture["in_channels"]
    preprocess = Preprocess(size=8, mean=(0.3,) * channels, std=(0.2,) * channels, fit="pad")
    names = ("gül", "<b>", "2")[: model.architecture["num_classes"]]
    return Card(architecture=model.architecture, class_names=names, preprocess=preprocess, **fields)


@pytest.mark.parametrize("options", [{}, OPTIONS])
def test_a_model_comes_back_bit_for_bit_with_all_that_travels_with_it(tmp_path: Path, options: dict[str, Any]) -> None:
    model = small(**options)
    wanted = card(model, temperature=1.7, weights="ema", figures={"accuracy": 0.9}, trained={"recipe": {"lr": 0.1}})
    save_model(tmp_path / "m.safetensors", model.state_dict(), wanted, {"energy": torch.arange(3)})
    file = load_model(tmp_path / "m.safetensors")
    assert file.card == wanted
    assert file.model.architecture == model.architecture
    assert torch.equal(file.extra["energy"], torch.arange(3))
    x = torch.randn(2, model.architecture["in_channels"], 9, 7)
    assert torch.equal(file.model(x), model(x))
    assert not file.model.training


def test_the_file_is_plain_safetensors_with_the_networks_own_keys(tmp_path: Path) -> None:
    model = small()
    save_model(tmp_path / "m.safetensors", model.state_dict(), card(model))
    assert set(load_file(tmp_path / "m.safetensors")) == {f"weights/{key}" for key in model.state_dict()}
    size = struct.unpack("<Q", (tmp_path / "m.safetensors").read_bytes()[:8])[0]
    header = json.loads((tmp_path / "m.safetensors").read_bytes()[8 : 8 + size])
    entry = json.loads(header["__metadata__"]["wideresnet"])
    assert (entry["format_version"], entry["task"], entry["dtype"]) == (1, "classification", "float32")


def test_the_same_model_makes_the_same_bytes(tmp_path: Path) -> None:
    model = small()
    for name in ("a", "b"):
        save_model(tmp_path / name, model.state_dict(), card(model))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@settings(max_examples=150)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, where: float, bit: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "flips"
    model = small()
    if not folder.exists():
        save_model(folder / "good", model.state_dict(), card(model))
    content = bytearray((folder / "good").read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    (folder / "bad").write_bytes(content)
    with pytest.raises(ModelFileError):
        load_model(folder / "bad")


@given(keep=st.integers(0, 20_000))
def test_a_file_cut_short_is_refused(tmp_path_factory: pytest.TempPathFactory, keep: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "cuts"
    model = small()
    if not folder.exists():
        save_model(folder / "good", model.state_dict(), card(model))
    (folder / "bad").write_bytes((folder / "good").read_bytes()[:keep])
    with pytest.raises(ModelFileError, match="bad: "):
        load_model(folder / "bad")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"PK\x03\x04rest", "a zip or a torch .pt file"),
        (b"\x80\x02}q\x00.", "a pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"just some text that is long enough", "no model file"),
    ],
)
def test_what_is_no_model_file_is_said_to_be_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        load_model(tmp_path / "m.safetensors")


def test_other_peoples_safetensors_newer_formats_and_empty_folders_are_refused_by_name(tmp_path: Path) -> None:
    model = small()
    save_file(model.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match="no model file or checkpoint of ours"):
        load_model(tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match=r"a folder without model\.safetensors"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelFileError, match="has not finished its first epoch"):
        load_model(tmp_path)
    with pytest.raises(ModelFileError, match="no such file"):
        load_model(tmp_path / "nowhere")
    save_checkpoint(tmp_path / "c", {"model/x": torch.zeros(1)}, {"epoch": 1})
    with pytest.raises(ModelFileError, match="not a model file"):
        load_model(tmp_path / "c")


def test_a_newer_major_version_is_refused_saying_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    with monkeypatch.context() as later:
        later.setattr("wideresnet.checkpoint.FORMAT_VERSION", 2)
        save_model(tmp_path / "m", model.state_dict(), card(model))
    with pytest.raises(ModelFileError, match=r"format 2, newer than this wideresnet reads \(1\); upgrade"):
        load_model(tmp_path / "m")


PAIRS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"depth": 16}),
    ({"depth": 16}, {}),
    ({}, {"widen_factor": 2}),
    ({"widen_factor": 2}, {}),
    ({}, {"num_classes": 3}),  # of which the card names two
    ({}, {"in_channels": 1}),
    ({"in_channels": 1}, {}),
    ({}, {"stem": "conv"}),
    ({"stem": "conv"}, {}),
    ({}, {"conv_bias": "all"}),
    ({"conv_bias": "all"}, {}),
    ({}, {"norm": "none"}),
]


@pytest.mark.parametrize(("told", "held"), PAIRS, ids=str)
def test_a_card_of_another_network_than_its_tensors_is_refused_with_the_first_that_differ(
    tmp_path: Path, told: dict[str, Any], held: dict[str, Any]
) -> None:
    small = {"num_classes": 2, "depth": 10, "widen_factor": 1}
    told_of, model = WideResNetClassifier(**{**small, **told}), WideResNetClassifier(**{**small, **held})
    preprocess = Preprocess(size=8, mean=(0.5,) * 3, std=(0.2,) * 3)
    card = Card(architecture=told_of.architecture, class_names=("a", "b"), preprocess=preprocess)
    save_model(tmp_path / "m.safetensors", model.state_dict(), card)
    with pytest.raises(ModelFileError, match=r"m\.safetensors: .*not the tensors of .+: .*( instead of |missing)"):
        load_model(tmp_path / "m.safetensors")


def test_a_card_with_the_wrong_number_of_classes_cannot_be_made() -> None:
    with pytest.raises(ModelFileError, match="3 class names for a network of 2 classes"):
        Card(architecture={"num_classes": 2}, class_names=("a", "b", "c"), preprocess=card(small()).preprocess)


def test_a_checkpoint_comes_back_exactly(tmp_path: Path) -> None:
    tensors = {"model/a": torch.randn(3, 4), "momentum/a": torch.randn(3, 4).to(torch.float64)}
    progress = {"epoch": 3, "best_score": 0.1 + 0.2, "rows": [{"epoch": 1, "val_loss": 1e-300}]}
    save_checkpoint(tmp_path / "c", tensors, progress)
    back, entry = load_checkpoint(tmp_path / "c")
    assert all(torch.equal(back[key], value) for key, value in tensors.items())
    assert {key: entry[key] for key in progress} == progress


def test_the_saved_model_of_each_version_loads_and_answers_as_then() -> None:
    folder = Path(__file__).parent / "saved"
    files = sorted(folder.glob("model-*.safetensors"))
    assert files, "tests/saved has one model file of each format"
    for path in files:
        file = load_model(path)
        answers = load_file(path.with_name(path.name.replace("model-", "answers-")))
        logits = file.model(file.card.preprocess.normalise(answers["images"]))
        torch.testing.assert_close(logits, answers["logits"], rtol=1e-5, atol=1e-5)
