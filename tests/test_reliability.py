"""Runs that are started twice, damaged, moved, starved or fed with pictures that vanish: told, refused or survived."""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors.torch import load_file
from test_jobs import QUICK, StopAfter, metrics_but_times, shapes

import wideresnet as wrn
from wideresnet import checkpoint, cli, files, runs, runtime
from wideresnet.errors import Diverged, Interrupted, ModelFileError, TrainingStopped, UsageError

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def same_weights(a: Path, b: Path) -> bool:
    one, other = (load_file(folder / runs.MODEL) for folder in (a, b))
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def stopped(out: Path, epoch: int = 2, step: int = 5, **options: Any) -> Path:
    """A run on the digits that Ctrl-C has stopped there."""
    with pytest.raises(Interrupted):
        wrn.train("digits", out=out, **{**QUICK, "watch": runtime.Watch(progress=StopAfter(epoch, step)), **options})
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped; copied before it is changed."""
    return wrn.train("digits", out=tmp_path_factory.mktemp("whole") / "run", **QUICK).folder


# ——— started twice ———

HOLDER = """
import os, sys, time
from pathlib import Path
from wideresnet import files
with files.locked(Path(sys.argv[1])):
    if os.fork() == 0:  # as a process that reads pictures, which may live on for a moment
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_start_is_refused_naming_process_and_host_and_after_a_kill_the_lock_is_free(
    whole: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.name != runs.LOCK}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, run / runs.LOCK],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for _ in range(50):
            with pytest.raises(
                UsageError, match=rf"run: in use by process {holder.pid} on {os.uname().nodename}, since"
            ):
                wrn.resume(run, watch=runtime.QUIET)
        assert {path.name: path.read_bytes() for path in run.iterdir() if path.name != runs.LOCK} == before
        holder.kill()
        holder.wait()
        lines = list[str]()
        wrn.resume(run, watch=runtime.Watch(line=lines.append))
        assert any(f"left behind by process {holder.pid}" in line and "taken over" in line for line in lines), lines
        lines.clear()
        wrn.resume(run, watch=runtime.Watch(line=lines.append))
        assert not any("left behind" in line for line in lines), "a clean end leaves nothing to take over"
    finally:
        os.killpg(holder.pid, 9)
    assert same_weights(run, whole)


def test_a_lock_is_held_against_the_same_process_too(tmp_path: Path) -> None:
    with files.locked(tmp_path / "lock") as (is_held, before):
        assert (is_held, before) == (True, "")
        with pytest.raises(files.FileInUse, match="in use by this process"), files.locked(tmp_path / "lock"):
            pass
    (tmp_path / "lock").write_bytes(b"\xff\xfe torn by a power failure")
    with files.locked(tmp_path / "lock") as (_, before):
        assert before.endswith("torn by a power failure")


