"""Several processes compute what one does: real ones, started by torchrun, talking over loopback."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from conftest import ROOT
from test_jobs import equal_runs, metrics_but_times
from torch import nn

import wideresnet as wrn
from wideresnet import runs, runtime
from wideresnet.checkpoint import load_checkpoint
from wideresnet.errors import UsageError
from wideresnet.jobs.planning import plan
from wideresnet.jobs.preparation import fit_to_data, prepare
from wideresnet.processes import ALONE, World, joined
from wideresnet.reading import Reading
from wideresnet.recipes import RecipeChanges

HERE = Path(__file__).parent
WRN = ("-m", "wideresnet")


def torchrun(num: int, *command: str, hosts: int = 1) -> list[subprocess.CompletedProcess[str]]:
    """`command` in so many processes on each of `hosts`, which are addresses of this machine. One result a host."""
    port = 29_500 + os.getpid() % 1000
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), "GLOO_SOCKET_IFNAME": "lo"}
    started = []
    for host in range(hosts):
        launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(hosts), "--node-rank", str(host)]
        launch += ["--nproc-per-node", str(num), "--master-addr", "127.0.0.1", "--master-port", str(port)]
        launch += ["--local-addr", f"127.0.0.{1 + host}"]
        started.append(
            subprocess.Popen(
                [*launch, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    results: list[subprocess.CompletedProcess[str]] = []
    for process in started:
        out, error = process.communicate(timeout=300)
        results.append(subprocess.CompletedProcess(process.args, process.returncode, out, error))
    return results


def probes(num: int, folder: Path, hosts: int = 1) -> list[dict[str, Any]]:
    """What each process of processes_probe.py wrote, by rank."""
    results = torchrun(num, str(HERE / "processes_probe.py"), str(folder), hosts=hosts)
    assert all(result.returncode == 0 for result in results), results[0].stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(num * hosts)]


@pytest.fixture(scope="module", params=[(2, 1), (4, 1), (1, 2)], ids=["2", "4", "2 on two addresses"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of several processes computes: two or four on one host, or one on each of two."""
    num, hosts = request.param
    return probes(num, tmp_path_factory.mktemp("probes"), hosts)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process computes."""
    folder = tmp_path_factory.mktemp("alone")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, str(HERE / "processes_probe.py"), str(folder)], env=environment, check=True)
    values: dict[str, Any] = json.loads((folder / "0.json").read_text())
    return values


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("num", [0, 1, 3, 8, 13])
def test_the_parts_of_all_processes_are_the_whole_without_repeats(size: int, num: int) -> None:
    parts = [World(rank, size).share(torch.arange(num)) for rank in range(size)]
    assert torch.equal(torch.cat(parts), torch.arange(num))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_every_sum_is_the_value_itself() -> None:
    values = torch.arange(3.0)
    assert ALONE.add(values) is values
    assert ALONE.gather(values) is values
    assert ALONE.from_main("x") == "x"
    model = nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    assert model.weight.grad is not None
    before = model.weight.grad.clone()
    ALONE.add_gradients(model.parameters())
    assert torch.equal(model.weight.grad, before)


def test_processes_gather_parts_of_different_lengths_in_order(found: list[dict[str, Any]]) -> None:
    expected = {"gathered": [[i, -i] for i in range(7)], "none": [], "main": "rank 0", "largest": len(found) - 1}
    assert [process["gather"] for process in found] == [expected] * len(found)


def test_synchronised_bn_equals_bn_of_the_whole_batch(found: list[dict[str, Any]]) -> None:
    """Outputs, input and parameter gradients and running statistics in float64, the parts of unequal lengths."""
    for process in found:
        differences = process["bn"]
        assert set(differences) == {"y", "x.grad", "weight.grad", "bias.grad", "running_mean", "running_var", "count"}
        assert max(differences.values()) < 1e-12, differences


def test_synchronised_bn_of_half_precision_keeps_its_statistics_in_float32(found: list[dict[str, Any]]) -> None:
    for process in found:
        for name, difference in process["half"].items():  # one step of bfloat16 at 4 is 1/32; statistics are float32
            assert difference < (0.04 if name.endswith(" y") else 1e-5), (name, difference)


def test_many_processes_train_as_one_does(found: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    """With synchronised BN and no augmentation, batches of 13 cut unevenly, validation on 7 pictures."""
    whole = alone["float64"]
    for process in found:
        many = process["float64"]
        losses = max(abs(a - b) / b for a, b in zip(many["train_loss"], whole["train_loss"], strict=True))
        assert losses < 1e-9, losses
        weights = max(abs(a - b) for a, b in zip(many["weights"], whole["weights"], strict=True))
        assert weights < 1e-9, weights
        assert many["train_accuracy"] == whole["train_accuracy"]
        assert many["val_accuracy"] == whole["val_accuracy"]
        first, expected = process["float32"]["train_loss"][0], alone["float32"]["train_loss"][0]
        assert abs(first - expected) / expected < 1e-5
    print(f"{len(found)} processes: losses of 20 steps in float64 {losses:.1e}, weights {weights:.1e}")


def train_digits(out: Path, *options: str, program: Sequence[str] = WRN) -> subprocess.CompletedProcess[str]:
    small = ["--arch", "wrn_10_1", "--epochs", "2", "--batch-size", "101", "--dropout-p", "0.1", "--device", "cpu"]
    return torchrun(2, *program, "train", "digits", "--out", str(out), *small, *options)[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of a run of two processes, never stopped, and what they said."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, train_digits(folder)


def test_torchrun_trains_a_run_that_one_process_writes_and_tells_of(
    whole: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run, done = whole
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("test accuracy") == 1
    assert done.stderr.count("recipe fast: 2 epochs") == 1
    evaluation = wrn.load(run).card.figures
    assert evaluation["num_images"] == 179
    assert len((run / "metrics.csv").read_text().splitlines()) == 3
    assert "torchrun --nproc-per-node 2 -m wideresnet train digits" in runs.read_config(run).command
    with pytest.raises(UsageError, match=r"trained by 2 processes, and these are 1.*torchrun --nproc-per-node 2"):
        wrn.resume(run)


INTERRUPT_THE_OTHER = """
import os, signal, sys
from pathlib import Path
from wideresnet import cli
from wideresnet.cli import console

