"""`evaluate` beside another model, with renamed classes, by groups, abstaining: from Python and the command line."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_jobs import QUICK, shapes
from test_report import Page

import wideresnet as wrn
from wideresnet import cli, runtime
from wideresnet.checkpoint import load_model, save_model
from wideresnet.errors import DataError, ModelFileError, UsageError
from wideresnet.prediction import val_answers

Runs = tuple[Path, wrn.Run, wrn.Run]


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A folder without splits, a run that learnt it, and one of other size, seed and network that hardly did."""
    base = tmp_path_factory.mktemp("shapes")
    data = shapes(base / "shapes", {"disc": 90, "bar": 90})
    good = wrn.train(data, out=base / "good", **{**QUICK, "epochs": 10})
    options = {**QUICK, "arch": "wrn_10_2", "epochs": 1, "seed": 5, "size": 16, "lr": 1e-4}
    poor = wrn.train(data, out=base / "poor", **options)
    assert good.evaluation.accuracy > 0.9 > poor.evaluation.accuracy, poor.evaluation.accuracy
    return data, good, poor


def reordered(run: wrn.Run, file: Path, class_names: tuple[str, ...]) -> Path:
    """The same model, its two classes in the other order and under these names."""
    found = load_model(run.folder)
    state = found.model.state_dict()
    for name in ("fc.weight", "fc.bias"):
        state[name] = state[name].flip(0)
    save_model(file, state, dataclasses.replace(found.card, class_names=class_names), found.extra)
    return file


def test_two_models_are_judged_on_the_same_pictures_each_as_it_sees_them(two_runs: Runs, tmp_path: Path) -> None:
    data, good, poor = two_runs
    report = tmp_path / "r.html"
    found = wrn.evaluate(good.folder, data, against=poor.folder, report_file=report, watch=runtime.QUIET)
    assert found.against is not None
    assert found.against.names == found.names
    theirs = wrn.load(poor.folder).logits([data / name for name in found.names]).numpy()
    order = [load_model(poor.folder).card.class_names.index(name) for name in found.class_names]
    np.testing.assert_allclose(found.against.logits, theirs[:, order], rtol=1e-4, atol=1e-5)
    assert found.accuracy == good.evaluation.accuracy
    told = found.figures()["against"]
    assert told["model"] == str(poor.folder)
    assert told["only_this"], "the one is better"
    assert len(told["only_this"]) - len(told["only_other"]) == round(told["difference"] * found.num_images)
    page = Page(report.read_text(encoding="utf-8"))
    assert "against" in page.sections()
    assert found.comparison is not None
    assert found.comparison.sentence in page.text


def test_a_model_whose_classes_stand_in_another_order_is_no_other_model(two_runs: Runs, tmp_path: Path) -> None:
    data, good, _ = two_runs
    same = reordered(good, tmp_path / "same.safetensors", ("disc", "bar"))
    found = wrn.evaluate(good.folder, data, against=same, watch=runtime.QUIET)
    assert found.against is not None
    np.testing.assert_allclose(found.against.logits, found.logits, rtol=1e-5, atol=1e-5)
    assert found.figures()["against"]["p"] == 1


def test_other_class_names_are_refused_with_the_difference_and_renamed_by_map(two_runs: Runs, tmp_path: Path) -> None:
    data, good, _ = two_runs
    other = reordered(good, tmp_path / "other.safetensors", ("round", "bar"))
    with pytest.raises(UsageError, match=r"--against .*not in it: disc; only in it: round.*--map OLD=NEW"):
        wrn.evaluate(good.folder, data, against=other, watch=runtime.QUIET)
    found = wrn.evaluate(good.folder, data, against=other, class_map={"round": "disc"}, watch=runtime.QUIET)
    assert found.figures()["against"]["p"] == 1
    renamed = tmp_path / "renamed"
    for split in ("disc", "bar"):
        shutil.copytree(data / split, renamed / ("kreis" if split == "disc" else split))
    with pytest.raises(DataError, match=r"class 'kreis' .*Unknown to it: kreis; in it alone: disc.*--map OLD=NEW"):
        wrn.evaluate(good.folder, renamed, watch=runtime.QUIET)
    mapped = wrn.evaluate(good.folder, renamed, class_map={"kreis": "disc"}, watch=runtime.QUIET)
    assert mapped.accuracy >= 0.9
    with pytest.raises(
        UsageError, match=r"--map kries=disc: there is no class 'kries' to rename; did you mean 'kreis'"
    ):
        wrn.evaluate(good.folder, renamed, class_map={"kries": "disc"}, watch=runtime.QUIET)


