"""The report is one file that needs no other, stays small, obeys no stranger's name and shows nothing unknown."""

import base64
import csv
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import shared
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from wideresnet.evaluation import Evaluation
from wideresnet.files import csv_text
from wideresnet.report import figures
from wideresnet.report.build import Search, Subject, build

VOID = {"meta", "img", "br", "hr", "input", "link"}
HOSTILE = (
    "<b>bold</b>",
    "{{ 7*7 }}",
    "{% raw %}",
    "</style><script>alert(1)</script>",
    'a" onmouseover="alert(1)',
    "فراشة وردية",
    "\u202egpj.exe",
    "🦋🌸",
    "&amp; &",
    "\udcff\udcfe",  # a file name that is no UTF-8, as os.listdir gives it
)


class Page(HTMLParser):
    """Every element with its attributes, the text, the headings; fails where a tag closes another than the last."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.text += data

    def sections(self) -> list[str]:
        return [attrs["id"] for tag, attrs in self.elements if tag == "section"]


def history(epochs: int, *, val: bool = True) -> list[dict[str, float]]:
    rows = []
    for epoch in range(1, epochs + 1):
        row = {"epoch": epoch, "lr": 0.1 / epoch, "train_loss": 2 / epoch, "train_accuracy": 1 - 0.5 / epoch}
        rows.append(row | ({"val_loss": 3 / epoch, "val_accuracy": 1 - 0.6 / epoch} if val else {}))
    return rows


def evaluated(class_names: tuple[str, ...], count: int = 200, names: tuple[str, ...] | None = None) -> Evaluation:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, len(class_names), count)
    logits = generator.normal(size=(count, len(class_names))).astype(np.float32)
    logits[np.arange(count), labels] += 1
    names = names or tuple(f"{class_names[label]}/{i}.jpg" for i, label in enumerate(labels))
    return Evaluation(
        data="photos/", split="val", engine="torch", class_names=class_names, names=names, labels=labels, logits=logits
    )


def whole_subject(evaluation: Evaluation, pictures: list[np.ndarray]) -> Subject:
    classes = evaluation.class_names
    return Subject(
        title="flowers-1",
        command="wrn train photos/ --out 'runs/my flowers'",
        highlights=[("Network", "WRN-16-2")],
        facts=[("Device", "CPU, 2 threads")],
        evaluation=evaluation,
        pictures=lambda index: pictures[index % len(pictures)],
        history=history(5),
        splits={"train": [9] * len(classes), "val": [1] * len(classes)},
        splits_note="90/10",
        augmented=np.stack([np.resize(picture, (64, 64, 3)) for picture in pictures[:8]]),
        augmented_labels=[classes[0]] * len(pictures[:8]),
        notes=["2 files were left out"],
    )


@pytest.fixture(scope="module")
def digits_page() -> str:
    """A real model's answers on real pictures, every section filled."""
    digits = load_digits()
    model = LogisticRegression(max_iter=100).fit(digits.data[:400] / 16, digits.target[:400])
    evaluation = Evaluation(
        data="digits",
        split="test",
        engine="torch",
        class_names=tuple("0123456789"),
        names=tuple(f"test[{i}]" for i in range(len(digits.data) - 400)),
        labels=digits.target[400:].astype(np.int64),
        logits=model.decision_function(digits.data[400:] / 16).astype(np.float32),
    )
    pictures = np.repeat((digits.images[400:] * 15.9).astype(np.uint8)[..., None], 3, axis=-1)
    return build(whole_subject(evaluation, list(pictures)))


def test_a_whole_report_has_every_section_in_order_and_is_well_formed(digits_page: str) -> None:
    first, last = ["figures", "curves", "confusion", "classes", "mistakes", "pairs"], ["augmented", "data", "repeat"]
    assert Page(digits_page).sections() == [*first, "reliability", "abstaining", *last]


def test_the_page_loads_nothing_and_runs_nothing(digits_page: str) -> None:
    page = Page(digits_page)
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    for _, attrs in page.elements:
        assert not any(name.startswith("on") for name in attrs), attrs
        for name in {"src", "href", "srcset", "xlink:href", "action", "poster"} & attrs.keys():
            assert attrs[name].startswith(("data:image/", "#")), attrs[name][:80]
    assert not re.search(r"https?://|url\(|@import|//[a-z]", re.sub(r"base64,[^\"]*", "", digits_page))


