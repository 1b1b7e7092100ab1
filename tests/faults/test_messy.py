"""Each messy file through `wrn predict`, `train` and `evaluate`: all three read it, or all three name it and say why.

`pytest tests/faults/test_messy.py -s` prints the table.
"""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import conftest
import pytest
from test_jobs import shapes

from wideresnet import cli
from wideresnet.images import SUFFIXES


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("model")
    data = shapes(base / "set", {"disc": 12, "bar": 12})
    assert (
        cli.run(["train", str(data), "--arch", "wrn_10_1", "--epochs", "1", "--size", "8", "--out", f"{base}/r"]) == 0
    )
    return base / "r"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
def test_every_messy_file_does_the_same_in_predict_train_and_evaluate(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads(conftest.shared("data/messy/MANIFEST.json").read_text(encoding="utf-8"))
    single, reasons, wrong = conftest.shared("data/messy/single"), dict[str, str](), list[str]()
    for name in (name.removeprefix("single/") for name in manifest if name.startswith("single/")):
        code = cli.run(["predict", str(model), str(single / name), "--format", "csv"])
        reasons[name] = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))["error"]
        expect = manifest[f"single/{name}"]["expect"]
        if code != bool(reasons[name]) or (expect in ("ok", "error") and (expect == "error") != bool(reasons[name])):
            wrong.append(f"{name}: {expect} expected; predict: {code}, {reasons[name]!r}")

    def outcomes(folder: Path, *names: str) -> tuple[int, str, int, str, bool]:
        """train's exit code and words, evaluate's, and whether a run was begun, on a folder with these in it."""
        data = shapes(folder / "set", {"disc": 12, "bar": 12})
        for name in names:
            shutil.copyfile(single / name, data / "bar" / name)
        words = ["--arch", "wrn_10_1", "--epochs", "1", "--size", "8", "--out", str(folder / "r")]
        train, trained = cli.run(["train", str(data), *words]), capsys.readouterr().err
        evaluate, evaluated = cli.run(["evaluate", str(model), str(data), "--json"]), capsys.readouterr().err
        return train, trained, evaluate, evaluated, (folder / "r").exists()

    scanned = [name for name in reasons if Path(name).suffix.lower() in SUFFIXES]
    good = [name for name in reasons if not reasons[name] or name not in scanned]
    train, trained, evaluate, evaluated, begun = outcomes(tmp_path / "good", *good)
    assert (train, evaluate, begun) == (0, 0, True), trained + evaluated
    counts = re.search(r"for ([\d,]+) train, ([\d,]+) val, ([\d,]+) test pictures", trained)
    assert counts is not None
    assert sum(map(int, counts.groups())) == 24 + len([name for name in good if name in scanned])
    for i, name in enumerate(name for name in scanned if reasons[name]):
        train, trained, evaluate, evaluated, begun = outcomes(tmp_path / str(i), name)
        found = [(train, _reason(trained, name)), (evaluate, _reason(evaluated, name))]
        wrong += [f"{name}: {found}"] if found != [(2, reasons[name])] * 2 or begun else []
    aside = {name: "" if name in scanned else "; by its name none, so passed over in folders" for name in reasons}
    rows = [f"| `{name[:40]}` | {why or 'read'}{aside[name]} |" for name, why in reasons.items()]
    print("\n".join(["", "| file | predict, train, evaluate |", "| --- | --- |", *rows]))
    assert not wrong, "\n".join(wrong)


def _reason(said: str, name: str) -> str:
    """What a list of unreadable pictures says of one."""
    start = f"  bar/{name}: "
    return next((line.removeprefix(start) for line in said.splitlines() if line.startswith(start)), "")
