"""Which engine trains: chosen once, said, kept in the run, and asked for by name."""

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from test_jobs import QUICK, StopAfter, metrics_but_times
from torch import nn

import wideresnet as wrn
from wideresnet import engines, kernels, networks, runs, runtime, training
from wideresnet.cli import run
from wideresnet.cli.evaluating import evaluate
from wideresnet.cli.predicting import predict
from wideresnet.cli.trainings import train
from wideresnet.cli.tuning import tune
from wideresnet.errors import Interrupted, UsageError
from wideresnet.kernels import library
from wideresnet.model import WideResNetClassifier
from wideresnet.preprocess import Preprocess
from wideresnet.processes import synchronise_bn
from wideresnet.recipes import RECIPES, change

CPU, FAST = torch.device("cpu"), RECIPES["fast"]
OURS = kernels.isa() != "none"
built = pytest.mark.skipif(not OURS, reason=f"kernels: {kernels.state()}")
AUTO = "kernels" if OURS else "torch"


@pytest.mark.parametrize("command", [evaluate, predict, train, tune])
def test_the_engines_of_a_command_are_those_of_the_package(command: Callable[..., object]) -> None:
    offered = signature(command, eval_str=True).parameters["engine"]
    assert get_args(offered.annotation) == get_args(engines.Name)


@built
@pytest.mark.parametrize(
    ("changes", "device", "why"),
    [
        ({"precision": "bf16"}, "cpu", "they compute in fp32, not in bf16"),
        ({"compile": True}, "cpu", "--compile has torch compile the network"),
        ({}, "cuda", "they compute on a CPU, not on cuda"),
        ({"precision": "bf16"}, "mps", "they compute on a CPU, not on mps"),
    ],
)
def test_what_the_kernels_cannot_train_torch_does_and_by_name_it_is_refused_saying_why(
    changes: dict[str, Any], device: str, why: str
) -> None:
    model, recipe = WideResNetClassifier(3, 10, 1), change(FAST, changes)
    assert engines.for_training(model, FAST, CPU)[0] == "kernels"
    name, reason = engines.for_training(model, recipe, torch.device(device))
    assert name == "torch"
    assert reason.startswith(f"torch {torch.__version__} on {device}")
    assert (why in reason) == (device == "cpu"), "nobody waits for them on a GPU"
    with pytest.raises(UsageError, match=f"--engine kernels: {why}; leave --engine out"):
        engines.for_training(model, recipe, torch.device(device), "kernels")


@built
def test_networks_that_the_kernels_do_not_know_are_torch_s_to_train() -> None:
    model = WideResNetClassifier(3, 10, 1)
    synchronise_bn(model)
    for unknown in (model, nn.Linear(3, 3)):
        assert engines.for_training(unknown, FAST, CPU)[0] == "torch"
    assert engines.for_training(WideResNetClassifier(3, 10, 1), FAST, CPU, "torch")[0] == "torch"


@built
def test_what_trains_is_chosen_as_the_network_is_made_whatever_it_is() -> None:
    for arch in ("wrn_16_2", "wrn_28_10.paper", "wrn_34_10.trades"):
        made = networks.create(arch, 10)
        planned = networks.without_weights(arch, 2).to_empty(device="cpu")
        assert engines.for_training(planned, FAST, CPU) == engines.for_training(made, FAST, CPU)


