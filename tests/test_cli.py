"""The command as a person or a program calls it: real processes, real files, exit codes."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wideresnet import kernels
from wideresnet.cli import run
from wideresnet.cli.trainings import count_or_all, seconds
from wideresnet.data import read
from wideresnet.errors import UsageError

WRN = [sys.executable, "-m", "wideresnet"]
QUICK = ("--arch", "wrn_10_1", "--epochs", "2")


def wrn(*words: str | Path, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [*WRN, *map(str, words)]
    return subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `wrn train digits` was run, with three digits as PNG files in `pictures/`."""
    place = tmp_path_factory.mktemp("place")
    done = wrn("train", "digits", *QUICK, "--seed", "1", cwd=place)
    assert done.returncode == 0, done.stderr
    images = read("digits").splits["all"].sources
    (place / "pictures").mkdir()
    for i in range(3):
        Image.fromarray(np.asarray(images[i])).save(place / "pictures" / f"{i}.png")
    return place


def test_training_says_its_plan_in_two_lines_and_ends_with_figures_and_the_next_commands(place: Path) -> None:
    done = wrn("train", "digits", *QUICK, cwd=place)
    plan = [line for line in done.stderr.splitlines() if " %  " not in line]  # a slow machine says how far it is
    assert plan[0].startswith("wrn_10_1 at 8 pixels for 1,439 train, 179 val, 179 test pictures of 10 classes")
    assert plan[1].startswith("recipe fast: 2 epochs")
    assert len(plan) == 2
    lines = done.stdout.splitlines()
    assert lines[0].startswith("test accuracy ")
    assert "95 % interval" in lines[0]
    assert lines[1] == "report:  runs/digits-2/report.html"
    assert lines[2].startswith("next:    wrn predict runs/digits-2 PICTURE…")
    assert (place / "runs" / "digits-2" / "report.html").exists()


def test_predictions_come_as_table_csv_and_jsonl_and_agree(place: Path) -> None:
    table = wrn("predict", "runs/digits-1", "pictures", cwd=place).stdout.splitlines()
    rows = list(
        csv.DictReader(io.StringIO(wrn("predict", "runs/digits-1", "pictures", "--format", "csv", cwd=place).stdout))
    )
    out = wrn("predict", "runs/digits-1", "pictures/*.png", "--format", "jsonl", cwd=place).stdout
    lines = [json.loads(line) for line in out.splitlines()]
    assert [row["path"] for row in rows] == [line["path"] for line in lines] == [f"pictures/{i}.png" for i in range(3)]
    for shown, row, line in zip(table, rows, lines, strict=True):
        assert row["label"] == line["label"]
        assert float(row["confidence"]) == line["confidence"] == max(line["probs"].values())
        assert shown.startswith(f"{line['path']}  {line['label']}  ")


@pytest.mark.skipif(kernels.isa() == "none", reason=f"kernels: {kernels.state()}")
def test_each_engine_predicts_the_same_labels(place: Path) -> None:
    words = ("predict", "runs/digits-1", "pictures", "--format", "jsonl", "--engine")
    ours, torchs = (wrn(*words, engine, cwd=place).stdout.splitlines() for engine in ("kernels", "torch"))
    assert len(ours) == 3
    assert [json.loads(line)["label"] for line in ours] == [json.loads(line)["label"] for line in torchs]
    assert ours != torchs, "so that it is another that computed it: the probabilities differ in the last digits"


def test_a_bad_file_is_a_row_with_its_reason_and_the_others_are_still_predicted(place: Path) -> None:
    (place / "page.jpg").write_text("<html></html>")
    listed = "pictures/0.png\nnowhere.png\npage.jpg\npictures/1.png\n"
    done = wrn("predict", "runs/digits-1", "-", "--format", "jsonl", cwd=place, stdin=listed)
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["path"] for line in lines] == listed.split()
    assert [bool(line["error"]) for line in lines] == [False, True, True, False]
    assert [line["label"] is None for line in lines] == [False, True, True, False]
    assert "2 of 4 pictures could not be read" in done.stderr


