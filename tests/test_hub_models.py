"""Models on Hugging Face's hub: real HTTP from a server on loopback, fresh processes, nothing fetched unasked."""

import dataclasses
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from hub_server import TOKEN, HubServer, Repo
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import wideresnet as wrn
from wideresnet import hub
from wideresnet.checkpoint import Card, load_model, save_model
from wideresnet.errors import ModelFileError, UsageError

FIGURES = {"split": "test", "num_images": 1234, "accuracy": 0.875, "accuracy_interval": [0.85, 0.9], "loss": 0.5}
PREPROCESS = wrn.Preprocess(size=16, mean=(0.5, 0.4, 0.3), std=(0.25, 0.25, 0.25))
PICTURE = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
SHOW = "import json, numpy as np; show = lambda p: print(json.dumps(p.logits(np.load(PICTURE)).tolist()))\n"
TRY = """
def tried(*args, **kwargs):
    try:
        wrn.load(*args, **kwargs)
    except wrn.WideResNetError as error:
        print(f"{type(error).__name__}: {error}")
"""


@pytest.fixture
def server() -> Iterator[HubServer]:
    server = HubServer()
    yield server
    server.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    network = wrn.create_model("wrn_10_1.trades", num_classes=3)
    nn.init.normal_(network.fc.bias)
    names = ("a|b", "<c>", "d e")
    card = Card(architecture=network.architecture, class_names=names, preprocess=PREPROCESS, figures=FIGURES)
    save_model(tmp_path / "run" / "model.safetensors", network.state_dict(), card)
    np.save(tmp_path / "picture.npy", PICTURE)
    return tmp_path / "run"


def fresh(server: HubServer, folder: Path, code: str, **environment: str) -> list[str]:
    """What a new process prints, whose Hugging Face is `server`, and its cache in `folder`."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    # Xet is their second way of storing large files; the server speaks the first.
    known |= {"HF_ENDPOINT": server.url, "HF_HOME": str(folder / "hf"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    known |= {"PYTHONPATH": str(ROOT / "src"), **environment}
    head = f"import wideresnet as wrn; PICTURE = {str(folder / 'picture.npy')!r}\n{SHOW}{TRY}"
    command = [sys.executable, "-c", head + code]
    done = subprocess.run(command, env=known, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


def test_a_run_that_was_pushed_predicts_the_same_elsewhere_also_without_a_network(
    server: HubServer, model: Path, tmp_path: Path
) -> None:
    (address,) = fresh(server, tmp_path, "print(wrn.push_to_hub('run', 'someone/flowers'))")
    repo = server.repos["someone/flowers"]
    held = repo.commits[repo.find("main") or ""]
    assert address == f"{server.url}/someone/flowers/commit/{repo.find('main')}"
    assert set(held) == {".gitattributes", "README.md", "model.safetensors"}
    assert held["model.safetensors"] == (model / "model.safetensors").read_bytes()

    expected = wrn.load(model).logits(PICTURE).tolist()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(tmp_path / "picture.npy", elsewhere)
    server.asked.clear()
    not_there, shown = fresh(
        server,
        elsewhere,
        "tried('hf:someone/flowers'); show(wrn.load('hf:someone/flowers', download=True))",
        HF_TOKEN="",
    )
    assert not_there.startswith("ModelFileError: hf:someone/flowers: is not in the cache. Nothing is fetched unasked: ")
    np.testing.assert_allclose(json.loads(shown), expected, rtol=1e-6)
    resolve = "/someone/flowers/resolve/main/model.safetensors"
    assert server.asked == [f"HEAD {resolve}", f"GET {resolve}"]
    assert not [agent for agent in server.agents if "torch" in agent]

    server.asked.clear()
    assert fresh(server, elsewhere, "show(wrn.load('hf:someone/flowers'))") == [shown]
    assert server.asked == []
    server.close()  # and with `download` the cache answers where nobody else does
    assert fresh(server, elsewhere, "show(wrn.load('hf:someone/flowers', download=True))") == [shown]
    offline = "import huggingface_hub; show(wrn.load('hf:someone/flowers', download=True))"
    assert fresh(server, elsewhere, offline, HF_HUB_OFFLINE="1") == [shown]


def test_the_commands_take_a_model_of_the_hub(server: HubServer, model: Path, tmp_path: Path) -> None:
    content = (model / "model.safetensors").read_bytes()
    server.repos["someone/flowers"] = Repo()
    server.repos["someone/flowers"].commit({"model.safetensors": content})
    for name in ("a|b", "<c>", "d e"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(PICTURE + np.uint8(i)).save(tmp_path / "photos" / name / f"{i}.png")
    code = """