def test_the_page_is_made_for_phones_and_for_the_dark(digits_page: str) -> None:
    metas = {attrs.get("name"): attrs.get("content") for tag, attrs in Page(digits_page).elements if tag == "meta"}
    assert metas["viewport"] == "width=device-width, initial-scale=1"
    assert "@media (prefers-color-scheme: dark)" in digits_page
    drawings = re.findall(r"<svg.*?</svg>", digits_page, re.DOTALL)
    assert len(drawings) == 5
    for drawing in drawings:  # a colour of its own would vanish in one of both
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", drawing)) <= {
            "none",
            *(f"var(--{name})" for name in ("accent", "ink", "soft", "faint", "line")),
        }


def test_every_picture_and_drawing_has_a_text_and_every_id_is_one(digits_page: str) -> None:
    page = Page(digits_page)
    images = [attrs for tag, attrs in page.elements if tag == "img"]
    assert images
    assert all(attrs["alt"] for attrs in images)
    assert all(attrs["aria-label"] for tag, attrs in page.elements if tag == "svg")
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids)), "an id occurs twice"


def test_a_report_on_photographs_of_ten_classes_stays_below_2_mb() -> None:
    files = sorted(shared("data/photos").rglob("*.jpg"))[:60]
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    evaluation = evaluated(tuple(f"class {i}" for i in range(10)), count=600)
    size = len(build(whole_subject(evaluation, pictures)).encode())
    assert size < 2_000_000, f"{size:,} bytes"


def test_a_hundred_classes_stay_below_4_mb_and_show_the_most_confused_part() -> None:
    evaluation = evaluated(tuple(f"class {i}" for i in range(100)), count=3000)
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)  # what compresses worst
    text = build(whole_subject(evaluation, list(noise)))
    assert len(text.encode()) < 4_000_000, f"{len(text.encode()):,} bytes"
    page = Page(text)
    cells = [attrs for tag, attrs in page.elements if tag == "td" and attrs.get("class", "").startswith("right")]
    assert len(cells) == 20
    assert "20 of 100 classes" in page.text
    assert "80 more classes" in page.text


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_and_not_obeyed(name: str) -> None:
    evaluation = evaluated((name, "plain"), names=tuple(f"{name}/{i}.jpg" for i in range(200)))
    subject = Subject(
        title=name,
        command=f"wrn train {name}",
        highlights=[(name, name)],
        facts=[(name, name)],
        evaluation=evaluation,
        pictures=lambda _: np.zeros((4, 4, 3), np.uint8),
        history=history(2),
        splits={name: [1, 2]},
        splits_note=name,
        augmented=np.zeros((1, 4, 4, 3), np.uint8),
        augmented_labels=[name],
        notes=[name],
    )
    harmless = build(Subject(title="x", command="x", evaluation=evaluated(("x", "plain")), history=history(2)))
    page, allowed = Page(build(subject)), Page(harmless)
    shown = name.encode("utf-8", "replace").decode()
    assert page.text.count(shown) > 10
    assert {tag for tag, _ in page.elements} - {tag for tag, _ in allowed.elements} <= {
        "img",
        "figure",
        "aside",
        "li",
        "ul",
    }
    assert all(not attr.startswith("on") for _, attrs in page.elements for attr in attrs)


def test_a_report_without_a_run_has_no_curves_and_nothing_on_training() -> None:
    subject = Subject(title="flowers", command="wrn evaluate runs/flowers-1 photos/", evaluation=evaluated(("a", "b")))
    assert {"curves", "augmented", "data"}.isdisjoint(Page(build(subject)).sections())


def test_a_report_without_an_evaluation_shows_the_run() -> None:
    subject = Subject(title="run", command="wrn train x", history=history(3), splits={"train": [4]}, class_names=["a"])
    assert Page(build(subject)).sections() == ["curves", "data", "repeat"]


def test_a_model_without_mistakes_has_no_section_on_them() -> None:
    labels = np.arange(30) % 25
    perfect = Evaluation(
        data="d",
        split="test",
        engine="torch",
        class_names=tuple(map(str, range(25))),
        names=tuple(map(str, range(30))),
        labels=labels,
        logits=np.eye(25, dtype=np.float32)[labels] * 9,
    )
    page = Page(build(Subject(title="t", command="c", evaluation=perfect)))
    assert page.sections() == ["figures", "classes", "reliability", "repeat"]
    assert "100.0\N{NARROW NO-BREAK SPACE}%" in page.text


def test_one_picture_of_one_class_makes_a_report() -> None:
    page = Page(build(Subject(title="t", command="c", evaluation=evaluated(("only",), count=1), history=history(1))))
    assert page.sections() == ["figures", "curves", "classes", "reliability", "repeat"]