def progress(what, done, *_):  # of the first process: the others show nothing
    if what.startswith("epoch 2/") and done == 19:
        launcher = os.getppid()
        for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
            if int(child) != os.getpid():
                os.kill(int(child), signal.SIGINT)

console._sparse = lambda: progress
sys.exit(cli.run(sys.argv[1:]))
"""


def test_processes_of_which_one_is_interrupted_stop_after_the_same_step_and_go_on_bitwise(
    whole: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    if not Path("/proc/self/task").exists():
        pytest.skip("finds processes as Linux shows them")
    (tmp_path / "interrupt.py").write_text(INTERRUPT_THE_OTHER)
    stopped = train_digits(tmp_path / "run", program=[str(tmp_path / "interrupt.py")])
    step = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")[1]["begun"]["steps"]
    assert step >= 5, stopped.stderr[-3000:]
    assert f"stopped after step {step} of 14 of epoch 2" in stopped.stderr
    resumed = torchrun(2, *WRN, "train", "--resume", str(tmp_path / "run"))[0]
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert f"after step {step} of 14 of epoch 2 of 2" in resumed.stderr
    assert equal_runs(tmp_path / "run", whole[0])
    assert metrics_but_times(tmp_path / "run") == metrics_but_times(whole[0])


def test_a_process_that_fails_ends_all_with_its_message(tmp_path: Path) -> None:
    failed = train_digits(tmp_path / "run", "--lr", "1e30")
    assert failed.returncode != 0
    assert "wrn, process 1: " in failed.stderr
    assert "Try a lower --lr" in failed.stderr


@pytest.mark.parametrize(("name", "text"), [("RANK", ""), ("LOCAL_RANK", "x"), ("WORLD_SIZE", "two")])
def test_half_an_environment_of_torchrun_is_named(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    for variable, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", name: text}.items():
        monkeypatch.setenv(variable, value)
    with (
        pytest.raises(UsageError, match=rf"{name} is no number; start them with torchrun, or unset WORLD_SIZE"),
        joined(),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 2}, "3 processes for batches of 2 pictures"),
        (
            {"batch_size": 9, "accumulate": 4},
            "accumulate=4: the smallest batch leaves 3 pictures to each of 3",
        ),
        ({"batch_size": 6, "size": 4}, None),
        ({"batch_size": 4, "size": 4}, "BN needs more than one value of each channel"),
    ],
)
def test_batches_too_small_for_the_processes_are_refused(changes: dict[str, Any], said: str | None) -> None:
    options: dict[str, Any] = dict.fromkeys(["recipe", "mean", "std", "from_model", "labels", "folds"])
    options |= {"arch": "wrn_10_1", "in_channels": 3, "fit": "crop", "seed": 0, "device": "cpu", "max_bad": 0}
    options |= {"reading": Reading(), "watch": runtime.QUIET, "world": World(0, 3), "size": changes.pop("size", None)}
    planned = plan("digits", cast(RecipeChanges, changes), **options)
    prepared = prepare(planned.config, planned.listing, runtime.QUIET, world=World(0, 3))
    if said is None:
        assert fit_to_data(prepared).config.recipe.batch_size == changes["batch_size"]
        return
    with pytest.raises(UsageError, match=said):
        fit_to_data(prepared)