def test_the_threshold_for_a_risk_is_the_one_that_val_gave(two_runs: Runs) -> None:
    data, _, poor = two_runs
    val = wrn.evaluate(poor.folder, data, split="val", watch=runtime.QUIET)
    for risk in (0.2, 0.4):
        expected = val.risk_coverage.threshold_for(risk)
        if expected is None:
            with pytest.raises(UsageError, match=rf"--abstain {risk}: on val the model is never so sure"):
                wrn.load(poor.folder, abstain=risk)
            continue
        found = wrn.evaluate(poor.folder, data, abstain=risk, watch=runtime.QUIET)
        assert found.abstain is not None
        assert found.abstain == pytest.approx((risk, expected), abs=1e-6)
        answers = wrn.load(poor.folder, abstain=risk)([*sorted(data.rglob("*.png"))])
        assert [one.abstains for one in answers] == [one.confidence < expected for one in answers]


@pytest.mark.parametrize("risk", [0.0, 1.0, -0.5, float("nan")])
def test_a_risk_that_cannot_be_is_refused(two_runs: Runs, risk: float) -> None:
    with pytest.raises(UsageError, match="expected a share of wrong answers between 0 and 1"):
        wrn.load(two_runs[1].folder, abstain=risk)


def test_a_model_file_without_answers_of_val_cannot_abstain(two_runs: Runs, tmp_path: Path) -> None:
    _, good, _ = two_runs
    found = load_model(good.folder)
    save_model(tmp_path / "old.safetensors", found.model.state_dict(), found.card)
    assert not wrn.load(tmp_path / "old.safetensors")(np.zeros((9, 9, 3), np.uint8)).abstains
    with pytest.raises(UsageError, match="no answers of a val part"):
        wrn.load(tmp_path / "old.safetensors", abstain=0.1)