def test_a_class_without_pictures_is_shown_as_a_dash() -> None:
    found = Evaluation(
        data="d",
        split="test",
        engine="torch",
        class_names=("a", "b"),
        names=("one",),
        labels=np.array([0]),
        logits=np.array([[1, 0]], np.float32),
    )
    page = Page(build(Subject(title="t", command="c", evaluation=found)))
    assert page.text.count("–") == 4
    assert "nan" not in page.text.lower()


def test_rows_as_read_back_from_metrics_csv_draw_the_same_curves() -> None:
    rows = [*history(3), {"epoch": 4, "lr": 0.01, "train_loss": 0.4, "train_accuracy": 0.9}]  # the last not validated
    read_back = list(csv.DictReader(io.StringIO(csv_text(rows))))
    assert read_back[3]["val_loss"] == ""
    assert figures.loss_curve(read_back) == figures.loss_curve(rows)
    assert figures.accuracy_curve(read_back) == figures.accuracy_curve(rows)


def test_a_run_without_validation_draws_training_alone() -> None:
    drawing = figures.loss_curve(history(4, val=False))
    assert ">train<" in drawing
    assert ">val<" not in drawing


def test_the_same_subject_gives_the_same_bytes() -> None:
    subject = whole_subject(evaluated(("a", "b", "c")), [np.full((80, 100, 3), 90, np.uint8)])
    assert build(subject) == build(subject)


def test_tiny_pictures_are_embedded_exactly_and_large_ones_made_small() -> None:
    def embedded(picture: np.ndarray) -> Image.Image:
        text = build(Subject(title="t", command="c", augmented=picture[None], augmented_labels=["a"]))
        found = re.search(r"base64,([^\"]+)", text)
        assert found
        return Image.open(io.BytesIO(base64.b64decode(found[1])))

    tiny = np.random.default_rng(0).integers(0, 256, (64, 40, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(embedded(tiny)), tiny)
    assert embedded(np.zeros((400, 900, 3), np.uint8)).size == (176, 78)


def test_counts_that_fit_no_class_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        build(Subject(title="t", command="c", evaluation=evaluated(("a", "b")), splits={"train": [1, 2, 3]}))


def searched(num_trials: int = 12) -> Search:
    """A search as its rows are in trials.csv: one pruned, one diverged."""
    rows: list[dict[str, float | str | None]] = []
    for i in range(1, num_trials + 1):
        state = {3: "pruned", 4: "diverged"}.get(i, "done")
        row: dict[str, float | str | None] = {"trial": i, "state": state, "score": None if i == 4 else 0.9 - 0.01 * i}
        rows.append({**row, "best": 0.89, "epochs": 3, "seconds": 1.5, "lr": 0.01 * i, "crop_padding": i % 3})
    importance = {"crop_padding": 0.2, "lr": 0.8}
    return Search(trials=rows, best=1, axes={"lr": True, "crop_padding": False}, importance=importance)


def test_a_search_shows_its_course_what_mattered_and_every_trial_best_first() -> None:
    text = build(Subject(title="search", command="wrn train x", search=searched()))
    page = Page(text)
    assert page.sections() == ["search", "importance", "slices", "trials", "repeat"]
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 3
    for drawing in drawings:
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", drawing)) <= {
            "none",
            *(f"var(--{name})" for name in ("accent", "ink", "soft", "faint", "line")),
        }
    table = text[text.index('id="importance"') : text.index('id="slices"')]
    assert table.index(">lr<") < table.index(">crop_padding<")
    order = re.findall(r'<th scope="row">(\d+)</th>', text[text.index('id="trials"') :])
    assert order == ["1", "2", *map(str, range(5, 13)), "3", "4"], "done before pruned before diverged"


def test_a_search_of_one_trial_or_without_importance_has_no_section_for_it() -> None:
    one = searched(1)
    page = Page(build(Subject(title="search", command="wrn train x", search=dataclasses.replace(one, importance={}))))
    assert page.sections() == ["search", "slices", "trials", "repeat"]


def test_a_cross_validation_shows_each_fold() -> None:
    folds = [evaluated(("a", "b"), count) for count in (40, 30)]
    text = build(Subject(title="folds", command="wrn train x --folds 2", evaluation=evaluated(("a", "b")), folds=folds))
    assert "folds" in Page(text).sections()
    table = text[text.index('id="folds"') : text.index("</section>", text.index('id="folds"'))]
    assert re.findall(r'<th scope="row">(\d)</th><td class="count">(\d+)</td>', table) == [("1", "40"), ("2", "30")]
