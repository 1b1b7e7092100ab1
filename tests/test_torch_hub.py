"""torch.hub loads our networks from a checkout or from GitHub's, in a process that knows nothing of us."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from wideresnet.dialects import ARCHITECTURES

# An editable install would answer too: what it adds to sys.path and to the finders goes.
ALONE = """
import importlib.util, os, sys, torch
HERE = sys.argv[1]
sys.path = [path for path in sys.path if not os.path.isdir(os.path.join(path, "wideresnet"))]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
assert importlib.util.find_spec("wideresnet") is None
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What torch.hub keeps of github.com/someone/wideresnet, branch main, where TORCH_HOME is its "home"."""
    folder = tmp_path_factory.mktemp("torch_hub") / "home" / "hub" / "someone_wideresnet_main"
    shutil.copytree(ROOT / "src", folder / "src")
    shutil.copy(ROOT / "hubconf.py", folder)
    return folder


def fresh(checkout: Path, code: str) -> str:
    """What a new process prints, standing where no wideresnet is to be found unless torch.hub brings it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"TORCH_HOME": str(checkout.parents[1])}
    command = [sys.executable, "-c", ALONE + code, str(checkout)]
    done = subprocess.run(
        command, cwd=checkout.parents[2], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torch_hub_loads_a_network_that_computes(checkout: Path) -> None:
    code = """
model = torch.hub.load(HERE, "wrn_10_2", source="local", num_classes=7, in_channels=1, dropout_p=0.1)
print(list(model(torch.zeros(2, 1, 12, 12)).shape), model.architecture["dropout_p"], sys.modules["wideresnet"].__file__)
print([path for path in sys.path if path.startswith(HERE)])
"""
    file = checkout / "src" / "wideresnet" / "__init__.py"
    assert fresh(checkout, code) == f"[2, 7] 0.1 {file}\n[]"


def test_torch_hub_loads_any_form_through_create_model(checkout: Path) -> None:
    code = """
model = torch.hub.load(HERE, "create_model", source="local", arch="wrn_10_1.trades", num_classes=3)
print(model.architecture["shortcut"], model.fc.out_features)
"""
    assert fresh(checkout, code) == "activated 3"


def test_torch_hub_lists_every_network_and_nothing_else_and_says_what_each_is(checkout: Path) -> None:
    code = """
github = "someone/wideresnet:main"  # kept already, so nothing is fetched
print(*sorted(torch.hub.list(github, trust_repo=True, verbose=False)))
print(torch.hub.load(github, "wrn_10_1", trust_repo=True, verbose=False).fc.out_features)
print(torch.hub.help(github, "wrn_34_10", trust_repo=True))
"""
    names, classes, text = fresh(checkout, code).split("\n", 2)
    assert classes == "10"
    assert names.split() == sorted(["create_model", *(row.name for row in ARCHITECTURES)])
    assert (
        text.removeprefix(f"Using cache found in {checkout}")
        .strip()
        .startswith("WRN-34-10, untrained (adversarial training: TRADES, AWP)")
    )
    assert "num_classes" in text


def test_what_torch_hub_cannot_load_says_so(checkout: Path) -> None:
    code = """
for options in ({"pretrained": True}, {"depth": 12}, {"shortcuts": "raw"}):
    try:
        torch.hub.load(HERE, "wrn_10_1", source="local", **options)
    except (ValueError, TypeError) as error:
        print(error)
print(torch.hub.load(HERE, "wrn_10_1", source="local", pretrained=False).fc.out_features)
"""
    weights, depth, option, classes = fresh(checkout, code).splitlines()
    assert weights == "wrn_10_1: no weights are published; train it, or load a model file of yours by wrn.load"
    assert "nearest: 10 and 16" in depth
    assert option.startswith("unknown option 'shortcuts'; options are stem,")
    assert classes == "10"