@pytest.mark.parametrize("words", [("--precision", "bf16"), ("--arch", "torchvision:resnet18")])
@pytest.mark.parametrize("command", [("train",), ("train", "--find-lr"), ("tune", "--trials", "2")], ids=" ".join)
def test_kernels_that_cannot_train_are_refused_before_anything_is_written(
    command: tuple[str, ...],
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([command[0], "digits", *command[1:], *words, "--engine", "kernels"]) == 2
    assert capsys.readouterr().err.startswith("wrn: --engine kernels: ")
    assert not list(tmp_path.iterdir())


def test_the_engine_that_trains_is_said_and_kept(tmp_path: Path) -> None:
    lines, trained = list[str](), {}
    for name in get_args(engines.Name) if OURS else ("auto", "torch"):
        watch = runtime.Watch(line=lines.append)
        wrn.train("digits", engine=name, out=tmp_path / name, **{**QUICK, "epochs": 1, "watch": watch})
        said = next(line for line in lines if " at 8 pixels for " in line)
        lines.clear()
        found = AUTO if name == "auto" else name
        reason = f"our kernels ({kernels.isa()}) on cpu" if found == "kernels" else f"torch {torch.__version__} on cpu"
        assert reason in said
        config = runs.read_config(tmp_path / name)
        assert config.engine == found == wrn.load(tmp_path / name).card.trained["engine"]
        assert f" --engine {found} " in config.command
        trained[name] = load_file(tmp_path / name / "checkpoint.safetensors")
    weights = "model/backbone.stage1.0.conv1.weight"
    assert torch.equal(trained["auto"][weights], trained[AUTO][weights])
    if OURS:
        ours, torchs = trained["kernels"][weights], trained["torch"][weights]
        assert 0 < (ours - torchs).norm() < 0.05 * torchs.norm()  # rounded otherwise, so it was they


@pytest.mark.parametrize("engine", get_args(engines.Found))
def test_a_run_goes_on_bitwise_with_the_engine_that_began_it(tmp_path: Path, engine: engines.Found) -> None:
    if engine == "kernels" and not OURS:
        pytest.skip(f"kernels: {kernels.state()}")
    options = {**QUICK, "engine": engine, "epochs": 2, "dropout_p": 0.1, "sam_rho": 0.05, "accumulate": 2}
    options |= {"swa_epochs": 1, "clip_norm": 1.0} if engine == "kernels" else {"ema_decay": 0.9}
    wrn.train("digits", out=tmp_path / "whole", **options)
    with pytest.raises(Interrupted):
        wrn.train("digits", out=tmp_path / "stopped", **{**options, "watch": runtime.Watch(progress=StopAfter(2, 5))})
    assert runs.read_config(tmp_path / "stopped").engine == engine
    wrn.resume(tmp_path / "stopped", watch=runtime.QUIET)
    assert metrics_but_times(tmp_path / "stopped") == metrics_but_times(tmp_path / "whole")
    for name in ("checkpoint.safetensors", "model.safetensors"):
        whole, stopped = load_file(tmp_path / "whole" / name), load_file(tmp_path / "stopped" / name)
        assert all(torch.equal(whole[key], stopped[key]) for key in whole), name


@built
def test_a_run_that_the_kernels_trained_is_not_gone_on_with_where_they_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in get_args(engines.Found):
        wrn.train("digits", engine=name, out=tmp_path / name, **{**QUICK, "epochs": 1})
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))  # there is none
    library.load.cache_clear()
    try:
        with pytest.raises(
            UsageError, match=r"engine our kernels, which are not built: .* → torch.*--allow-changed engine versions"
        ):
            wrn.resume(tmp_path / "kernels")
        with pytest.raises(UsageError, match=r"begun otherwise \(versions kernels .* → none"):  # they judged it
            wrn.resume(tmp_path / "torch")
        with pytest.raises(UsageError, match=r"--engine kernels: our kernels are not built: "):
            wrn.train("digits", engine="kernels", out=tmp_path / "r", **QUICK)
        assert not (tmp_path / "r").exists()
    finally:
        library.load.cache_clear()


@built
@pytest.mark.parametrize("engine", get_args(engines.Found))
def test_weights_lie_as_the_engine_that_trains_reads_them_and_judging_leaves_them_there(engine: engines.Found) -> None:
    state = training.start(engines.to_device(WideResNetClassifier(3, 10, 2), CPU, engine), FAST, engine=engine)
    weights = state.model.get_parameter("backbone.stage1.0.conv1.weight")
    wanted = torch.contiguous_format if engine == "kernels" else torch.channels_last
    assert weights.is_contiguous(memory_format=wanted)
    preprocess = Preprocess(size=8, mean=(0.5,) * 3, std=(0.2,) * 3)
    place = weights.data_ptr()
    judge = engines.choose(state.model, preprocess, CPU)
    assert judge.name == "kernels"
    assert weights.is_contiguous(memory_format=wanted)
    assert weights.data_ptr() == place
    through = training.through(state, FAST)
    assert isinstance(through, kernels.Accelerated) == (engine == "kernels")
    assert {id(p) for p in through.parameters()} == {id(p) for p in state.model.parameters()}
