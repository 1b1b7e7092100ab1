"""Several processes compute what one does: real ones, started by torchrun, talking over loopback."""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from conftest import ROOT
from PIL import Image
from shapes import write_shapes
from test_jobs import equal_runs, metrics_but_times
from torch import nn

import wideresnet as wrn
from wideresnet import runs, runtime
from wideresnet.checkpoint import load_checkpoint, read_card
from wideresnet.errors import UsageError
from wideresnet.jobs.planning import plan
from wideresnet.jobs.preparation import fit_to_data, prepare
from wideresnet.processes import ALONE, World, joined, lifeline
from wideresnet.reading import Reading
from wideresnet.recipes import RecipeChanges

HERE = Path(__file__).parent
WRN = ("-m", "wideresnet")
SUBNET, CABLE = "10.213.7", "cable"


def torchrun(
    num: int,
    *command: str,
    hosts: int = 1,
    networks: Sequence[str] = ("",),
    meanwhile: Callable[[], None] = lambda: None,
) -> list[subprocess.CompletedProcess[str]]:
    """`command` in so many processes on each of `hosts`, which are addresses of this machine, or have one of `networks`
    each (`ip netns`). One result a host.

    When all have ended, nothing that they began is left: looked for by a mark in the environment.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mark = f"WRN_TEST={uuid.uuid4().hex}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), "GLOO_SOCKET_IFNAME": "lo"}
    environment |= dict([mark.split("=")])
    started, subnet = [], "127.0.0"
    if networks != ("",):
        hosts, subnet, environment["GLOO_SOCKET_IFNAME"] = len(networks), SUBNET, CABLE
    for host in range(hosts):
        launch = ["ip", "netns", "exec", networks[host]] if subnet == SUBNET else []
        launch += [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(hosts), "--node-rank", str(host)]
        launch += ["--nproc-per-node", str(num), "--master-addr", f"{subnet}.1", "--master-port", str(port)]
        launch += ["--local-addr", f"{subnet}.{1 + host}", *(["--no-python"] if command[0] == "sh" else [])]
        started.append(
            subprocess.Popen(
                [*launch, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    results: list[subprocess.CompletedProcess[str]] = []
    try:
        meanwhile()
        for process in started:
            out, error = process.communicate(timeout=300)
            results.append(subprocess.CompletedProcess(process.args, process.returncode, out, error))
        assert not left_over(mark)
    finally:
        for process in started:
            process.terminate()  # nothing, where it has ended
    return results


def left_over(mark: str) -> list[str]:
    """Processes that have `mark` in their environment; those that have just ended do not count."""
    found = list[str]()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
    return found


def shell(num: int, script: str, folder: Path, **options: Any) -> list[subprocess.CompletedProcess[str]]:
    """`script` of sh, in `folder`, in each process; `$WRN` there is the command."""
    return torchrun(num, "sh", "-c", f"cd {folder}; WRN='{sys.executable} -m wideresnet'; {script}", **options)


def said(*results: subprocess.CompletedProcess[str]) -> list[str]:
    """Lines of ours; torchrun adds its own, with a traceback of itself."""
    lines = [line for result in results for line in result.stderr.splitlines()]
    assert not [line for line in lines if line.startswith("[rank")], "a traceback of ours"
    return [line for line in lines if line.startswith("wrn, process")]


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


SLOWLY = ("--lr", "0.01")
SMALL = "--arch wrn_10_1 --batch-size 101 --device cpu --out"


def train_digits(out: Path, *options: str, program: Sequence[str] = WRN) -> subprocess.CompletedProcess[str]:
    small = ["--epochs", "2", *SMALL.split(), str(out)]
    return torchrun(2, *program, "train", "digits", *small, *options)[0]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A training by two processes, never stopped, and what they said."""
    out = tmp_path_factory.mktemp("plain") / "run"
    return out, train_digits(out, *SLOWLY)


