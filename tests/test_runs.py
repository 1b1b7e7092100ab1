"""A run folder's config says everything, comes back as it was, and gives the command that repeats it."""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from wideresnet import runs
from wideresnet.cli import app
from wideresnet.cli.trainings import count_or_all
from wideresnet.errors import ModelFileError
from wideresnet.reading import Reading
from wideresnet.recipes import RECIPES, change

CONFIG = runs.Config(
    data="/data/my photos",
    arch="wrn_16_2",
    recipe=RECIPES["fast"],
    size=32,
    fit="crop",
    in_channels=3,
    mean=None,
    std=None,
    seed=0,
    device="cpu",
    threads=2,
    max_bad=0,
    engine="torch",
    fingerprint="f00",
    versions={"torch": "2"},
)
OLD_PAPER = change(RECIPES["paper"], {"forget_momentum": False, "flip_by": "turns"})  # before it had these fields
VARIANTS: list[dict[str, Any]] = [
    {},
    {"recipe": OLD_PAPER},
    {"recipe": change(OLD_PAPER, {"epochs": 9, "nesterov": False, "flip": False, "dropout_p": 0.3})},
    {"recipe": change(OLD_PAPER, {"milestones": (), "drop_last": False, "select": "best"})},
    {"recipe": change(RECIPES["fast"], {"schedule": "one-cycle", "lr": 1e-7, "warmup_epochs": 0.1 + 0.2})},
    {"fit": "pad", "in_channels": 1, "mean": (0.25,), "std": (0.1,), "max_bad": None, "seed": -5},
    {"mean": (0.1, 0.2, 0.3), "max_bad": 7, "data": "/odd [name] -x"},
    {"recipe": RECIPES["finetune"], "init": "/runs/my model.safetensors", "init_digest": "d1"},
    {"track": ("mlflow", "tensorboard"), "recipe": change(RECIPES["fast"], {"precision": "bf16", "compile": True})},
    {"recipe": change(RECIPES["fast"], {"accumulate": 4, "clip_norm": 0.5, "sam_rho": 0.05, "class_weights": True})},
    {"recipe": change(RECIPES["fast"], {"swa_epochs": 3, "balanced": True})},
    {"recipe": change(RECIPES["fast"], {"early_stopping": 5})},
    {"recipe": RECIPES["strong"]},
    {"recipe": RECIPES["paper"]},
    {"recipe": change(RECIPES["fast"], {"forget_momentum": True})},
    {"recipe": change(RECIPES["fast"], {"flip_by": "chance"})},
    {
        "recipe": change(
            RECIPES["strong"], {"policy": "none", "cutmix": 0.0, "mixup": 0.2, "zoom": 0.35, "crop_padding": 0}
        )
    },
    {"recipe": change(RECIPES["fast"], {"jitter": (0.4, 0.4, 0.4, 0.1), "cutout": 8, "erasing": 0.25})},
    {"recipe": change(RECIPES["finetune"], {"layer_decay": 0.8}), "freeze": ("stem", "stage1")},
    {"arch": "timm:resnet18", "pretrained": True, "init_digest": "d2", "recipe": RECIPES["finetune"]},
    {"folds": 5},
    {"engine": "kernels"},
    {"labels": 40, "reading": Reading(label_column="-a b", group_column="", download=True)},
    {"reading": Reading(label_column="-a b", max_pixels=1000)},
    {"recipe": RECIPES["cpu94"]},
    {"processor": "x86_64, AVX2"},
]
# Of the first eight, by the version before the fields that they have at their defaults.
DIGESTS = [
    "a8739f2fb2b080c85420a391bdcd49ceb44398a6b5bc1a772137723ed39aceb6",
    "01e6701d3e1ae23d947884899724a0f0e3acfa87de43384559de6dc43289edfb",
    "2d8d2736d68251335e7a643f6367444ac0f70664797f5df60b1efef61398eff1",
    "745d324cb76c6e717cd80619b90a5cd25f0286cd5163dfad2a4f52cc9fe71405",
    "230343e8ee6f5f3eea978407ca43b81df55222e8fc27d4aec201b0cd5036bc73",
    "dc55a8d591be6910ebcd88f25f71f746c595f26d70b4676ac90979f7774d6c3c",
    "c0010d7691fbc966b980ee6183217c2662fe4f9d1c049bb12d67816723e24496",
    "41547aba26853a03e5f2fc2b4954c0043f8fd373db97f210d147bb31ae710a92",
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_a_config_comes_back_from_disk_as_it_was_and_its_digest_with_it(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    runs.write_config(tmp_path, config)
    assert runs.read_config(tmp_path) == config
    assert runs.read_config(tmp_path).digest == config.digest
    assert dataclasses.replace(config, seed=99).digest != config.digest


@pytest.mark.parametrize("changes", VARIANTS)
def test_the_command_line_reads_a_config_s_command_as_that_config(changes: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    words = shlex.split(config.command)
    _, bound, _ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
    got = dict(bound.arguments)
    recipe = change(RECIPES[got.pop("recipe")], got.pop("changes"))
    max_bad = count_or_all(got.pop("max_bad"))
    assert recipe == config.recipe
    assert max_bad == config.max_bad
    expected = {
        f: getattr(config, f) for f in ("data", "arch", "size", "fit", "in_channels", "seed", "device", "engine")
    }
    expected |= {"folds": config.folds} if config.folds else {}
    expected |= {name: getattr(config, name) for name in ("mean", "std") if getattr(config, name) is not None}
    expected |= {"track": config.track} if config.track else {}
    expected |= {} if config.init is None else {"init": Path(config.init)}
    expected |= {name: getattr(config, name) for name in ("pretrained", "freeze") if getattr(config, name)}
    assert got.pop("reading", Reading()) == config.reading
    assert got.pop("labels", None) == config.labels
    assert got == expected


@pytest.mark.parametrize(("changes", "digest"), list(zip(VARIANTS, DIGESTS, strict=False)))
def test_a_config_of_an_earlier_version_is_read_with_the_defaults_and_keeps_its_digest(
    tmp_path: Path, changes: dict[str, Any], digest: str
) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    runs.write_config(tmp_path, config)
    values = json.loads((tmp_path / "config.json").read_text())
    for name in ("track", "reading", "labels", "processes", "folds", "fold", "pretrained", "freeze"):
        del values[name]
    for name, old in {"init": "from_model", "init_digest": "from_digest"}.items():
        values |= {old: values.pop(name)} if config.init else {}
    values["recipe"] = {name: value for name, value in values["recipe"].items() if name in runs._FIRST}
    assert len(values["recipe"]) == 19
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert runs.read_config(tmp_path).digest == config.digest == digest
    assert runs.read_config(tmp_path).command == config.command


def test_every_later_field_changes_the_digest() -> None:
    digests = [dataclasses.replace(CONFIG, **changes).digest for changes in VARIANTS]
    assert len(set(digests)) == len(VARIANTS)


def test_what_is_done_where_the_loss_explodes_may_be_changed_when_a_run_goes_on() -> None:
    other = dataclasses.replace(CONFIG, recipe=change(CONFIG.recipe, {"on_nan": "rollback"}))
    assert other.digest == CONFIG.digest
    assert "--on-nan rollback" in other.command


def test_what_is_no_config_is_refused(tmp_path: Path) -> None:
    runs.write_config(tmp_path, CONFIG)
    values = json.loads((tmp_path / "config.json").read_text())
    for broken in ({"size": 3}, {**values, "extra": 1}, {**values, "recipe": {**values["recipe"], "lr": -1}}):
        (tmp_path / "config.json").write_text(json.dumps(broken))
        with pytest.raises(ModelFileError, match=r"config\.json"):
            runs.read_config(tmp_path)