def test_a_name_that_begins_with_a_dash_or_holds_signs_of_the_shell_is_a_name(place: Path) -> None:
    name = "-rf 'a' \"b\" $(x) [1] %s #&.png"
    (place / name).write_bytes((place / "pictures" / "0.png").read_bytes())
    done = wrn("predict", "runs/digits-1", "--format", "jsonl", "--", name, cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["path"] == name
    assert wrn("predict", "runs/digits-1", "-", cwd=place, stdin=name + "\n").returncode == 0


def test_a_missing_file_among_others_is_a_row_though_its_name_looks_like_a_glob(place: Path) -> None:
    done = wrn("predict", "runs/digits-1", "-", cwd=place, stdin="missing[1].png\npictures/0.png\n")
    assert done.returncode == 1
    assert "missing[1].png  error: no such file" in done.stdout
    assert wrn("predict", "runs/digits-1", "pictures/0.png", "no*.png", cwd=place).returncode == 1
    typo = wrn("predict", "runs/digits-1", "pictures/0.png", "--formt", "csv", cwd=place)
    assert (typo.returncode, typo.stdout) == (2, "")


def test_names_that_are_no_text_go_in_and_out_as_they_are(place: Path) -> None:
    name = b"pictures/caf\xe9.png"
    path = Path(os.fsdecode(bytes(place) + b"/" + name))
    path.write_bytes((place / "pictures" / "0.png").read_bytes())
    try:
        command = [*WRN, "predict", "runs/digits-1", "-", "--format", "csv"]
        environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
        done = subprocess.run(command, cwd=place, input=name + b"\n", capture_output=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[1].startswith(name + b",")
    finally:
        path.unlink()


@pytest.mark.parametrize(
    "listed",
    [
        b"pictures/0.png\r\npictures/1.png\r\n\r\n",
        b"\xef\xbb\xbfpictures/0.png\npictures/1.png",
        b"\xef\xbb\xbfpictures\\0.png\r\npictures\\1.png\r\n",
    ],
)
def test_a_list_of_pictures_may_come_from_windows(place: Path, listed: bytes) -> None:
    command = [*WRN, "predict", "runs/digits-1", "-", "--format", "csv"]
    done = subprocess.run(command, cwd=place, input=listed, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode())))
    assert [row["path"] for row in rows] == ["pictures/0.png", "pictures/1.png"]