from wideresnet import cli
for words in ("info hf:someone/flowers", "info hf:someone/flowers --download --json", "info hf:someone/flowers",
              "predict hf:someone/flowers photos/d?e/0.png --format csv",
              "convert hf:someone/flowers --dialect trades", "evaluate hf:someone/flowers photos --json"):
    print("exit code", cli.run(words.split()))
"""
    lines = fresh(server, tmp_path, code)
    assert [line for line in lines if line.startswith("exit code")] == [
        f"exit code {code}" for code in (2, 0, 0, 0, 0, 0)
    ]
    assert '"network": "wrn_10_1.paper",' in "".join(lines).replace("  ", "")
    assert (tmp_path / "flowers-trades.pth").exists()
    label = wrn.load(model)(PICTURE).label
    assert any(line.startswith(f"photos/d e/0.png,{label},") for line in lines)


@pytest.mark.usefixtures("model")
def test_a_network_alone_is_pushed_with_its_classes_and_comes_back_as_what_predicts(
    server: HubServer, tmp_path: Path
) -> None:
    push = """
import torch
from wideresnet.hub import HubModel
torch.manual_seed(0)
network = wrn.WideResNetClassifier(num_classes=3, depth=10, widen_factor=1)
preprocess = wrn.Preprocess(size=16, mean=(0.5, 0.4, 0.3), std=(0.25, 0.25, 0.25))
model = HubModel(network, class_names=["ant", "bee", "cow"], preprocess=preprocess)
model.push_to_hub("flowers", commit_message="first")
show(model)
torch.nn.init.ones_(network.fc.bias)
wrn.push_to_hub(network, "someone/flowers", class_names=["ant", "bee", "cow"], preprocess=preprocess)
"""
    (first,) = fresh(server, tmp_path, push)
    commits = list(server.repos["someone/flowers"].commits)
    assert len(commits) == 3  # with the empty one that the repository begins with
    pull = f"""