def test_a_training_that_goes_on_is_not_joined_by_another(tmp_path: Path) -> None:
    words = ["train", "digits", "--arch", "wrn_10_1", "--epochs", "100000", "--out", str(tmp_path / "run")]
    with subprocess.Popen(
        [sys.executable, "-m", "wideresnet", *words], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as training:
        try:
            while not (tmp_path / "run" / runs.PREVIOUS).exists():
                assert training.poll() is None, training.stdout
                time.sleep(0.05)
            with pytest.raises(UsageError, match=rf"in use by process {training.pid} on .*Wait until that has ended"):
                wrn.resume(tmp_path / "run", watch=runtime.QUIET)
            with pytest.raises(UsageError, match=r"exists already.*Go on with it by --resume"):
                wrn.train("digits", out=tmp_path / "run", **QUICK)
            assert training.poll() is None
            training.send_signal(signal.SIGTERM)
            assert training.wait() == 143
        finally:
            training.kill()
    checkpoint.load_checkpoint(tmp_path / "run" / runs.CHECKPOINT)


def test_a_start_that_was_killed_at_once_leaves_no_folder_that_nobody_can_use(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / runs.LOCK).write_text("process 1 on a, since yesterday")
    (tmp_path / "run" / ".config.json.0a1b.tmp").write_text("{")
    wrn.train("digits", out=tmp_path / "run", **{**QUICK, "epochs": 1})
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_what_a_killed_write_left_is_removed_when_the_run_goes_on(whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    (run / ".checkpoint.safetensors.abc.tmp").write_bytes(b"half")
    wrn.resume(run, watch=runtime.QUIET)
    assert not list(run.glob(".*.tmp"))


# ——— damaged ———


def test_any_flipped_bit_and_any_cut_of_a_checkpoint_is_found(whole: Path, tmp_path: Path) -> None:
    content, chance, path = (
        (whole / runs.CHECKPOINT).read_bytes(),
        random.Random(0),
        tmp_path / "checkpoint.safetensors",
    )
    for i in range(1200):
        if i < 1000:
            damaged = bytearray(content)
            # Half of them in the header, which is a small part of the file.
            damaged[chance.randrange(len(content) if i % 2 else 12_000)] ^= 1 << chance.randrange(8)
        else:
            damaged = bytearray(content[: chance.randrange(len(content))])
        path.write_bytes(damaged)
        with pytest.raises(
            ModelFileError, match=r"damaged|empty|no model file|not a checkpoint|expected a safetensors"
        ):
            checkpoint.load_checkpoint(path)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_and_keeps_that_until_it_has_a_new_one(
    whole: Path, tmp_path: Path
) -> None:
    run = stopped(tmp_path / "run")
    previous = (run / runs.PREVIOUS).read_bytes()
    assert checkpoint.load_checkpoint(run / runs.PREVIOUS)[1]["epoch"] == 1
    (run / runs.CHECKPOINT).write_bytes(b"not a checkpoint any more")
    lines = list[str]()
    with pytest.raises(Interrupted):  # before anything else is written
        wrn.resume(run, watch=runtime.Watch(line=lines.append, progress=StopAfter(2, 3)))
    assert any("Going on from the checkpoint before it" in line for line in lines), lines
    assert (run / runs.PREVIOUS).read_bytes() == previous, "the damaged one has not taken its place"
    assert checkpoint.load_checkpoint(run / runs.CHECKPOINT)[1]["begun"]["steps"] == 3
    wrn.resume(run, watch=runtime.QUIET)
    assert same_weights(run, whole)
    assert metrics_but_times(run) == metrics_but_times(whole)
    for name in (runs.CHECKPOINT, runs.PREVIOUS):
        (run / name).write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"checkpoint\.safetensors: empty"):
        wrn.resume(run, watch=runtime.QUIET)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model/fc.weight", None),
        ("model/fc.weight", torch.zeros(3, 3)),
        ("epoch", None),
        ("begun", {"unknown": 1}),
        ("rows", 5),
    ],
)
def test_a_checkpoint_that_is_whole_and_of_another_network_is_refused_in_one_line(
    whole: Path, tmp_path: Path, key: str, value: Any
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    tensors, progress = checkpoint.load_checkpoint(run / runs.CHECKPOINT)
    changed: dict[str, Any] = tensors if key in tensors else progress
    if value is None:
        del changed[key]
    else:
        changed[key] = value
    checkpoint.save_checkpoint(run / runs.CHECKPOINT, tensors, progress)
    with pytest.raises(
        ModelFileError, match=r"checkpoint\.safetensors: a checkpoint whose content does not fit"
    ) as caught:
        wrn.resume(run, watch=runtime.QUIET)
    assert "\n" not in str(caught.value)


def test_the_last_checkpoint_is_known_by_its_name_whatever_the_clock_says(whole: Path, tmp_path: Path) -> None:
    run = stopped(tmp_path / "run")
    for i, path in enumerate(sorted(run.iterdir())):
        os.utime(path, (1e9 - i * 1e7, 1e9 - i * 1e7))
    lines = list[str]()
    wrn.resume(run, watch=runtime.Watch(line=lines.append))
    assert f"going on with {run} after step 5 of 22 of epoch 2 of 3" in lines
    assert same_weights(run, whole)


# ——— changed ———


def begun_elsewhere(run: Path, **changes: Any) -> None:
    """Makes `run` one that was begun under another config, as another machine would have written it."""
    values = {**json.loads((run / runs.CONFIG).read_text()), **changes}
    (run / runs.CONFIG).write_text(json.dumps(values))
    digest = runs.read_config(run).digest
    for name in (runs.CHECKPOINT, runs.PREVIOUS):
        tensors, progress = checkpoint.load_checkpoint(run / name)
        checkpoint.save_checkpoint(run / name, tensors, {**progress, "config": digest, "settings": values})


@pytest.mark.parametrize(
    ("changes", "names", "said"),
    [
        ({"versions": {"torch": "1.0"}}, ["versions"], r"versions torch 1\.0 → "),
        ({"processor": "m68k, FPU"}, ["processor"], "processor m68k, FPU → "),
        ({"threads": 4096}, ["threads"], r"threads 4096 → \d"),
        ({"processes": 3}, ["processes"], r"processes 3 → 1"),
        ({"device": "mps", "processor": ""}, ["device", "versions"], "device mps, which is not available here → cpu"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_going_on_otherwise_is_refused_with_the_difference_and_allowed_by_name_says_that_it_is_not_the_same(
    tmp_path: Path, changes: dict[str, Any], names: list[str], said: str
) -> None:
    run = stopped(tmp_path / "run")
    begun_elsewhere(run, **changes)
    before = (run / runs.CHECKPOINT).read_bytes()
    with pytest.raises(
        UsageError, match=f"begun otherwise .*{said}.*not be bitwise.*--allow-changed {' '.join(names)}$"
    ):
        wrn.resume(run, watch=runtime.QUIET)
    assert (run / runs.CHECKPOINT).read_bytes() == before
    with pytest.raises(UsageError, match=r"--allow-changed speling; expected one of versions, processor"):
        wrn.resume(run, allow_changed=["speling"], watch=runtime.QUIET)
    lines = list[str]()
    wrn.resume(run, allow_changed=names, watch=runtime.Watch(line=lines.append))
    assert [line for line in lines if line.startswith(f"note: going on with other {names[0]}")], lines
    assert len(metrics_but_times(run)) == 3
    assert names[0] in wrn.load(run).card.trained["changed"]
    assert f"went on with other {names[0]}" in (run / runs.REPORT).read_text(encoding="utf-8")
    assert "no bitwise repetition" in (run / runs.REPORT).read_text(encoding="utf-8")


def test_what_our_kernels_trained_goes_on_by_torch_only_if_that_is_allowed(tmp_path: Path) -> None:
    run = stopped(tmp_path / "run")
    assert runs.read_config(run).engine == "kernels"
    without = shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.so", "*.egg-info"))
    words = [sys.executable, "-m", "wideresnet", "train", "--resume", str(run)]
    environment = {**os.environ, "PYTHONPATH": str(without)}
    refused = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "engine our kernels, which are not built" in refused.stderr
    allowed = shlex.split(refused.stderr.rpartition("on all the same: ")[2])
    assert allowed == ["--allow-changed", "engine", "versions"]
    done = subprocess.run([*words, *allowed], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert wrn.load(run).card.trained["engine"] == "torch"


def test_a_config_that_was_changed_by_hand_is_refused_with_the_field_and_both_values(tmp_path: Path) -> None:
    run = stopped(tmp_path / "run")
    config = json.loads((run / runs.CONFIG).read_text())
    config["recipe"]["lr"] *= 2
    (run / runs.CONFIG).write_text(json.dumps({**config, "seed": 7}))
    with pytest.raises(ModelFileError, match=r"\(recipe\.lr 0\.2 → 0\.4; seed 0 → 7\); put the old one back"):
        wrn.resume(run, watch=runtime.QUIET)


def test_allowing_changes_is_for_a_run_that_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    for command, folder in {"train": "RUN", "tune": "FOLDER"}.items():
        assert cli.run([command, "digits", "--allow-changed", "threads"]) == 2
        assert f"--allow-changed is for --resume {folder}" in capsys.readouterr().err


# ——— numbers that are none ———

# It rises by 10 an epoch: to 10 is borne and to 60 is not, in which epoch depends on the processor's last bits; a
# quarter of it is borne to the end.
TOO_FAST: dict[str, Any] = {**QUICK, "epochs": 6, "batch_size": 64, "warmup_epochs": 6.0, "lr": 60.0}


def test_a_loss_that_explodes_stops_with_step_rate_last_checkpoint_and_advice_and_its_pictures_in_the_log(
    tmp_path: Path,
) -> None:
    with pytest.raises(Diverged) as caught:
        wrn.train("digits", out=tmp_path / "run", **TOO_FAST)
    text = str(caught.value)
    assert text.startswith("loss is ")
    good = int(text.partition("The last good checkpoint, after epoch ")[2].partition(",")[0])
    assert good >= 1
    for part in (" at step ", f"(epoch {good + 1}), lr ", "lower --lr", f"after epoch {good}, is whole: "):
        assert part in text
    log = (tmp_path / "run" / runs.LOG).read_text()
    [batch] = [line for line in log.splitlines() if "Its batch: " in line]
    assert len(batch.partition("Its batch: ")[2].split("; ")) == 64
    tensors, progress = checkpoint.load_checkpoint(tmp_path / "run" / runs.CHECKPOINT)
    assert progress["epoch"] == good
    assert all(value.isfinite().all() for value in tensors.values())
    command = shlex.split(text.partition("To go back with a quarter of the rate: wrn ")[2].partition(". ")[0])
    assert command == ["train", "--resume", str(tmp_path / "run"), "--on-nan", "rollback"]
    assert cli.run(command) == 0
    assert wrn.load(tmp_path / "run").card.trained["rollbacks"] == 1


def test_with_rollback_it_goes_back_with_a_quarter_of_the_rate_at_most_three_times(tmp_path: Path) -> None:
    lines = list[str]()
    options = {**TOO_FAST, "on_nan": "rollback", "watch": runtime.Watch(line=lines.append)}
    run = wrn.train("digits", out=tmp_path / "run", **options).folder
    back = [line for line in lines if "Back to" in line]
    assert len(back) == 1
    good = int(back[0].partition("Back to the checkpoint after epoch ")[2].partition(",")[0])
    assert "from there at 0.25 of the learning rate" in back[0]
    assert back[0] in (run / runs.LOG).read_text()
    rows = [dict(row) for row in metrics_but_times(run)]
    plain = wrn.train("digits", out=tmp_path / "plain", **{**TOO_FAST, "lr": 0.1}).folder
    rates = [float(dict(row)["lr"]) / 0.1 for row in metrics_but_times(plain)]
    assert [float(row["lr"]) for row in rows] == pytest.approx(
        [(60 if i < good else 15) * rate for i, rate in enumerate(rates)]
    )
    assert wrn.load(run).card.trained["rollbacks"] == 1
    with pytest.raises(
        Diverged, match=r"No checkpoint was written yet\. It went back 3 times\. .*log\.txt names the batch's pictures$"
    ):
        wrn.train("digits", out=tmp_path / "never", **{**options, "lr": 1e6})
    assert not list((tmp_path / "never").glob("*.safetensors"))


# ——— starved ———

STARVED = """
import resource, sys
from pathlib import Path
import wideresnet as wrn
import matplotlib.pyplot, sklearn.model_selection
from wideresnet import jobs
from wideresnet.data import arrays
arrays.read_digits()
out, room, accumulate = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
if room:
    resource.setrlimit(resource.RLIMIT_DATA, (used + room,) * 2)
wrn.train("digits", out=out, arch="wrn_10_4", size=32, labels=60, epochs=1, batch_size=512, accumulate=accumulate)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_a_step_without_the_memory_for_it_is_computed_in_more_parts_as_by_a_run_begun_so(tmp_path: Path) -> None:
    def train(name: str, room: int, parts: int) -> str:
        words = [sys.executable, "-c", STARVED, str(tmp_path / name), str(room), str(parts)]
        done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    text = train("starved", 1_800_000_000, 1)
    [note] = [line for line in text.splitlines() if "out of memory" in line]
    parts = int(note.split("--accumulate ")[1].split()[0])
    assert note.startswith("note: out of memory at step 1; from it on each batch of 512 is computed in")
    assert note in (tmp_path / "starved" / runs.LOG).read_text()
    assert checkpoint.load_checkpoint(tmp_path / "starved" / runs.CHECKPOINT)[1]["parts"] == parts > 1
    train("begun so", 0, parts)
    assert same_weights(tmp_path / "starved", tmp_path / "begun so")


def may_mount() -> bool:
    """Whether a process may have small disks of its own here."""
    try:
        words = ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "none", "/mnt"]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not may_mount(), reason="no small disk can be mounted here")
def test_a_disk_without_room_for_a_run_is_told_before_it_begins(tmp_path: Path) -> None:
    """A small disk of its own, which takes a namespace of its own."""
    words = f"mount -t tmpfs -o size=2m none {tmp_path} && exec {sys.executable} -m wideresnet train digits"
    words += f" --out {tmp_path}/r"
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", words],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "bytes are free on its disk, and this run takes about" in done.stderr
    assert "make room, or choose another --out" in done.stderr


@pytest.mark.skipif(not may_mount(), reason="no small disk can be mounted here")
def test_shared_memory_that_is_too_small_and_a_single_core_change_nothing(tmp_path: Path) -> None:
    """Pictures that processes decode in each epoch, with /dev/shm of 64 kB and without a second core."""
    data = shapes(tmp_path / "set", {"disc": 40, "bar": 40})
    words = (
        f"{sys.executable} -m wideresnet train {data} --arch wrn_10_1 --epochs 1 --size 8 --cache off --out {tmp_path}"
    )
    small = "mount -t tmpfs -o size=64k none /dev/shm && exec taskset -c 0 "
    namespace = ["unshare", "--mount", "--map-root-user", "sh", "-c", small + words + "/small"]
    done = subprocess.run(namespace, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert runs.read_config(tmp_path / "small").threads == 1
    one = {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    subprocess.run(shlex.split(words + "/plain"), env=one, capture_output=True, check=True)
    assert same_weights(tmp_path / "small", tmp_path / "plain")


# The interpreter may lie where only root reads: what is needed is imported before.
NOBODY = """
import os, sys
import matplotlib.pyplot, sklearn.datasets, sklearn.model_selection, torch._dynamo
from wideresnet import cli, jobs
from wideresnet.data import arrays, cache
arrays.read_digits()
for name in ("HOME", "WRN_CACHE", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
os.setresgid(54321, 54321, 54321)
os.setresuid(54321, 54321, 54321)
sys.exit(cli.run(sys.argv[1:]))
"""


def nobody(*words: str) -> subprocess.CompletedProcess[str]:
    """A command as somebody who may write nowhere, has no home and no name, in a locale without one."""
    environment = {**ENVIRONMENT, "LANG": "C", "LC_ALL": "C"}
    command = [sys.executable, "-c", NOBODY, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become somebody else")
def test_who_may_write_nowhere_and_has_no_home_is_told_so_and_nothing_is_begun(tmp_path: Path) -> None:
    refused = nobody("train", "digits", "--out", str(tmp_path / "r"))
    assert refused.returncode == 2, refused.stderr
    assert "cannot be made: Permission denied; choose another --out" in refused.stderr
    no_home = nobody("data", "cache", "list")
    assert no_home.returncode in (2, 3), no_home.stderr
    assert "no home folder for the cache; set WRN_CACHE" in no_home.stderr
    assert "Traceback" not in refused.stderr + no_home.stderr


# ——— pictures ———


def test_a_run_that_lost_a_picture_goes_on_without_it_and_says_so_again(tmp_path: Path) -> None:
    data = shapes(tmp_path / "set", {"train/disc": 20, "train/bar": 20, "val/disc": 4, "val/bar": 4})
    options: dict[str, Any] = {**QUICK, "epochs": 4, "batch_size": 10, "cache": "off", "max_bad": 1}
    gone, run = data / "train" / "disc" / "3.png", tmp_path / "run"

    def progress(what: str, *rest: Any) -> None:
        Vanish(2, gone)(what, *rest)
        stop(what, *rest)

    stop = StopAfter(4, 1)
    with pytest.raises(Interrupted):
        wrn.train(data, out=run, **{**options, "watch": runtime.Watch(progress=progress)})
    assert not gone.exists()
    with pytest.raises(UsageError, match=r"train/disc/3\.png was lost while it trained; go on with --cache off"):
        wrn.resume(run, cache="memory", watch=runtime.QUIET)
    wrn.resume(run, watch=runtime.QUIET)
    assert len(metrics_but_times(run)) == 4
    assert "train/disc/3.png: no such file" in (run / runs.REPORT).read_text(encoding="utf-8")

    # To the bit what it would have been: order and draws are those of all forty.
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(gone)
    other = shapes(tmp_path / "other", {"train/disc": 20, "train/bar": 20, "val/disc": 4, "val/bar": 4})
    watch = runtime.Watch(progress=Vanish(2, other / "train" / "disc" / "3.png"))
    wrn.train(other, out=tmp_path / "whole", **{**options, "watch": watch})
    assert same_weights(run, tmp_path / "whole")


def test_a_picture_that_changes_in_training_is_not_taken_for_what_it_was(tmp_path: Path) -> None:
    data = shapes(tmp_path / "set", {"disc": 20, "bar": 20})
    options: dict[str, Any] = {**QUICK, "batch_size": 10, "cache": "off"}
    changed = data / "disc" / "3.png"

    def progress(what: str, *_: object) -> None:
        if what.startswith("epoch 2/"):
            for path in data.rglob("*.png"):
                Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(path)

    with pytest.raises(TrainingStopped, match=r"\d\.png: has other pixels than before; it could be read a while ago"):
        wrn.train(data, out=tmp_path / "run", **{**options, "watch": runtime.Watch(progress=progress)})
    assert changed.exists()


def test_pictures_of_more_pixels_than_allowed_are_refused_from_their_header_wherever_data_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shapes(tmp_path / "set", {"disc": 12, "bar": 12}, size=20)
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(data / "disc" / "large.png")
    train = ["train", str(data), "--arch", "wrn_10_1", "--epochs", "1", "--size", "8", "--out", str(tmp_path / "r")]
    assert cli.run([*train, "--max-pixels", "899"]) == 2
    assert "large.png: has 30×30 pixels, more than the limit of 899 (--max-pixels)" in capsys.readouterr().err
    assert cli.run([*train, "--max-pixels", "900"]) == 0
    assert runs.read_config(tmp_path / "r").reading.max_pixels == 900
    assert "--max-pixels 900" in runs.read_config(tmp_path / "r").command
    capsys.readouterr()
    assert cli.run(["evaluate", str(tmp_path / "r"), str(data), "--max-pixels", "899"]) == 2
    assert "large.png: has 30×30 pixels" in capsys.readouterr().err
    assert cli.run(["predict", str(tmp_path / "r"), str(data), "--max-pixels", "899"]) == 1
    assert capsys.readouterr().out.count("more than the limit of 899") == 1
    assert cli.run(["predict", str(tmp_path / "r"), str(data)]) == 0
    for wrong in ("0", "178956971"):
        assert cli.run(["predict", str(tmp_path / "r"), str(data), "--max-pixels", wrong]) == 2
        assert "expected a number of pixels from 1 to 178,956,970" in capsys.readouterr().err


@pytest.mark.parametrize("kept", ["disk", "off"])
def test_a_lower_limit_is_held_though_the_pictures_are_in_the_cache(tmp_path: Path, kept: str) -> None:
    data = shapes(tmp_path / "set", {"disc": 12, "bar": 12}, size=20)
    options: dict[str, Any] = {**QUICK, "epochs": 1, "size": 8, "cache": kept}
    wrn.train(data, out=tmp_path / "a", **options)
    with pytest.raises(wrn.DataError, match=r"24 of 24 pictures cannot be read"):
        wrn.train(data, out=tmp_path / "b", max_pixels=399, **options)


class Vanish:
    """A watch's progress that takes pictures away at the first step of an epoch."""

    def __init__(self, epoch: int, *paths: Path) -> None:
        self.wanted, self.paths = f"epoch {epoch}/", paths

    def __call__(self, what: str, *_: object) -> None:
        if what.startswith(self.wanted):
            for path in self.paths:
                path.unlink(missing_ok=True)


def test_a_picture_that_vanishes_in_training_is_named_left_out_as_far_as_allowed_and_never_replaced(
    tmp_path: Path,
) -> None:
    data = shapes(tmp_path / "set", {"train/disc": 20, "train/bar": 20, "val/disc": 4, "val/bar": 4})
    options: dict[str, Any] = {**QUICK, "epochs": 4, "batch_size": 10, "cache": "off"}
    gone, again = data / "train" / "disc" / "3.png", data / "train" / "bar" / "5.png"
    content = gone.read_bytes(), again.read_bytes()

    lines = list[str]()
    watch = runtime.Watch(line=lines.append, progress=Vanish(2, gone))
    run = wrn.train(data, out=tmp_path / "allowed", **{**options, "max_bad": 1, "watch": watch})
    said = [line for line in lines if "train/disc/3.png: no such file" in line]
    assert len(said) == 1, "once, not in each epoch"
    assert "left out of its batches" in said[0]
    assert "unreadable since the training began: 1" in (run.folder / runs.REPORT).read_text(encoding="utf-8")

    gone.write_bytes(content[0])
    watch = runtime.Watch(progress=Vanish(2, gone, again))
    with pytest.raises(TrainingStopped, match=r"(disc/3|bar/5)\.png: no such file.*could be read a while ago"):
        wrn.train(data, out=tmp_path / "two", **{**options, "max_bad": 1, "watch": watch})

    gone.write_bytes(content[0])
    again.write_bytes(content[1])
    watch = runtime.Watch(progress=Vanish(2, gone))
    with pytest.raises(TrainingStopped, match=r"disc/3\.png: no such file.*Put it back.*--resume"):
        wrn.train(data, out=tmp_path / "none", **{**options, "watch": watch})
    with pytest.raises(wrn.DataError, match=r"not the data that .*train\.disc 20 → 19"):
        wrn.resume(tmp_path / "none", cache="off", watch=runtime.QUIET)
    gone.write_bytes(content[0])
    wrn.resume(tmp_path / "none", cache="off", watch=runtime.QUIET)
    whole = wrn.train(data, out=tmp_path / "whole", **options)
    assert same_weights(tmp_path / "none", whole.folder)