def test_a_name_with_signs_of_windows_in_it_is_taken_by_the_letter_where_it_is_there(place: Path) -> None:
    names = ["a\\b.png", "return\r"]
    for name in names:
        (place / name).write_bytes((place / "pictures" / "0.png").read_bytes())
    done = wrn("predict", "runs/digits-1", "-", "--format", "jsonl", cwd=place, stdin="".join(f"{n}\n" for n in names))
    assert done.returncode == 0, done.stdout
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == names


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_a_list_in_utf_16_is_refused_with_words(place: Path, encoding: str) -> None:
    command = [*WRN, "predict", "runs/digits-1", "-"]
    listed = "pictures/0.png\n".encode(encoding)
    done = subprocess.run(command, cwd=place, input=listed, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"UTF-16" in done.stderr
    assert done.stderr.count(b"\n") == 1


LACKING = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "cp1252"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


SEVERAL = """
import json, os, sys
from wideresnet import cli
cli.console.prepare_streams()
for words in json.loads(sys.argv[1]):
    words = [os.fsdecode(word.encode()) for word in words]  # as the system hands them over
    assert cli.run(words) == 0, words
    print("--", flush=True)
"""


@pytest.mark.parametrize("environment", LACKING, ids=str)
def test_a_terminal_that_lacks_signs_stops_no_command(place: Path, environment: dict[str, str]) -> None:
    (place / "şeker–1.png").write_bytes((place / "pictures" / "0.png").read_bytes())
    commands = [
        ["--help"],
        ["runs"],
        ["models"],
        ["info", "runs/digits-1"],
        ["data", "cache", "list"],
        ["evaluate", "runs/digits-1", "digits"],
        ["predict", "runs/digits-1", "şeker–1.png"],
        ["predict", "runs/digits-1", "şeker–1.png", "--format", "csv"],
        ["predict", "runs/digits-1", "-", "--format", "jsonl"],
        ["train", "digits", *QUICK, "--labels", "12", "--out", f"plain-{LACKING.index(environment)}"],
    ]
    command, env = [sys.executable, "-c", SEVERAL, json.dumps(commands)], os.environ | environment
    listed = "şeker–1.png\n".encode()
    done = subprocess.run(command, cwd=place, input=listed, capture_output=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    said = done.stdout.split(b"--\n")
    assert len(said) == len(commands) + 1
    assert b"MACs at 32" in said[2]
    as_bytes = "şeker–1.png,".encode()  # with LANG=C Python has names as bytes
    written = {"ascii": rb"\u015feker\u20131.png,", "cp1252": rb"\u015feker" + b"\x961.png,"}
    written_here = written.get(environment.get("PYTHONIOENCODING", ""), as_bytes)
    assert said[7].splitlines()[1].startswith(written_here), "no sign of a name becomes another"
    assert os.fsencode(json.loads(said[8])["path"]) == listed.strip(), "JSON says the name as it is"


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_results_flow_into_a_file_though_the_progress_bar_is_on_a_terminal(place: Path) -> None:
    import pty

    terminal, child = pty.openpty()
    with (place / "out.txt").open("w") as out:
        command = [*WRN, "predict", "runs/digits-1", "pictures"]
        process = subprocess.Popen(command, cwd=place, stdout=out, stderr=child)
        os.close(child)
        while True:
            try:
                if not os.read(terminal, 1024):
                    break
            except OSError:  # Linux ends a pseudo-terminal so
                break
        assert process.wait() == 0
    os.close(terminal)
    assert len((place / "out.txt").read_text().splitlines()) == 3


def test_evaluation_prints_a_table_or_json_and_writes_a_report(place: Path) -> None:
    done = wrn("evaluate", "runs/digits-1", "digits", cwd=place)
    assert done.returncode == 0
    ours = kernels.isa() != "none"
    assert done.stdout.startswith(f"digits, test: 179 pictures, {'our kernels' if ours else 'torch'} ")
    torchs = wrn("evaluate", "runs/digits-1", "digits", "--engine", "torch", cwd=place)
    assert torchs.stdout.startswith("digits, test: 179 pictures, torch ")
    assert torchs.stdout.splitlines()[1] == done.stdout.splitlines()[1]  # the same accuracy
    figures = json.loads(wrn("evaluate", "runs/digits-1", "digits", "--json", cwd=place).stdout)
    assert f"accuracy   {100 * figures['accuracy']:.2f} %" in done.stdout
    assert (place / "runs" / "digits-1" / "evaluation.html").read_text(encoding="utf-8").startswith("<!")
    mirrored = wrn("evaluate", "runs/digits-1", "digits", "--tta", "flip", "--cache", "disk", cwd=place)
    assert "pictures, cached on disk for the next run" in mirrored.stderr
    assert "averaged over each picture and its mirror image" in mirrored.stdout.splitlines()[0]
    assert "some classes look like others, or like none, in the mirror" in mirrored.stderr
    everything = wrn("evaluate", "runs/digits-1", "digits", "--split", "train", "--json", cwd=place)
    assert json.loads(everything.stdout)["num_images"] == 1439


def test_runs_models_and_info_are_tables_and_json(place: Path) -> None:
    rows = json.loads(wrn("runs", "--json", cwd=place).stdout)
    assert rows[0]["run"] == "digits-1"
    assert rows[0]["epochs"] == "2/2"
    assert "digits-1" in wrn("runs", cwd=place).stdout
    models = json.loads(wrn("models", "--form", "paper", "--json", cwd=place).stdout)
    counts = {row["arch"]: row["parameters"] for row in models}
    assert counts["wrn_28_10.paper"] == 36_479_194
    assert "WRN-28-10" in wrn("models", cwd=place).stdout
    info = json.loads(wrn("info", "runs/digits-1", "--json", cwd=place).stdout)
    assert (info["network"], info["preprocess"]["size"]) == ("wrn_10_1", 8)
    machine = json.loads(wrn("info", "--json", cwd=place).stdout)
    assert machine["engines"] == (["torch"] if kernels.isa() == "none" else ["kernels", "torch"])
    assert machine["kernels"] == kernels.state()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "digitz"], "digitz: no such file or folder"),
        (["train"], "nothing to train on"),
        (["train", "digits", "--epoch", "3"], "Did you mean --epochs?"),
        (["train", "digits", "--epochs", "0"], "epochs=0"),
        (["train", "digits", "--epochs", "many"], "--epochs"),
        (["train", "digits", "--arch", "wrn_28"], "expected wrn_DEPTH_WIDEN"),
        (["train", "digits", "--recipe", "papr"], "did you mean 'paper'?"),
        (["train", "digits", "--max-bad", "-1"], "--max-bad"),
        (["train", "digits", "--time-budget", "soon"], "--time-budget soon"),
        (["train", "digits", "--resume", "runs/digits-1"], "--resume RUN stands alone"),
        (["train", "--resume", "runs/nowhere"], "not a run"),
        (["train", "--resume", "runs/digits-1", "--find-lr"], "--resume RUN stands alone"),
        (["train", "digits", "--find-lr", "--time-budget", "1s"], "leave --time-budget, --track and --folds out"),
        (["train", "digits", "--find-lr", "--lr", "0.1"], "leave --lr out"),
        (["train", "digits", "--recipe", "finetune"], "name it: --init MODEL"),
        (["train", "digits", "--from", "nowhere"], "nowhere: no such file"),
        (["train", "digits", "--from", "runs/digits-1", "--arch", "wrn_16_1"], "is a wrn_10_1; leave --arch out"),
        (["train", "digits", "--track", "wandb"], "--track wandb; expected one of tensorboard, mlflow"),
        (["train", "digits", "--recipe", "paper", "--early-stopping", "3"], "set --select best"),
        (["train", "digits", "--precision", "fp64"], "fp64"),
        (["evaluate", "nowhere", "digits"], "nowhere: no such file"),
        (["evaluate", "runs/digits-1", "digits", "--engine", "nonsense"], "--engine"),
        (["predict", "runs/digits-1", "pictures", "--engine", "nonsense"], "--engine"),
        (["predict", "runs/digits-1"], "no picture named"),
        (["predict", "runs/digits-1", "pictures/*.jpg"], "matches no file"),
        (["predict", "pictures/0.png", "pictures/0.png"], "expected a safetensors file"),
        (["models", "--form", "papers"], "did you mean 'paper'?"),
        (["models", "--num-classes", "0"], "num_classes=0"),
        (["runs", "nowhere"], "nowhere: no such folder"),
        (["trian", "digits"], "train"),
    ],
)
def test_a_mistake_is_one_clear_line_exit_code_2_and_writes_nothing(
    place: Path, words: list[str], message: str
) -> None:
    before = sorted(place.rglob("*"))
    done = wrn(*words, cwd=place)
    assert done.returncode == 2, done
    assert message in done.stderr
    assert done.stderr.startswith("wrn: ")
    assert done.stderr.count("\n") <= 2, done.stderr
    assert done.stdout == ""
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_ends_with_its_code_says_how_to_go_on_and_that_works(tmp_path: Path, number: int, code: int) -> None:
    words = ["train", "digits", "--arch", "wrn_10_1", "--epochs", "40"]
    process = subprocess.Popen([*WRN, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "runs" / "digits-1" / "metrics.csv"
    while not metrics.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == code, said
    assert "Go on with: wrn train --resume runs/digits-1" in said
    assert "Traceback" not in said
    config = json.loads((tmp_path / "runs" / "digits-1" / "config.json").read_text())
    assert config["recipe"]["epochs"] == 40
    assert not list((tmp_path / "runs" / "digits-1").glob("*.tmp"))


@pytest.mark.parametrize(
    "blocks", [500, 1800]
)  # of 1,024 bytes: the model file, or the checkpoint after it, is too much
def test_a_disk_that_is_full_stops_whole_with_exit_code_3(tmp_path: Path, blocks: int) -> None:
    words = " ".join([*WRN, "train", "digits", "--arch", "wrn_10_2", "--epochs", "1"])
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f {blocks}; exec {words}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done
    assert "cannot write" in done.stderr
    assert "--resume runs/digits-1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.tmp"))
    assert (tmp_path / "runs" / "digits-1" / "model.safetensors").exists() == (blocks > 500)
    assert wrn("train", "--resume", "runs/digits-1", cwd=tmp_path).returncode == 0