from wideresnet.hub import HubModel
show(HubModel.from_pretrained("someone/flowers", revision={commits[1]!r}))
show(wrn.load("hf:someone/flowers@{commits[1]}"))
new = HubModel.from_pretrained("someone/flowers")
show(new)
show(HubModel.from_pretrained("someone/flowers", local_files_only=True))
print(isinstance(new, wrn.Predictor), new.card.class_names)
"""
    old, by_name, new, local, kind = fresh(server, tmp_path, pull)
    assert old == by_name == first
    np.testing.assert_allclose(np.subtract(json.loads(new), json.loads(old)), np.ones((1, 3)), rtol=1e-5)
    assert local == new
    assert kind == "True ('ant', 'bee', 'cow')"


def test_the_cache_is_brought_up_to_date_only_if_asked(server: HubServer, model: Path, tmp_path: Path) -> None:
    repo = server.repos["someone/flowers"] = Repo()
    repo.commit({"model.safetensors": (model / "model.safetensors").read_bytes()})
    fresh(server, tmp_path, "wrn.load('hf:someone/flowers', download=True)")
    old_one = load_model(model)
    old_one.model.state_dict()["fc.bias"].add_(1)
    file = tmp_path / "new" / "model.safetensors"
    save_model(file, old_one.model.state_dict(), old_one.card)
    repo.commit({"model.safetensors": file.read_bytes()})
    code = "show(wrn.load('hf:someone/flowers')); show(wrn.load('hf:someone/flowers', download=True))\n"
    code += "from wideresnet.jobs.transfer import find_source\n"
    code += "print(find_source('hf:someone/flowers', None, pretrained=False, download=False).digest)"
    *logits, init = fresh(server, tmp_path, code)
    old, new = map(json.loads, logits)
    assert init == hashlib.sha256(file.read_bytes()).hexdigest()
    np.testing.assert_allclose(np.subtract(new, old), np.ones((1, 3)), rtol=1e-4)


@pytest.mark.usefixtures("model")
def test_what_is_no_model_of_ours_is_one_line_that_says_what_is_there(server: HubServer, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.safetensors"
    save_file({"fc.weight": torch.zeros(2, 2)}, theirs)
    content = {
        "none": {"pytorch_model.bin": b"x", "config.json": b"{}"},
        "theirs": {"model.safetensors": theirs.read_bytes()},
    }
    content["damaged"] = {"model.safetensors": b"<html>"}
    for name, files in content.items():
        server.repos[f"someone/{name}"] = Repo()
        server.repos[f"someone/{name}"].commit({".gitattributes": b"", "README.md": b"", **files})
    names = ("none", "theirs", "damaged", "nobody", "none@v2")
    code = "".join(f"tried('hf:someone/{name}', download=True)\n" for name in names)
    code += "tried('hf:someone/theirs'); tried('hf:some one/x'); tried('hf:'); tried('hf:someone/none')"
    lines = iter(fresh(server, tmp_path, code))
    start = "ModelFileError: hf:someone/"
    assert next(lines) == f"{start}none: no model.safetensors there; it holds README.md, config.json, pytorch_model.bin"
    ours_not = "safetensors, but no model file or checkpoint of ours (no 'wideresnet' entry)"
    assert next(lines) == f"{start}theirs: its model.safetensors: {ours_not}. It holds README.md, model.safetensors"
    assert next(lines).startswith(f"{start}damaged: its model.safetensors: a web page or XML; expected a safetensors")
    assert next(lines) == f"{start}nobody: no such repository, or a private one that needs `hf auth login`"
    assert next(lines) == f"{start}none@v2: there is no such branch, tag or commit"
    assert next(lines) == f"{start}theirs: its model.safetensors: {ours_not}. It holds model.safetensors"
    assert next(lines).startswith("UsageError: hf:some one/x: expected hf:OWNER/NAME, as in hf:someone/flowers")
    assert next(lines).startswith("UsageError: hf:: expected hf:OWNER/NAME")
    assert next(lines).startswith(f"{start}none: is not in the cache. Nothing is fetched unasked: --download")
    server.close()
    code = "tried('hf:someone/other', download=True)"
    (line,) = fresh(server, tmp_path, code, HF_HUB_OFFLINE="1")
    assert line.startswith(f"{start}other: cannot be reached: ")
    assert "HF_HUB_OFFLINE" in line


@pytest.mark.usefixtures("model")
def test_a_push_that_the_hub_refuses_is_one_line(server: HubServer, tmp_path: Path) -> None:
    code = """
for name in ("someone/flowers", "some one/flowers"):
    try:
        wrn.push_to_hub("run", name)
    except wrn.UsageError as error:
        print(error)
