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
VARIANTS: list[dict[str, Any]] = [
    {},
    {"recipe": RECIPES["paper"]},
    {"recipe": change(RECIPES["paper"], {"epochs": 9, "nesterov": False, "flip": False, "dropout_p": 0.3})},
    {"recipe": change(RECIPES["paper"], {"milestones": (), "drop_last": False, "select": "best"})},
    {"recipe": change(RECIPES["fast"], {"schedule": "one-cycle", "lr": 1e-7, "warmup_epochs": 0.1 + 0.2})},
    {"fit": "pad", "in_channels": 1, "mean": (0.25,), "std": (0.1,), "max_bad": None, "seed": -5},
    {"mean": (0.1, 0.2, 0.3), "max_bad": 7, "data": "/odd [name] -x"},
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
    expected = {f: getattr(config, f) for f in ("data", "arch", "size", "fit", "in_channels", "seed", "device")}
    expected |= {name: getattr(config, name) for name in ("mean", "std") if getattr(config, name) is not None}
    assert got == expected


def test_what_is_no_config_is_refused(tmp_path: Path) -> None:
    runs.write_config(tmp_path, CONFIG)
    values = json.loads((tmp_path / "config.json").read_text())
    for broken in ({"size": 3}, {**values, "extra": 1}, {**values, "recipe": {**values["recipe"], "lr": -1}}):
        (tmp_path / "config.json").write_text(json.dumps(broken))
        with pytest.raises(ModelFileError, match=r"config\.json"):
            runs.read_config(tmp_path)