def test_predict_says_where_it_is_not_sure_enough_in_every_format(
    two_runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, good, _ = two_runs
    paths = sorted(data.rglob("*.png"))
    sure = [one.confidence for one in wrn.load(good.folder)([*paths])]
    found, middle = load_model(good.folder), float(np.median(sure))
    extra = val_answers(np.array([middle, middle / 2]), np.array([True, False]))  # from the middle on it is never wrong
    save_model(model := tmp_path / "m.safetensors", found.model.state_dict(), found.card, extra)
    expected = [one < middle for one in sure]
    assert True in expected
    for form in ("table", "csv", "jsonl"):
        assert cli.run(["predict", str(model), *map(str, paths), "--abstain", "0.1", "--format", form]) == 0
        lines = capsys.readouterr().out.splitlines()
        if form == "table":
            told = ["not sure enough; perhaps" in line for line in lines]
        elif form == "csv":
            told = [row["abstains"] == "true" for row in csv.DictReader(lines)]
        else:
            told = [json.loads(line)["abstains"] for line in lines]
        assert told == expected, form


def test_groups_of_a_table_are_told_apart(two_runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, good, _ = two_runs
    table = tmp_path / "table.csv"
    rows = [
        f"{path},{path.parent.name},{'even' if i % 2 else 'odd'}" for i, path in enumerate(sorted(data.rglob("*.png")))
    ]
    table.write_text("\n".join(["image,label,group", *rows]), encoding="utf-8")
    report = tmp_path / "r.html"
    found = wrn.evaluate(good.folder, table, split="all", group_column="group", report_file=report, watch=runtime.QUIET)
    of = {path.as_posix(): "even" if i % 2 else "odd" for i, path in enumerate(sorted(data.rglob("*.png")))}
    right = {name: said == label for name, said, label in zip(found.names, found.predicted, found.labels, strict=True)}
    for row in found.per_group:
        own = [right[name] for name in found.names if of[(data / name).as_posix()] == row.group]
        assert (row.count, row.correct) == (len(own), sum(own)), row
    assert len(found.per_group) == 2
    assert "groups" in Page(report.read_text(encoding="utf-8")).sections()
    capsys.readouterr()
    assert cli.run(["evaluate", str(good.folder), str(table), "--split", "all", "--group-column", "group"]) == 0
    assert "Groups, the least accurate first" in capsys.readouterr().out


def test_the_command_compares_renames_and_abstains(
    two_runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, good, poor = two_runs
    other = reordered(poor, tmp_path / "other.safetensors", ("round", "bar"))
    words = [
        "evaluate",
        str(good.folder),
        str(data),
        "--against",
        str(other),
        "--map",
        "round=disc",
        "--abstain",
        "0.5",
    ]
    assert cli.run([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["against"]["model"] == str(other)
    assert told["abstain"]["risk"] == 0.5
    assert len(told["summary"]) == 3
    assert cli.run(words) == 0
    out = capsys.readouterr().out
    assert f"against    {other}" in out
    assert "abstaining answers" in out
    assert "on val this took for at most 50.00 %" in out
    assert "ROC AUC" in out  # two classes
    for wrong in ("round", "=disc", "round="):
        assert cli.run(["evaluate", str(good.folder), str(data), "--map", wrong]) == 2
        assert "expected OLD=NEW" in capsys.readouterr().err


def test_answers_that_are_no_numbers_are_refused_and_name_the_first_picture(two_runs: Runs, tmp_path: Path) -> None:
    data, good, _ = two_runs
    found = load_model(good.folder)
    state = {k: v * 1e30 if v.is_floating_point() and "conv" in k else v for k, v in found.model.state_dict().items()}
    state["fc.weight"] = state["fc.weight"] * 1e38
    assert all(torch.isfinite(v).all() for v in state.values())
    save_model(tmp_path / "huge.safetensors", state, found.card)
    with pytest.raises(
        ModelFileError, match=r"huge.safetensors: its answers to [\d,]+ of [\d,]+ pictures are not finite"
    ):
        wrn.evaluate(tmp_path / "huge.safetensors", data, watch=runtime.QUIET)


def test_a_picture_of_one_pixel_a_class_of_one_and_one_class_alone_have_their_figures(
    two_runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, good, _ = two_runs
    (tmp_path / "odd" / "disc").mkdir(parents=True)
    Image.new("RGB", (1, 1), (9, 9, 9)).save(tmp_path / "odd" / "disc" / "one-pixel.png")
    found = wrn.evaluate(good.folder, tmp_path / "odd", report_file=tmp_path / "r.html", watch=runtime.QUIET)
    assert (found.num_images, found.figures()["classes"][0]["count"]) == (1, 0)
    (tmp_path / "odd" / "bar").mkdir()
    for i in range(5):
        shutil.copy(data / "bar" / f"{i}.png", tmp_path / "odd" / "bar")
    assert cli.run(["evaluate", str(good.folder), str(tmp_path / "odd"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["count"] for row in told["classes"]] == [5, 1]
    assert "NaN" not in json.dumps(told)
    (tmp_path / "empty" / "bar").mkdir(parents=True)
    assert cli.run(["evaluate", str(good.folder), str(tmp_path / "empty")]) == 2
    assert capsys.readouterr().err.count("\n") <= 2


def test_a_map_for_the_data_leaves_a_model_beside_itself_equal(two_runs: Runs, tmp_path: Path) -> None:
    data, good, _ = two_runs
    swapped = tmp_path / "swapped"
    for name, other in (("disc", "bar"), ("bar", "disc")):
        shutil.copytree(data / name, swapped / other)
    for class_map in ({"disc": "bar", "bar": "disc"}, {"disc": "bar"}):
        found = wrn.evaluate(good.folder, swapped, class_map=class_map, against=good.folder, watch=runtime.QUIET)
        assert found.figures()["against"]["p"] == 1
        assert found.figures()["against"]["difference"] == 0


def test_a_map_does_not_move_pictures_between_the_parts_of_training(two_runs: Runs) -> None:
    data, good, _ = two_runs
    plain = wrn.evaluate(good.folder, data, watch=runtime.QUIET)
    mapped = wrn.evaluate(good.folder, data, class_map={"disc": "bar"}, watch=runtime.QUIET)
    assert mapped.names == plain.names
    assert mapped.seen == 0


def test_pictures_of_training_and_those_it_chose_by_promise_nothing_for_others(two_runs: Runs) -> None:
    data, good, poor = two_runs
    lines = list[str]()
    train = wrn.evaluate(good.folder, data, split="train", watch=runtime.QUIET)
    assert train.seen == train.num_images
    assert "It was trained on these pictures: on others expect less" in train.summary[1]
    val = wrn.evaluate(good.folder, data, split="val", watch=runtime.Watch(line=lines.append))
    assert "Training chose by these very pictures" in val.summary[1]
    assert any("training chose by these pictures" in line for line in lines)
    test = wrn.evaluate(good.folder, data, against=poor.folder, watch=runtime.QUIET)
    assert "On other pictures of the same kind expect" in test.summary[1]
    assert test.against is not None
    assert test.against.seen > 0, "another seed, another split"
    assert (
        f"was trained on {test.against.seen} of these pictures, so that it is no fair"
        in test.figures()["against"]["sentence"]
    )


def test_answers_averaged_over_views_have_no_figures_of_before_the_temperature(two_runs: Runs, tmp_path: Path) -> None:
    data, good, _ = two_runs
    found = load_model(good.folder)
    cooled = dataclasses.replace(found.card, temperature=0.5)
    save_model(model := tmp_path / "m.safetensors", found.model.state_dict(), cooled, found.extra)
    assert wrn.evaluate(model, data, watch=runtime.QUIET).figures()["uncalibrated"] is not None
    assert wrn.evaluate(model, data, tta="flip", watch=runtime.QUIET).figures()["uncalibrated"] is None


def test_names_of_groups_stay_out_of_the_model_file(two_runs: Runs, tmp_path: Path) -> None:
    data, _, _ = two_runs
    rows = [f"{path},{path.parent.name},patient-{i}-SECRET" for i, path in enumerate(sorted(data.rglob("*.png")))]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,group", *rows]), encoding="utf-8")
    run = wrn.train(tmp_path / "t.csv", out=tmp_path / "run", group_column="group", **{**QUICK, "epochs": 1})
    assert run.evaluation.per_group
    assert b"SECRET" not in (run.folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "extra",
    [
        {"val/confidence": torch.tensor([0.5])},
        {"val/confidence": torch.tensor([0.5]), "val/correct": torch.tensor([True, False])},
        {"val/confidence": torch.empty(0), "val/correct": torch.empty(0, dtype=torch.bool)},
        {"val/confidence": torch.tensor([float("nan")]), "val/correct": torch.tensor([True])},
        {"val/confidence": torch.tensor([0.5]), "val/correct": torch.tensor([1.0])},
    ],
)
def test_answers_of_val_that_do_not_fit_are_refused(
    two_runs: Runs, tmp_path: Path, extra: dict[str, torch.Tensor]
) -> None:
    found = load_model(two_runs[1].folder)
    save_model(tmp_path / "odd.safetensors", found.model.state_dict(), found.card, extra)
    with pytest.raises(ModelFileError, match=r"answers of val .* do not fit together"):
        wrn.load(tmp_path / "odd.safetensors", abstain=0.1)


def test_the_reports_command_repeats_the_evaluation(two_runs: Runs, tmp_path: Path) -> None:
    data, good, poor = two_runs
    wrn.evaluate(
        good.folder, data, split="val", against=poor.folder, abstain=0.4, tta="flip", engine="torch", max_bad=None,
        report_file=tmp_path / "r.html", watch=runtime.QUIET,
    )  # fmt: skip
    text = " ".join(Page((tmp_path / "r.html").read_text(encoding="utf-8")).text.split())
    words = f"wrn evaluate {good.folder} {data} --split val --tta flip --against {poor.folder} --abstain 0.4"
    assert words in text
    assert "--engine torch --max-bad all" in text
    assert "abstaining" in Page((tmp_path / "r.html").read_text(encoding="utf-8")).sections()


def test_a_groups_name_cannot_colour_the_terminal(
    two_runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, good, _ = two_runs
    rows = [f"{path},{path.parent.name},\x1b[31mRED" for path in sorted(data.rglob("*.png"))]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,group", *rows]), encoding="utf-8")
    command = ["evaluate", str(good.folder), str(tmp_path / "t.csv"), "--split", "all", "--group-column", "group"]
    assert cli.run(command) == 0
    out = capsys.readouterr().out
    assert "RED" in out
    assert "\x1b" not in out