def test_torchrun_trains_a_run_that_one_process_writes_and_tells_of(
    plain: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, done = plain
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("test accuracy") == 1
    assert done.stderr.count("recipe fast: 2 epochs") == 1
    evaluation = wrn.load(out).card.figures
    assert evaluation["num_images"] == 179
    assert len((out / "metrics.csv").read_text().splitlines()) == 3
    assert "torchrun --nproc-per-node 2 -m wideresnet train digits" in runs.read_config(out).command
    with pytest.raises(UsageError, match=r"processes 2 → 1.*torchrun --nproc-per-node 2"):
        wrn.resume(out)


SIGNAL_THE_OTHER = """
import os, signal, sys
from pathlib import Path
from wideresnet import cli
from wideresnet.cli import console

os.chdir(Path(__file__).parent)

def progress(what, done, *_):  # of the first process: the others show nothing
    if what.startswith("epoch 2/") and done == 19 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        launcher = os.getppid()
        for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
            if int(child) != os.getpid():
                os.kill(int(child), signal.SIGNAL)

console._sparse = lambda: progress
sys.exit(cli.run(sys.argv[1:]))
"""


def test_processes_of_which_one_is_interrupted_stop_after_the_same_step_and_go_on_bitwise(
    plain: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    if not Path("/proc/self/task").exists():
        pytest.skip("finds processes as Linux shows them")
    (tmp_path / "interrupt.py").write_text(SIGNAL_THE_OTHER.replace("SIGNAL", "SIGINT"))
    stopped = train_digits(tmp_path / "run", *SLOWLY, program=[str(tmp_path / "interrupt.py")])
    step = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")[1]["begun"]["steps"]
    assert step >= 5, stopped.stderr[-3000:]
    assert f"stopped after step {step} of 14 of epoch 2" in stopped.stderr
    resumed = torchrun(2, *WRN, "train", "--resume", str(tmp_path / "run"))[0]
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert f"after step {step} of 14 of epoch 2 of 2" in resumed.stderr
    assert equal_runs(tmp_path / "run", plain[0])
    assert metrics_but_times(tmp_path / "run") == metrics_but_times(plain[0])


@pytest.mark.parametrize("named", [True, False], ids=["--out", "no --out"])
def test_where_torchrun_starts_processes_anew_after_a_kill_they_go_on_with_their_run_by_themselves(
    plain: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path, named: bool
) -> None:
    if not Path("/proc/self/task").exists():
        pytest.skip("finds processes as Linux shows them")
    (tmp_path / "kill.py").write_text(SIGNAL_THE_OTHER.replace("SIGNAL", "SIGKILL"))
    words = ["digits", "--epochs", "2", *SMALL.split()[:-1], *SLOWLY]
    words += ["--out", "runs/digits-1", "--checkpoint-every", "0.001s"] if named else []
    done = torchrun(2, "--max-restarts", "1", str(tmp_path / "kill.py"), "train", *words)[0]
    assert done.returncode == 0, done.stderr[-3000:]
    assert "process 1 of 2 has ended without a word: it was killed" in done.stderr
    where = r"after step \d of 14 of epoch 2 of 2" if named else "after epoch 1 of 2"
    assert re.search(f"going on with runs/digits-1 {where}", done.stderr), done.stderr[-3000:]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["digits-1"], "no other run was begun"
    assert equal_runs(tmp_path / "runs" / "digits-1", plain[0])
    assert metrics_but_times(tmp_path / "runs" / "digits-1") == metrics_but_times(plain[0])


def test_a_restart_never_takes_over_a_run_that_was_begun_otherwise(
    plain: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    run = shutil.copytree(plain[0], tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    words = ["train", "digits", "--epochs", "2", *SMALL.split(), str(run), *SLOWLY, "--seed", "9"]
    done = torchrun(2, "--max-restarts", "1", *WRN, *words)[0]
    assert done.returncode != 0
    assert "exists already and is not empty" in done.stderr
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_another_number_of_processes_goes_on_with_every_picture_once_if_that_is_allowed(
    plain: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    run = shutil.copytree(plain[0], tmp_path / "run")
    assert load_checkpoint(run / "checkpoint.previous.safetensors")[1]["epoch"] == 1, "after a whole epoch"
    (run / "checkpoint.previous.safetensors").replace(run / "checkpoint.safetensors")
    lines = list[str]()
    wrn.resume(run, allow_changed=["processes"], watch=runtime.Watch(line=lines.append))
    assert any("other processes (2 → 1): not bitwise" in line for line in lines)
    one, whole = (metrics_but_times(folder) for folder in (run, plain[0]))
    assert one[0] == whole[0], "the epoch that was done"
    losses = [float(dict(rows[1])["train_loss"]) for rows in (one, whole)]
    assert losses[0] != losses[1], "BN sees whole batches now"
    assert losses[0] == pytest.approx(losses[1], rel=0.05), "of the same pictures"


def first_losses(run: Path) -> torch.Tensor:
    with (run / "metrics.csv").open() as file:
        row = next(csv.DictReader(file))
    return torch.tensor([float(row[name]) for name in ("train_loss", "val_loss")], dtype=torch.float64)


def test_sync_bn_makes_two_processes_train_as_one_and_without_it_they_do_not(
    plain: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """The losses of an epoch, at a learning rate at which the last bits of float32 do not grow within it."""
    done = train_digits(tmp_path / "synchronised", *SLOWLY, "--sync-bn")
    assert done.returncode == 0, done.stderr[-3000:]
    options: dict[str, Any] = {"arch": "wrn_10_1", "epochs": 2, "batch_size": 101, "lr": 0.01, "device": "cpu"}
    alone = wrn.train("digits", watch=runtime.QUIET, out=tmp_path / "alone", **options)
    expected = first_losses(alone.folder)
    differences = [(first_losses(run) / expected - 1).abs() for run in (tmp_path / "synchronised", plain[0])]
    print(f"relative, with and without: {differences}")
    assert max(differences[0]) < 2e-5
    assert min(differences[1]) > 3e-4


def test_a_script_may_train_several_times(tmp_path: Path) -> None:
    """And go on after an error: an argument of one process that cannot be, options that differ, a run that diverges."""
    script = f"""
        import os
        import wideresnet as wrn
        from wideresnet import runtime

        rank = os.environ["RANK"]
        for number, lr in enumerate([0.1 if rank == "0" else "x", float(rank), 1e30, 0.1, 0.1]):
            try:
                options = dict(arch="wrn_10_1", epochs=1, batch_size=101, lr=lr, device="cpu", watch=runtime.QUIET)
                wrn.train("digits", out=f"{tmp_path}/{{number}}", **options)
            except wrn.errors.WideResNetError as error:
                print(type(error).__name__, error, flush=True)
    """
    (tmp_path / "several.py").write_text(textwrap.dedent(script))
    (done,) = torchrun(2, str(tmp_path / "several.py"))
    assert done.returncode == 0, done.stderr[-3000:]
    different = "UsageError the 2 processes have different options (lr: 0.0 in process 0; 1.0 in process 1); give all"
    assert "UsageError lr='x': expected a number" in done.stdout
    assert "TrainingStopped process 1 of 2 has failed, and says why" in done.stdout
    assert done.stdout.count(different) == 2
    assert done.stdout.count("Diverged ") == 2
    assert [wrn.load(tmp_path / number).card.trained["epoch"] for number in "34"] == [1, 1]
    assert not (tmp_path / "1").exists()


def test_a_run_that_diverges_is_told_of_once(tmp_path: Path) -> None:
    failed = train_digits(tmp_path / "run", "--lr", "1e30")
    assert failed.returncode != 0
    assert failed.stderr.count("Try a lower --lr") == 1
    assert len(said(failed)) <= 2


def photos(folder: Path, num: int) -> None:
    for name in ("cats", "dogs"):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(num if name == "dogs" else 12):
            Image.new("RGB", (8, 8), (20 * i, 99, 200 if name == "dogs" else 10)).save(
                folder / "photos" / name / f"{i}.png"
            )


def test_pictures_that_differ_between_machines_are_told_of_before_training(tmp_path: Path) -> None:
    for host, num in enumerate((12, 11)):
        photos(tmp_path / f"host{host}", num)
    (failed,) = shell(2, f"cd host$RANK; exec $WRN train photos {SMALL} {tmp_path}/run", tmp_path)
    assert failed.returncode != 0
    message, *others = said(failed)
    assert "photos: not the same data in all 2 processes" in message
    assert "pictures (all): 24 in process 0; 23 in process 1" in message
    assert "fingerprint: " in message
    assert len(others) <= 1
    assert "not the same" not in "".join(others)
    assert not (tmp_path / "run").exists()


def test_a_mistake_of_one_machine_is_said_there_and_ends_all(tmp_path: Path) -> None:
    """The second has no pictures."""
    photos(tmp_path / "host0", 12)
    (tmp_path / "host1").mkdir()
    first, second = shell(1, f"cd host$RANK; exec $WRN train photos {SMALL} {tmp_path}/run", tmp_path, hosts=2)
    assert first.returncode != 0
    assert second.returncode != 0
    (message,) = said(second)
    assert message.startswith("wrn, process 1: photos: no such file or folder")
    assert said(first) == ["wrn, process 0: ended, as process 1 has, which says why"]
    assert "exitcode  : 2" in second.stderr


def test_other_versions_on_one_machine_are_named(tmp_path: Path) -> None:
    metadata = tmp_path / "older" / "wideresnet-0.1.9.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: wideresnet\nVersion: 0.1.9\n")
    older = f"[ $RANK = 0 ] || export PYTHONPATH={tmp_path}/older:$PYTHONPATH"
    (failed,) = shell(2, f"{older}; exec $WRN train digits {SMALL} run", tmp_path)
    ours = runtime.versions()["wideresnet"]
    assert f"different versions (wideresnet: {ours} in process 0; 0.1.9 in process 1)" in said(failed)[0]


def test_a_full_disk_ends_all_processes_with_one_message(tmp_path: Path) -> None:
    """Full for the one that writes: files above 50 kB are refused to it."""
    (failed,) = shell(2, f"[ $RANK = 0 ] && ulimit -f 100; exec $WRN train digits {SMALL} run", tmp_path)
    assert failed.returncode != 0
    assert failed.stderr.count("cannot write") == 1
    assert said(failed)[0].startswith("wrn, process 0: ")
    assert "exitcode  : 3" in failed.stderr


def test_a_process_killed_while_training_ends_the_other_machine_too(tmp_path: Path) -> None:
    def kill() -> None:
        deadline = time.monotonic() + 100
        while not (tmp_path / "run" / "checkpoint.safetensors").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(int((tmp_path / "0.pid").read_text()), signal.SIGKILL)

    # torchrun makes one $ of two.
    script = f"echo $$$$ > $RANK.pid; exec $WRN train digits --epochs 100000 {SMALL} run"
    first, second = shell(1, script, tmp_path, hosts=2, meanwhile=kill)
    assert first.returncode != 0
    assert second.returncode != 0
    (message,) = said(first, second)
    assert message.startswith("wrn, process 1: process 0 of 2 has ended without a word: it was killed")
    assert "torchrun --nnodes 2 --node-rank RANK --master-addr ADDRESS --nproc-per-node 1 " in message
    assert "-m wideresnet train --resume run" in message


WAITING = """
    import datetime, os, signal, time
    from wideresnet import processes
    from wideresnet.processes import lifeline
    processes.PATIENCE, lifeline.GRACE_S = datetime.timedelta(seconds={patience}), 1
    lifeline._KEEPALIVE = dict(TCP_KEEPIDLE=1, TCP_KEEPINTVL=1, TCP_KEEPCNT=2)

    @processes.joined()
    def work():
        world = processes.current()
        {work}

    try:
        work()
    except Exception as error:
        print(f"process {{os.environ['RANK']}}: {{error}}", flush=True)
"""


def waiting(
    tmp_path: Path, work: str, num: int, *, patience: int = 2, **options: Any
) -> list[subprocess.CompletedProcess[str]]:
    """`work` where sums wait for two seconds only, and connections are tried every second."""
    lines = textwrap.indent(textwrap.dedent(work), " " * 8).strip()
    (tmp_path / "waiting.py").write_text(textwrap.dedent(WAITING.format(work=lines, patience=patience)))
    return torchrun(num, str(tmp_path / "waiting.py"), **options)


def test_a_process_waits_for_a_long_reading_and_not_for_one_that_is_killed(tmp_path: Path) -> None:
    work = """
        with world.one_first():
            time.sleep(4)
            print("read by", world.rank, flush=True)
            if world.rank:
                os.kill(os.getpid(), signal.SIGKILL)
    """
    started = time.monotonic()
    (failed,) = waiting(tmp_path, work, 2)
    assert "read by 0\nread by 1\nprocess 0: process 1 of 2 has ended without a word" in failed.stdout
    assert time.monotonic() - started < 60


def test_a_process_that_no_exception_reaches_is_ended_too(tmp_path: Path) -> None:
    """As one that waits for its GPU: the other machine has failed, and nobody sends this one a signal."""
    first, second = waiting(tmp_path, "time.sleep(600) if world.rank == 0 else 1 / 0", 1, hosts=2)
    assert said(first) == []
    assert "process 1: division by zero" in second.stdout
    assert "exitcode  : 3" in first.stderr


@pytest.fixture
def networks() -> Iterator[tuple[str, str]]:
    """Two networks with a cable between them, as two machines have; skips where they cannot be made."""
    names = (f"wrn-a-{os.getpid()}", f"wrn-b-{os.getpid()}")
    lines = [f"netns add {name}" for name in names]
    lines.append(f"link add {CABLE} netns {names[0]} type veth peer name {CABLE} netns {names[1]}")
    for number, name in enumerate(names, 1):
        lines += [f"-n {name} link set lo up", f"-n {name} addr add {SUBNET}.{number}/24 dev {CABLE}"]
        lines.append(f"-n {name} link set {CABLE} up")
    try:
        for line in lines:
            subprocess.run(["ip", *line.split()], check=True, capture_output=True)
        yield names
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network can be made here: {error}")
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_machines_that_are_cut_off_from_each_other_give_up(tmp_path: Path, networks: tuple[str, str]) -> None:
    """The cable is drawn, so that no connection closes and a sum waits for its full time."""

    def cut() -> None:
        deadline = time.monotonic() + 100
        while len(list(tmp_path.glob("*.there"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        subprocess.run(["ip", "-n", networks[0], "link", "set", CABLE, "down"], check=True)

    work = f"""
        while world.total(1) == 2:
            open(f"{tmp_path}/{{world.rank}}.there", "w").close()
            time.sleep(0.1)
    """
    results = waiting(tmp_path, work, 1, patience=600, networks=networks, meanwhile=cut)
    for rank, result in enumerate(results):
        (line,) = said(result)
        assert line.startswith(f"wrn, process {rank}: process {1 - rank} of 2 has ended without a word")
        assert "or its machine is gone" in line
        assert "exitcode  : 3" in result.stderr


def test_a_stranger_at_the_port_is_turned_away() -> None:
    store, found = torch._C._distributed_c10d.HashStore(), dict[int, dict[int, socket.socket]]()

    def come(rank: int) -> None:
        found[rank] = lifeline.connections(store, rank, 2, "127.0.0.1")

    first = threading.Thread(target=come, args=(0,))
    first.start()
    port = int(store.get("lifeline").split()[0])
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: wideresnet.example\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    come(1)
    first.join()
    assert list(found[0]) == [1]
    for connection in (found[0][1], found[1][0]):
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        connection.close()


def test_a_mistake_before_processes_have_met_is_said_by_the_first_of_each_machine() -> None:
    """They were all given the same words."""
    command = [sys.executable, "-m", "wideresnet", "train", "digits", "--time-budget", "soon"]
    for rank, local_rank, lines in (("2", "0", 1), ("3", "1", 0)):
        variables = {"RANK": rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": "4", "PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.count("wrn, process 2: --time-budget soon") == len(done.stderr.splitlines()) == lines


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
    options: dict[str, Any] = dict.fromkeys(["recipe", "mean", "std", "init", "labels", "folds"])
    options |= {"arch": "wrn_10_1", "in_channels": 3, "fit": "crop", "seed": 0, "device": "cpu", "max_bad": 0}
    options |= {"pretrained": False, "freeze": (), "engine": "auto"}
    options |= {"reading": Reading(), "watch": runtime.QUIET, "world": World(0, 3), "size": changes.pop("size", None)}
    planned = plan("digits", cast(RecipeChanges, changes), **options)
    prepared = prepare(planned.config, planned.listing, runtime.QUIET, world=World(0, 3))
    if said is None:
        assert fit_to_data(prepared).config.recipe.batch_size == changes["batch_size"]
        return
    with pytest.raises(UsageError, match=said):
        fit_to_data(prepared)


def test_two_processes_train_a_detector_that_one_of_them_writes(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", train=16, val=5)
    words = ["--arch", "wrn_10_1", "--size", "64", "--epochs", "1", "--out", str(tmp_path / "run")]
    # A test part too: two of them are then looked at, in one order whatever order a set has.
    shutil.copytree(data / "val", data / "test")
    shutil.copy(data / "annotations" / "instances_val.json", data / "annotations" / "instances_test.json")
    (done,) = torchrun(2, "-m", "wideresnet", "detect", "train", str(data), *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test AP") == 1
    assert "torchrun --nproc-per-node 2 -m wideresnet detect train" in runs.read_config(tmp_path / "run").command
    alone = wrn.evaluate_detector(tmp_path / "run", data, watch=runtime.QUIET).figures()
    card = read_card(tmp_path / "run")
    assert {**dict(card.figures), "engine": ""} == {**alone, "engine": ""}
    assert card.architecture["detector"]["norm"] == "group", "4 pictures for each process"
