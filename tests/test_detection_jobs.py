"""A detector from pictures with boxes to found boxes: trained, stopped, gone on with, judged, asked; and what is
refused."""

import csv
import io
import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shared
from PIL import Image
from safetensors.torch import load_file
from shapes import CLASSES, write_shapes

import wideresnet as wrn
from wideresnet import cli, files, runs, runtime
from wideresnet import data as data_room
from wideresnet.checkpoint import load_checkpoint, load_model, read_card
from wideresnet.detection import drawing, read_boxes
from wideresnet.errors import DataError, Interrupted, ModelFileError, UsageError
from wideresnet.images import decode

QUICK: dict[str, Any] = {"arch": "wrn_10_1", "size": 64, "batch_size": 8, "out_channels": 64, "watch": runtime.QUIET}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", train=64, val=12)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> wrn.BoxRun:
    out = tmp_path_factory.mktemp("runs") / "shapes"
    return wrn.train_detector(data, out=out, epochs=24, **QUICK)


def test_a_detector_learns_squares_and_discs_and_leaves_a_whole_run(run: wrn.BoxRun) -> None:
    ap50 = run.evaluation.coco.ap50
    assert ap50 is not None
    assert ap50 > 0.8, f"AP50 {ap50}"
    names = {path.name for path in run.folder.iterdir()}
    assert {runs.CONFIG, runs.METRICS, runs.CHECKPOINT, runs.MODEL, runs.REPORT, runs.LOG} <= names
    rows = list(csv.DictReader((run.folder / runs.METRICS).open(encoding="utf-8")))
    assert len(rows) == 24
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert max(float(row["val_ap50"]) for row in rows) == pytest.approx(ap50, abs=0.1)
    card = read_card(run.folder)
    assert (card.task, card.class_names, card.weights) == ("detection", CLASSES, "ema")
    assert card.threshold == run.evaluation.threshold
    assert card.figures["ap50"] == ap50
    assert card.preprocess.fit == "pad"