ODD: dict[str, tuple[str | dict[str, object], str]] = {
    "no JSON": ("{", "config.json: not a run's config"),
    "empty": ("", "config.json: not a run's config"),
    "deep": ("[" * 100_000, "config.json: not a run's config"),
    "a list": ("[]", "[]: expected a Config with its fields"),
    "a size missing": ({"size": None}, "size=None: expected a whole number"),
    "a text for a number": ({"seed": "0"}, "seed='0': expected a whole number"),
    "a recipe that is none": ({"recipe": [1]}, "recipe=[1]: expected a Recipe with its fields"),
    "a field of the recipe": ({"recipe": {"name": "fast", "epochs": "3"}}, "recipe."),
    "versions that are none": ({"versions": ["1"]}, "versions=['1']: expected fields with names"),
    "a newer version": ({"flux": 3}, "flux: no field that this version knows; was it written by a newer one?"),
}


@pytest.mark.parametrize("what", ODD)
def test_an_odd_config_is_one_line_naming_file_and_field_and_other_runs_are_still_listed(
    place: Path, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = ODD[what]
    for name in ("a-odd", "good"):
        shutil.copytree(place / "runs" / "digits-1", tmp_path / "runs" / name)
    config = tmp_path / "runs" / "a-odd" / "config.json"
    if isinstance(content, dict):
        content = json.dumps({**json.loads(config.read_text()), **content})
    config.write_text(content)
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.*")}
    monkeypatch.chdir(tmp_path)
    assert run(["runs", "--json"]) == 0
    odd, good = sorted(json.loads(capsys.readouterr().out), key=lambda row: str(row["run"]))
    assert odd["data"].startswith("unreadable: runs/a-odd/config.json: ")
    assert message in odd["data"]
    assert (good["run"], good["epochs"]) == ("good", "2/2")
    assert run(["runs"]) == 0
    assert "unreadable" in capsys.readouterr().out
    assert run(["train", "--resume", "runs/a-odd"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert (said.startswith("wrn: runs/a-odd/config.json: "), said.count("\n")) == (True, 1)
    assert run(["predict", "runs/a-odd", str(place / "pictures" / "0.png")]) == 0  # these read the model file alone
    assert run(["info", "runs/a-odd"]) == 0
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.*")} == before


def test_metrics_that_are_odd_spoil_no_list(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("good", "odd"):
        shutil.copytree(place / "runs" / "digits-1", tmp_path / "runs" / name)
    for content in (
        b"epoch,val_accuracy\n1,much\n",
        b"\xff\xfe\0",
        b"epoch,val_accuracy\n1,2,3\n",
        b"x" * (1 << 24) + b"xx\n",
    ):
        (tmp_path / "runs" / "odd" / "metrics.csv").write_bytes(content)
        assert run(["runs", str(tmp_path / "runs")]) == 0, content[:20]
        assert "2/2" in capsys.readouterr().out


LIMITED = """
import resource, sys, torch
from wideresnet import cli, jobs, report
used = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (used + int(sys.argv[1]),) * 2)
sys.exit(cli.run(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit that Linux sets")
@pytest.mark.parametrize(
    "words",
    [
        ["train", "digits", "--arch", "wrn_10_2", "--batch-size", "1439", "--size", "32", "--out", "r"],
        ["train", "large", "--arch", "wrn_10_1", "--size", "8", "--max-bad", "all", "--out", "r"],
        ["predict", "runs/digits-1", "large/a/1.png"],
    ],
    ids=["a step", "a picture", "a picture to predict"],
)
def test_no_memory_is_one_line_that_says_what_to_do_and_leaves_no_picture_out(place: Path, words: list[str]) -> None:
    if not (place / "large").exists():
        for label in ("a", "b"):
            (place / "large" / label).mkdir(parents=True)
            for i in range(6):
                Image.new("L", (9000, 9000) if i == 1 else (8, 8), 40 * i + (label == "b")).save(
                    place / "large" / label / f"{i}.png"
                )
    command = [sys.executable, "-c", LIMITED, "150_000_000", *words]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 3, done
    last = done.stderr.splitlines()[-1]
    assert last.startswith("wrn: out of memory")
    assert "--batch-size or --size" in last
    assert "Traceback" not in done.stderr
    assert not (place / "r").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the limit that Linux sets")
def test_too_little_room_for_torch_itself_is_one_line(tmp_path: Path) -> None:
    words = " ".join([*WRN, "train", "digits"])
    limited = ["bash", "-c", f"ulimit -v 600000; exec {words}"]
    done = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done
    assert (done.stderr[:19], done.stderr.count("\n")) == ("wrn: out of memory;", 1)
    assert not any(tmp_path.iterdir())


def test_the_reader_of_a_pipe_may_leave_early(place: Path) -> None:
    command = f"{' '.join(WRN)} predict runs/digits-1 pictures pictures pictures | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=place, capture_output=True, text=True, check=False)
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_find_lr_ends_with_a_rate_its_curve_and_the_command_to_use_it(place: Path) -> None:
    runs = sorted((place / "runs").iterdir())
    words = ("--find-lr", "--arch", "wrn_10_1", "--batch-size", "16", "--out", "curve.png")
    lines = wrn("train", "digits", *words, cwd=place).stdout.splitlines()
    assert lines[0].startswith("suggested learning rate: 0.")
    assert lines[1] == "curve:   curve.png"
    assert lines[2].startswith("next:    wrn train digits --arch wrn_10_1 ")
    with Image.open(place / "curve.png") as picture:
        assert picture.format == "PNG"
    assert sorted((place / "runs").iterdir()) == runs


def test_the_version_is_the_package_s(place: Path) -> None:
    from wideresnet import runtime

    assert wrn("--version", cwd=place).stdout.strip() == runtime.versions()["wideresnet"]


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("20min", 1200), ("2h", 7200), ("1.5 h", 5400)])
def test_a_time_is_a_number_with_a_unit(text: str, expected: float) -> None:
    assert seconds(text, "--time-budget") == expected


@pytest.mark.parametrize("text", ["", "20", "min", "-3s", "0s", "3 weeks", "nan s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--checkpoint-every .*expected a time above 0 with its unit"):
        seconds(text, "--checkpoint-every")


def test_max_bad_is_a_count_or_all() -> None:
    assert (count_or_all("3"), count_or_all("all")) == (3, None)
    with pytest.raises(UsageError, match="--max-bad some"):
        count_or_all("some")


def test_the_cache_is_listed_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WRN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def cache(*words: str) -> tuple[int, str, str]:
        code = run([*words])
        return (code, *capsys.readouterr())

    for label in ("a", "b"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(6):
            picture = np.full((8, 8, 3), 100 * (label == "b") + i, np.uint8)
            Image.fromarray(picture).save(tmp_path / "set" / label / f"{i}.png")
    train = ("train", "set", *QUICK, "--cache", "disk")
    assert "cached on disk for the next run" in cache(*train)[2]
    _, figures, said = cache(*train)
    assert "from the cache" in said
    assert cache("train", "--resume", "runs/set-2", "--cache", "off")[:2] == (0, figures)
    rows = json.loads(cache("data", "cache", "list", "--json")[1])
    assert [(row["data"], row["size"], row["pictures"]) for row in rows] == [(str(tmp_path / "set"), 8, 12)]
    table = cache("data", "cache", "list")[1]
    assert rows[0]["key"] in table
    assert f"{rows[0]['num_bytes']:,}" in table
    code, out, said = cache("data", "cache", "clear", "beef")
    assert (code, out) == (2, "")
    assert "beef: no key of the cache" in said
    removed = f"removed: 1 file, {rows[0]['num_bytes']:,} bytes\n"
    assert cache("data", "cache", "clear", rows[0]["key"][:6])[:2] == (0, removed)
    assert json.loads(cache("data", "cache", "list", "--json")[1]) == []
    assert cache("train", "set", "--cache", "disc")[0] == 2