"""
    refused, name = fresh(server, tmp_path, code, HF_TOKEN="")
    assert refused.startswith("someone/flowers: cannot be pushed: ")
    assert refused.endswith("Nobody is logged in here: `hf auth login`")
    assert name == "'some one/flowers': expected OWNER/NAME, as in someone/flowers"
    assert server.repos == {}


def test_the_readme_says_what_the_model_is_with_the_split_of_every_figure(model: Path, tmp_path: Path) -> None:
    hub.HubModel(model).save_pretrained(tmp_path / "flowers", repo_id="someone/flowers")
    assert sorted(path.name for path in (tmp_path / "flowers").iterdir()) == ["README.md", "model.safetensors"]
    text = (tmp_path / "flowers" / "README.md").read_text(encoding="utf-8")
    front: Any = ModelCard(text).data
    assert (front.library_name, front.pipeline_tag) == ("wideresnet", "image-classification")
    assert {"wideresnet", "wrn_10_1.paper"} <= set(front.tags or ())
    assert "| classes | 3: a\\|b, &lt;c>, d e |" in text
    assert "| accuracy on test | 87.5% of 1,234 pictures, 95 % interval 85.0% to 90.0% |" in text
    assert "| loss on test | 0.5000 |" in text
    assert "| mean and std | 0.5 0.4 0.3 and 0.25 0.25 0.25 of [0, 1] |" in text
    assert 'wrn.load("hf:someone/flowers", download=True)' in text


def test_the_readme_names_whose_weights_they_were(model: Path, tmp_path: Path) -> None:
    file = load_model(model)
    card = dataclasses.replace(file.card, imported={"dialect": "trades"})
    save_model(tmp_path / "ours.safetensors", file.model.state_dict(), card)
    hub.HubModel(tmp_path / "ours.safetensors").save_pretrained(tmp_path / "flowers")
    text = (tmp_path / "flowers" / "README.md").read_text(encoding="utf-8")
    assert "| imported from | a checkpoint of yaodongyu/TRADES (Zhang et al. 2019 (TRADES)), whose code has the" in text


def test_a_saved_folder_is_loaded_without_the_hub(model: Path, tmp_path: Path) -> None:
    hub.HubModel(model).save_pretrained(tmp_path / "flowers")
    again = hub.HubModel.from_pretrained(tmp_path / "flowers")
    assert torch.equal(again.logits(PICTURE), wrn.load(model).logits(PICTURE))
    assert "hf:OWNER/flowers" in (tmp_path / "flowers" / "README.md").read_text(encoding="utf-8")


def test_a_network_that_would_not_predict_is_not_taken(model: Path) -> None:
    network = wrn.WideResNetClassifier(3, depth=10, widen_factor=1)
    with pytest.raises(UsageError, match=r"a network alone cannot predict: give class_names=.* and preprocess="):
        hub.HubModel(network)
    with pytest.raises(ModelFileError, match="2 class names for a network of 3 classes"):
        hub.HubModel(network, class_names=["a", "b"], preprocess=PREPROCESS)
    grey = wrn.Preprocess(size=16, mean=(0.5,), std=(0.25,))
    with pytest.raises(UsageError, match="a preprocess of 1 channels for a network of 3"):
        hub.HubModel(network, class_names=["a", "b", "c"], preprocess=grey)
    with pytest.raises(UsageError, match="its classes and preprocessing are in the file; leave both out"):
        hub.HubModel(model, class_names=["a", "b", "c"])
    nn.init.constant_(network.fc.bias, float("nan"))
    with pytest.raises(ModelFileError, match="weights that are not finite"):
        hub.HubModel(network, class_names=["a", "b", "c"], preprocess=PREPROCESS)


def test_a_network_of_timms_goes_the_same_way_unless_our_file_cannot_say_it() -> None:
    timm: Any = importlib.import_module("timm")
    for pool in ("avg", "max"):
        network = timm.create_model("wrn_10_1", num_classes=3, global_pool=pool)
        if pool == "avg":
            assert hub.HubModel(network, class_names=["a", "b", "c"], preprocess=PREPROCESS)(PICTURE).label in "abc"
        else:
            with pytest.raises(ModelFileError, match="unknown option 'global_pool'"):
                hub.HubModel(network, class_names=["a", "b", "c"], preprocess=PREPROCESS)


def test_without_the_extra_one_line_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "wideresnet.hub.mixin", raising=False)
    with pytest.raises(UsageError, match=r"hf:a/b: models of Hugging Face needs .*pip install 'wideresnet\[hub\]'"):
        wrn.load("hf:a/b")
    with pytest.raises(UsageError, match=r"pip install 'wideresnet\[hub\]'"):
        _ = hub.HubModel