def test_the_report_shows_what_is_there_beside_what_was_found(run: wrn.BoxRun) -> None:
    page = (run.folder / runs.REPORT).read_text(encoding="utf-8")
    headings = ("In figures", "Class by class", "What is there, and what it found", "Precision against recall")
    for heading in (*headings, "How it learned", "What it saw in training", "How the data is split"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count('<div class="twin">') == 8
    assert "Average precision on val" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert len(page) < 2_000_000


def test_a_detector_s_run_that_was_stopped_goes_on_bit_for_bit(data: Path, tmp_path: Path) -> None:
    options = {**QUICK, "epochs": 2, "dropout_p": 0.1}
    whole = wrn.train_detector(data, out=tmp_path / "whole", **options)
    left = 3

    def press(what: str, *_: object) -> None:
        nonlocal left
        left -= what.startswith("epoch 2/")
        if left == 0:
            left = -1
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match=r"stopped after step 3 of 8 of epoch 2\. Go on with: wrn train --resume"):
        wrn.train_detector(data, out=tmp_path / "stopped", **{**options, "watch": runtime.Watch(progress=press)})
    resumed = wrn.resume(tmp_path / "stopped", watch=runtime.QUIET)
    for name in (runs.CHECKPOINT, runs.MODEL):
        a, b = load_file(whole.folder / name), load_file(tmp_path / "stopped" / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name
    assert resumed.evaluation.figures() == whole.evaluation.figures()
    assert cli.run(["train", "--resume", str(tmp_path / "stopped")]) == 0


def test_two_runs_of_one_seed_are_equal_and_another_seed_is_not(data: Path, tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        wrn.train_detector(data, out=tmp_path / name, epochs=1, seed=seed, **QUICK)
        found.append(load_file(tmp_path / name / runs.MODEL))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    assert any(not torch.equal(found[0][key], found[2][key]) for key in found[0])


@pytest.mark.parametrize(
    ("options", "norm"),
    [
        ({"head": "retinanet"}, "batch"),
        ({"head": "faster_rcnn", "stages": (1, 2), "extra_levels": 0}, "batch"),
        ({"batch_size": 4, "stem_stride": 2}, "group"),
        ({"accumulate": 4, "clip_norm": 0.0, "sam_rho": 0.02}, "group"),
        ({"norm": "batch", "batch_size": 4, "flip": False, "zoom": 1.0, "jitter": ()}, "batch"),
    ],
    ids=str,
)
def test_every_head_and_norm_trains_and_its_file_answers(
    data: Path, tmp_path: Path, options: dict[str, Any], norm: str
) -> None:
    run = wrn.train_detector(data, out=tmp_path / "r", epochs=1, **{**QUICK, **options})
    told = read_card(run.folder).architecture["detector"]
    expected = {name: value for name, value in options.items() if name in told}
    assert {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()} == {
        "head": "fcos",
        "stem_stride": 1,
        "stages": (2, 3),
        "out_channels": 64,
        "extra_levels": 2,
        "norm": norm,
    } | expected
    predictor = wrn.BoxPredictor(run.folder, threshold=0.0)
    assert "faster_rcnn" in str(options) or predictor(data / "val" / "0.png"), "after one epoch already"
    for i in range(4):
        picture = Image.open(data / "val" / f"{i}.png")
        for one in predictor(picture):
            left, top, right, bottom = one.box
            assert 0 <= left < right <= picture.width
            assert 0 <= top < bottom <= picture.height


def test_faster_rcnn_which_counts_from_one_learns_the_same_classes(data: Path, tmp_path: Path) -> None:
    run = wrn.train_detector(data, out=tmp_path / "r", epochs=8, lr=0.05, head="faster_rcnn", **QUICK)
    each = [one.ap50 for one in run.evaluation.coco.classes]
    assert min(ap50 or 0.0 for ap50 in each) > 0.3, each


def test_a_picture_in_any_form_has_the_same_boxes(run: wrn.BoxRun, data: Path) -> None:
    path = data / "val" / "1.png"
    predictor = wrn.BoxPredictor(run.folder)
    array = decode(path)
    forms: list[Any] = [
        path,
        str(path),
        path.read_bytes(),
        Image.open(path),
        array,
        torch.from_numpy(array.copy()).permute(2, 0, 1),
    ]
    first, *others = [predictor(form) for form in forms]
    assert first
    assert all(other == first for other in others)
    several = predictor([path, data / "val" / "2.png"])
    assert [one.label for one in several[0]] == [one.label for one in first]
    for one, same in zip(several[0], first, strict=True):
        assert one.box == pytest.approx(same.box, abs=1e-3)
    assert predictor([]) == []


def test_a_picture_turned_by_exif_has_the_boxes_of_the_upright_one(run: wrn.BoxRun, data: Path, tmp_path: Path) -> None:
    upright = Image.open(data / "val" / "1.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    predictor = wrn.BoxPredictor(run.folder)
    assert predictor(tmp_path / "turned.png") == predictor(data / "val" / "1.png")


def test_evaluating_gives_the_run_s_own_figures_and_classes_are_matched_by_name(
    run: wrn.BoxRun, data: Path, tmp_path: Path
) -> None:
    own = run.evaluation.figures()
    assert wrn.evaluate_detector(run.folder, data, watch=runtime.QUIET).figures() == own
    other = tmp_path / "other"
    shutil.copytree(data, other)
    for file in (other / "annotations").iterdir():  # the same boxes under other numbers
        content = json.loads(file.read_text(encoding="utf-8"))
        for row in (*content["annotations"], *content["categories"]):
            name = "category_id" if "category_id" in row else "id"
            row[name] = 3 - row[name]
        file.write_text(json.dumps(content), encoding="utf-8")
    figures = wrn.evaluate_detector(run.folder, other, report_file=tmp_path / "r.html", watch=runtime.QUIET).figures()
    assert {**figures, "data": own["data"]} == own
    assert "What is there, and what it found" in (tmp_path / "r.html").read_text(encoding="utf-8")
    stricter = wrn.evaluate_detector(run.folder, data, threshold=0.99, watch=runtime.QUIET)
    assert stricter.coco.ap == run.evaluation.coco.ap
    assert sum(right for right, _, _ in stricter.at_threshold()) < sum(
        right for right, _, _ in run.evaluation.at_threshold()
    )
    train = wrn.evaluate_detector(run.folder, data, split="train", watch=runtime.QUIET)
    assert len(train.names) == 64


def test_an_unknown_class_is_named(run: wrn.BoxRun, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(data, other)
    for file in (other / "annotations").iterdir():
        file.write_text(file.read_text(encoding="utf-8").replace('"square"', '"sqare"'), encoding="utf-8")
    with pytest.raises(DataError, match=r"\d+\.png: class 'sqare' is none of the model's.*did you mean 'square'"):
        wrn.evaluate_detector(run.folder, other, watch=runtime.QUIET)


def test_a_run_whose_boxes_have_changed_does_not_go_on(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(data, other)
    wrn.train_detector(other, out=tmp_path / "r", epochs=1, **QUICK)
    file = other / "annotations" / "instances_train.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["annotations"][0]["bbox"][2] -= 1
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"as many of each class, but other pictures or boxes"):
        wrn.resume(tmp_path / "r", watch=runtime.QUIET)
    del content["annotations"][0]
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"boxes of train\.(disc|square) \d+ → \d+"):
        wrn.resume(tmp_path / "r", watch=runtime.QUIET)


def test_init_takes_a_classifier_s_backbone_and_a_detector_s_all(run: wrn.BoxRun, data: Path, tmp_path: Path) -> None:
    classifier = wrn.train("digits", arch="wrn_10_1", epochs=1, in_channels=3, out=tmp_path / "c", watch=runtime.QUIET)
    own = load_model(classifier.folder / runs.MODEL)
    options = {**QUICK, "epochs": 1, "lr": 0.0, "ema_decay": 0.0}
    del options["arch"]
    begun = wrn.train_detector(data, init=classifier.folder, out=tmp_path / "d", **options)
    got = load_model(begun.folder / runs.MODEL, "detection")
    kept = dict(got.model.named_parameters())
    network: Any = own.model
    for name, value in network.backbone.named_parameters():
        assert torch.equal(kept[f"backbone.body.{name}"], value), name
    assert got.card.preprocess.mean == own.card.preprocess.mean
    assert got.card.trained["init_digest"] == files.sha256((classifier.folder / runs.MODEL).read_bytes())
    page = (begun.folder / runs.REPORT).read_text(encoding="utf-8")
    assert re.search(r"begins with .* \(wrn_10_1\): its backbone", page)
    again = wrn.train_detector(data, init=run.folder, out=tmp_path / "e", norm="frozen", **options)
    assert again.evaluation.coco.ap == pytest.approx(run.evaluation.coco.ap, abs=0.02)
    with pytest.raises(UsageError, match=r"--arch wrn_16_1: .* is a wrn_10_1; leave --arch out"):
        wrn.train_detector(data, init=run.folder, arch="wrn_16_1", out=tmp_path / "f", **options)
    with pytest.raises(UsageError, match="--norm frozen keeps the statistics of a trained network"):
        wrn.train_detector(data, norm="frozen", out=tmp_path / "f", **QUICK)
    for bad in ("wrn_1", "foo"):
        with pytest.raises(UsageError, match=f"--arch {bad}: "):
            wrn.train_detector(data, init=run.folder, arch=bad, out=tmp_path / "f", **options)
    resumed = wrn.resume(begun.folder, watch=runtime.QUIET)
    assert resumed.evaluation.figures() == begun.evaluation.figures()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup": 0.2}, "--mixup is not for boxes; leave it out"),
        ({"crop_padding": 4}, "--crop-padding is not for boxes"),
        ({"policy": "trivial"}, "--policy is not for boxes"),
        ({"head": "fcs"}, "--head fcs; did you mean 'fcos'"),
        ({"size": 16}, "--size 16: expected at least 32 pixels"),
        ({"arch": "timm:resnet18"}, "a detector stands on our own networks|timm"),
        ({"arch": "wrn_11_1"}, "--arch wrn_11_1: depth=11 is not"),
        ({"out_channels": 40}, "--out-channels 40: the head of fcos needs a multiple of 64"),
        ({"stages": (3, 2)}, "--stages .*expected some of 1, 2, 3, in this order"),
        ({"stem_stride": 3}, "--stem-stride 3: expected 1, 2 or 4"),
        ({"extra_levels": 9}, "--extra-levels 9: expected a whole number from 0 to 5"),
        ({"epochs": 2, "time_budget_s": 60.0}, "--epochs and --time-budget say the same thing twice"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said_before_anything_is_written(
    data: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        wrn.train_detector(data, out=tmp_path / "r", **{**QUICK, **options})
    assert not (tmp_path / "r").exists()


def test_one_task_s_model_is_refused_by_the_other_s_commands_which_are_named(
    run: wrn.BoxRun, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = wrn.train("digits", arch="wrn_10_1", epochs=1, out=tmp_path / "c", watch=runtime.QUIET)
    for words in (
        ["predict", str(run.folder), str(data)],
        ["evaluate", str(run.folder), "digits"],
        ["train", "digits", "--init", str(run.folder)],
    ):
        assert cli.run(words) == 2
        assert "a detector; its commands are wrn detect predict and wrn detect evaluate" in capsys.readouterr().err
    for words in (["predict", str(classifier.folder), str(data)], ["evaluate", str(classifier.folder), str(data)]):
        assert cli.run(["detect", *words]) == 2
        assert "a classifier; its commands are wrn predict and wrn evaluate" in capsys.readouterr().err
    with pytest.raises(ModelFileError, match="a detector"):
        wrn.load(run.folder)


def test_predict_draws_says_and_writes_coco_that_reads_back(
    run: wrn.BoxRun, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    for i in range(3):
        shutil.copy(data / "val" / f"{i}.png", f"pictures/{i}.png")
    Path("pictures/more").mkdir()
    shutil.copy(data / "val" / "3.png", "pictures/more/1.png")
    model = str(run.folder)
    assert cli.run(["detect", "predict", model, "pictures", "--draw", "drawn", "--format", "jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == [
        str(Path("pictures") / name) for name in ("0.png", "1.png", "2.png", str(Path("more") / "1.png"))
    ]
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["0.jpg", "1-2.jpg", "1.jpg", "2.jpg"]
    for line in lines:
        drawn, plain = (
            np.asarray(Image.open(p).convert("RGB")).astype(int)
            for p in (f"drawn/{Path(line['path']).stem}.jpg", f"pictures/{Path(line['path']).name}")
        )
        if "more" not in line["path"]:
            assert drawn.shape == plain.shape
            assert line["boxes"]
            assert np.abs(drawn - plain).max() > 60, "boxes are drawn"
    assert cli.run(["detect", "predict", model, "pictures", "--draw", "drawn"]) == 2
    assert "--draw drawn: exists already and is not empty" in capsys.readouterr().err
    Path("pictures/broken.png").write_bytes(b"no picture")
    assert cli.run(["detect", "predict", model, "pictures", "--format", "coco"]) == 1
    out = capsys.readouterr()
    assert "broken.png" in out.err
    Path("found.json").write_text(out.out, encoding="utf-8")
    back = read_boxes("found.json").splits["all"]
    assert len(back) == 4
    for name, boxes in zip(back.names, back.boxes, strict=True):
        line = next(line for line in lines if line["path"] == name)
        assert np.allclose(boxes.boxes, [one["box"] for one in line["boxes"]])
    assert cli.run(["detect", "predict", model, "pictures", "--threshold", "2"]) == 2
    assert "--threshold 2.0: expected a score from 0 to 1" in capsys.readouterr().err
    assert cli.run(["detect", "predict", model, "pictures/0.png", "--threshold", "1"]) == 0
    assert "pictures/0.png  0 boxes" in capsys.readouterr().out
    assert cli.run(["detect", "predict", model, "pictures/broken.png"]) == 1
    assert "error: " in capsys.readouterr().out


def test_the_command_trains_evaluates_and_says_what_comes_next(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--arch", "wrn_10_1", "--size", "64", "--epochs", "1", "--head", "retinanet", "--out-channels", "64"]
    assert cli.run(["detect", "train", str(data), *words]) == 0
    said = capsys.readouterr()
    assert "val AP " in said.out
    assert "next:    wrn detect predict runs/shapes-1 PICTURE… --draw FOLDER" in said.out
    assert "wrn_10_1 under retinanet at 64 pixels for 64 train, 12 val pictures of 2 classes" in said.err
    config = runs.read_config(Path("runs/shapes-1"))
    assert config.command.startswith("wrn detect train ")
    assert cli.run([*config.command.split()[1:], "--out", "again"]) == 0
    assert runs.read_config(Path("again")).digest == config.digest
    capsys.readouterr()
    assert cli.run(["detect", "evaluate", "again", str(data), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["num_images"] == 12
    assert {row["class_name"] for row in told["classes"]} == set(CLASSES)
    assert Path("again/evaluation.html").exists()
    assert cli.run(["detect", "evaluate", "again", str(data)]) == 0
    assert "AP50" in capsys.readouterr().out
    assert cli.run(["runs"]) == 0
    assert re.search(r"shapes-1 .* 1/1 +AP \d+\.\d\d % +val +AP \d+\.\d\d %", capsys.readouterr().out)
    assert cli.run(["info", "again"]) == 0
    table = capsys.readouterr().out
    assert "wrn_10_1 under retinanet" in table
    assert re.search(r"threshold +0\.\d+", table)


def test_coco64_trains_and_evaluates_without_a_special_case(tmp_path: Path) -> None:
    """80 categories, crowds, gaps between the numbers, a grey JPEG; no boxes of some classes in val."""
    data = shared("data/detection/coco64")
    run = wrn.train_detector(data, out=tmp_path / "r", epochs=1, **QUICK)
    assert len(run.evaluation.class_names) == 80
    rows = json.loads((data / "annotations" / "instances_val.json").read_text(encoding="utf-8"))["annotations"]
    there = sum(not row["iscrowd"] for row in rows)
    assert sum(one.count for one in run.evaluation.coco.classes) == there
    again = wrn.evaluate_detector(run.folder, data, watch=runtime.QUIET)
    assert again.figures() == run.evaluation.figures()
    # A part by itself has no splits: they are made though hardly any class has two pictures.
    alone = tmp_path / "alone"
    shutil.copytree(data / "train", alone)
    shutil.copy(data / "annotations" / "instances_train.json", alone / "boxes.json")
    parts = data_room.divide(data_room.load(read_boxes(alone / "boxes.json"), run_preprocess(run)).parts, 0).parts
    assert {name: len(part) for name, part in parts.items()} == {"train": 38, "val": 5, "test": 5}
    in_train = {label for boxes in parts["train"].boxes for label in boxes.classes}
    assert in_train == {label for part in parts.values() for boxes in part.boxes for label in boxes.classes}


def run_preprocess(run: wrn.BoxRun) -> wrn.Preprocess:
    return read_card(run.folder).preprocess


def test_a_detector_trains_from_yolo_and_voc_too_and_divides_what_has_no_parts(data: Path, tmp_path: Path) -> None:
    source = read_boxes(data)
    root = tmp_path / "yolo"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    part = source.splits["train"]
    for path, boxes in zip(part.sources, part.boxes, strict=True):
        assert isinstance(path, Path)
        shutil.copy(path, root / "images" / path.name)
        sides = np.array([boxes.width, boxes.height])
        lines = [
            " ".join(map(str, (label, *((box[:2] + box[2:]) / 2 / sides), *((box[2:] - box[:2]) / sides))))
            for label, box in zip(boxes.labels, boxes.boxes, strict=True)
        ]
        (root / "labels" / f"{path.stem}.txt").write_text("\n".join(lines), encoding="utf-8")
    run = wrn.train_detector(root, out=tmp_path / "r", epochs=1, **QUICK)
    assert run.evaluation.split == "test"
    assert 4 <= len(run.evaluation.names) <= 10
    again = wrn.evaluate_detector(run.folder, root, watch=runtime.QUIET)
    assert again.names == run.evaluation.names
    assert again.figures() == run.evaluation.figures()


def test_frozen_norms_are_those_that_were_trained_and_no_others(data: Path, tmp_path: Path) -> None:
    classifier = wrn.train("digits", arch="wrn_10_1", epochs=1, in_channels=3, out=tmp_path / "c", watch=runtime.QUIET)
    options = {**QUICK, "epochs": 1, "batch_size": 4}
    del options["arch"]
    run = wrn.train_detector(data, init=classifier.folder, out=tmp_path / "d", **options)
    model: Any = load_model(run.folder, "detection").model
    own: Any = load_model(classifier.folder).model
    kinds = {type(module).__name__ for module in model.backbone.body.modules()}
    assert "FrozenBatchNorm2d" in kinds
    assert "BatchNorm2d" not in kinds
    assert torch.equal(model.backbone.body.bn.running_mean, own.backbone.bn.running_mean)
    norm = model.backbone.norms["2"]
    assert isinstance(norm, torch.nn.BatchNorm2d)
    assert not torch.equal(norm.weight, torch.ones_like(norm.weight)), "it learns"


def test_layers_of_other_classes_begin_anew_and_of_the_same_are_kept(
    run: wrn.BoxRun, data: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(data, other)
    for file in (other / "annotations").iterdir():
        text = file.read_text(encoding="utf-8").replace('"square"', '"a square"')
        file.write_text(text, encoding="utf-8")
    options = {**QUICK, "epochs": 1, "lr": 0.0, "ema_decay": 0.0, "norm": "frozen"}
    del options["arch"]
    same = load_model(wrn.train_detector(data, init=run.folder, out=tmp_path / "a", **options).folder, "detection")
    begun = wrn.train_detector(other, init=run.folder, out=tmp_path / "b", **options)
    anew, source = load_model(begun.folder, "detection"), load_model(run.folder, "detection")
    layer = "head.classification_head.cls_logits.weight"
    weights = [dict(one.model.named_parameters())[layer] for one in (source, same, anew)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    layer = "head.regression_head.bbox_reg.weight"
    weights = [dict(one.model.named_parameters())[layer] for one in (source, anew)]
    assert torch.equal(weights[0], weights[1])
    assert "but for the layers of classes" in (begun.folder / runs.REPORT).read_text(encoding="utf-8")


def test_pictures_kept_nowhere_give_the_same_and_one_that_vanishes_is_left_out(data: Path, tmp_path: Path) -> None:
    root = tmp_path / "shapes"
    shutil.copytree(data, root)
    options = {**QUICK, "epochs": 3}
    whole = wrn.train_detector(root, out=tmp_path / "a", **{**options, "epochs": 1})
    streamed = wrn.train_detector(root, out=tmp_path / "b", cache="off", **{**options, "epochs": 1})
    a, b = (load_file(run.folder / runs.MODEL) for run in (whole, streamed))
    assert all(torch.equal(a[key], b[key]) for key in a)
    step, interrupt = 0, True

    def lose(what: str, *_: object) -> None:
        nonlocal step, interrupt
        step += what.startswith("epoch 2/")
        if step == 1:
            (root / "train" / "5.png").unlink(missing_ok=True)
        if what.startswith("epoch 3/") and interrupt:
            interrupt = False
            signal.raise_signal(signal.SIGINT)

    lossy = {**options, "cache": "off", "max_bad": 1, "watch": runtime.Watch(progress=lose)}
    with pytest.raises(Interrupted):
        wrn.train_detector(root, out=tmp_path / "c", **lossy)
    wrn.resume(tmp_path / "c", watch=runtime.QUIET)
    assert "train/5.png" in (tmp_path / "c" / runs.REPORT).read_text(encoding="utf-8")
    lost = load_checkpoint(tmp_path / "c" / runs.CHECKPOINT)[1]["lost"]
    assert [one["name"] for one in lost] == ["train/5.png"]
    assert lost[0]["boxes"]["height"] == 64
    shutil.copy(data / "train" / "5.png", root / "train" / "5.png")
    step, interrupt = 0, False  # the same loss, and nothing else
    unstopped = wrn.train_detector(root, out=tmp_path / "d", **lossy)
    c, d = (load_file(folder / runs.MODEL) for folder in (tmp_path / "c", unstopped.folder))
    assert all(torch.equal(c[key], d[key]) for key in c)


def test_a_val_part_without_boxes_leaves_the_last_epoch_and_is_not_said_to_have_chosen(
    data: Path, tmp_path: Path
) -> None:
    root = tmp_path / "shapes"
    shutil.copytree(data, root)
    file = root / "annotations" / "instances_val.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, "annotations": []}), encoding="utf-8")
    run = wrn.train_detector(root, out=tmp_path / "a", epochs=1, **QUICK)
    page = (run.folder / runs.REPORT).read_text(encoding="utf-8")
    assert run.evaluation.coco.ap50 is None
    assert ">–<span>AP50</span>" in page
    assert "epoch 1, the last; boxes are shown from a score of 0.50" in page
    assert "chose the epoch too" not in page
    file = root / "annotations" / "instances_train.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, "annotations": []}), encoding="utf-8")
    with pytest.raises(DataError, match="there is not one box in it"):
        wrn.train_detector(root, out=tmp_path / "b", epochs=1, **QUICK)


def test_a_source_of_group_norm_is_gone_on_with_as_it_is_and_cannot_be_frozen(data: Path, tmp_path: Path) -> None:
    options = {**QUICK, "batch_size": 4, "epochs": 1}
    first = wrn.train_detector(data, out=tmp_path / "a", head="retinanet", **options)
    del options["arch"], options["out_channels"]
    second = wrn.train_detector(data, out=tmp_path / "b", init=first.folder, **options)
    own, before = (read_card(run.folder).architecture["detector"] for run in (second, first))
    assert own == before
    assert (own["head"], own["norm"]) == ("retinanet", "group")
    with pytest.raises(UsageError, match=r"--init .*no BN whose statistics could be kept; give another --norm"):
        wrn.train_detector(data, out=tmp_path / "c", init=first.folder, norm="frozen", **options)
    assert "was trained on" not in (second.folder / runs.REPORT).read_text(encoding="utf-8"), "the same val"
    third = wrn.train_detector(swapped(data, tmp_path / "swapped"), out=tmp_path / "d", init=first.folder, **options)
    assert "was trained on 64 of the 64 pictures that are judged on here" in (third.folder / runs.REPORT).read_text(
        encoding="utf-8"
    )


def swapped(data: Path, root: Path) -> Path:
    """The same, train as val and val as train."""
    shutil.copytree(data, root)
    for one, other in (("train", "x"), ("val", "train"), ("x", "val")):
        (root / one).rename(root / other)
        (root / "annotations" / f"instances_{one}.json").rename(root / "annotations" / f"instances_{other}.json")
    return root


def test_predict_takes_lists_odd_sizes_and_names_and_refuses_what_it_cannot_write(
    run: wrn.BoxRun, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, name in (("a", "X.png"), ("b", "x.png")):
        Path(folder).mkdir()
        shutil.copy(data / "val" / "0.png", Path(folder) / name)
    Image.new("RGB", (1, 1)).save("a/dot.png")
    Image.new("RGB", (66_000, 1)).save("a/long.png")
    shutil.copy(data / "val" / "1.png", "a/" + 240 * "n" + ".png")
    listed = "\n".join(["a/X.png", "b/x.png", "a/dot.png", "a/long.png", "a/" + 240 * "n" + ".png"]).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(listed)))
    assert cli.run(["detect", "predict", str(run.folder), "-", "--draw", "drawn", "--format", "jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = [Path(line["drawn"]).name for line in lines]
    assert names == ["X.jpg", "x-2.jpg", "dot.jpg", "long.png", 100 * "n" + ".jpg"]
    assert all(Path(line["drawn"]).exists() for line in lines)
    assert lines[0]["boxes"] == lines[1]["boxes"]
    for words, said in (
        (["--draw", "a/X.png"], "--draw a/X.png: cannot be made: File exists; choose another"),
        (["--draw", "new", "--max-pixels", "0"], "--max-pixels 0: expected a number of pixels"),
    ):
        assert cli.run(["detect", "predict", str(run.folder), "a/X.png", *words]) == 2
        assert said in capsys.readouterr().err
    assert not Path("new").exists()


def test_a_model_whose_training_has_not_ended_says_that_no_threshold_was_chosen(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(what: str, *_: object) -> None:
        if what.startswith("epoch 2/"):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        wrn.train_detector(data, out=tmp_path / "r", epochs=2, **{**QUICK, "watch": runtime.Watch(progress=press)})
    assert cli.run(["detect", "predict", str(tmp_path / "r"), str(data / "val" / "0.png")]) == 0
    assert (
        "has not ended, so no threshold was chosen yet; boxes are given from a score of 0.5" in capsys.readouterr().err
    )


def test_names_of_any_alphabet_are_drawn_each_as_itself() -> None:
    blank = np.zeros((60, 200, 3), dtype=np.uint8)
    box = np.array([[20.0, 30, 180, 55]])
    texts = ("ş", "ğ", "ж", "λ", "s")
    drawn = [drawing.draw(blank, box, [0], [text]).tobytes() for text in texts]
    assert len({*drawn}) == len(texts), "a sign that a font lacks is a box like any other"
