"""Explanations → one HTML page, and one PNG each: the picture, where the network looked, what checks it, how sure it
is, what it resembles. It lays out what others computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from wideresnet.explanation import Explanation, Neighbour
from wideresnet.prediction import Prediction
from wideresnet.report.build import environment, percent

Array = npt.NDArray[np.uint8]

PICTURES = 30  # on one page, which so stays below 5 MB
_SIDE, _SMALL_SIDE, _MANY = 440, 280, 8  # pixels of the longer side as shown; the small one from so many pictures on
_LEAST = 224  # pixels; a smaller picture is enlarged, each pixel a square
_SURE, _UNSURE = 0.5, 0.2  # agreement from which the check confirms the heat, and below which it does not

_CAPTIONS = {
    "heat": ("Where it looked", "warm: what speaks most for {0}"),
    "finer": ("The same, finer", "with what an earlier layer saw there"),
    "occlusion": ("Check: covered up", "warm: covered, {0} becomes less likely"),
    "integrated-gradients": ("Check: integrated gradients", "warm: these pixels add most to {0}"),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """One explanation as the page shows it."""

    name: str
    label: str
    confidence: float
    class_name: str
    panels: Sequence[tuple[Array, str, str]]  # picture, heading, what is said under it
    top: Sequence[tuple[str, float]]  # the likeliest classes, and the one that is explained
    facts: Sequence[str]
    warnings: Sequence[str]
    neighbours: Sequence[Neighbour]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Page:
    """What the page is about. num_pictures: that were explained, of which it shows the first."""

    model: str
    command: str
    facts: Sequence[tuple[str, str]]
    pictures: Sequence[Shown]
    num_pictures: int
    nearest: str = "Most like it"
    failed: Sequence[str] = ()
    notes: Sequence[str] = ()


def build(page: Page) -> str:
    """The page, encodable as UTF-8 whatever the names hold."""
    text = environment().get_template("explanation.html.j2").render(page=page)
    return text.encode("utf-8", "replace").decode("utf-8")


def side_for(num: int) -> int:
    """Pixels of the longer side of each picture, of `num` on one page."""
    return _SIDE if num <= _MANY else _SMALL_SIDE


def shown(e: Explanation, side: int = _SIDE) -> Shown:
    facts, warnings = said(e)
    return Shown(
        name=e.name,
        label=e.prediction.label,
        confidence=e.prediction.confidence,
        class_name=e.class_name,
        panels=[(image, heading, text.format(e.class_name)) for image, heading, text in _panels(e, side)],
        top=_top(e.prediction, e.class_name),
        facts=facts,
        warnings=warnings,
        neighbours=e.neighbours,
    )


def said(e: Explanation) -> tuple[list[str], list[str]]:
    """In plain words: what is known, and what should make one careful."""
    before, warmest, coldest = e.covered
    facts, warnings = _unknown(e.prediction)
    if not e.has_heat:
        warnings.append(no_heat(e))
    else:
        facts.append(
            f"With its warmest fifth covered, {e.class_name} goes from {percent(before)} to {percent(warmest)}; with "
            f"its coldest fifth covered, to {percent(coldest)}."
        )
        if warmest >= coldest:
            warnings.append(
                f"Covering the warmest fifth does not lower {e.class_name} more than covering the coldest: "
                "do not trust the heat."
            )
        if e.agreement is not None and e.agreement >= _SURE:
            facts.append(f"The check agrees with the heat (rank correlation {e.agreement:.2f}).")
        elif e.agreement is not None and e.agreement >= _UNSURE:
            facts.append(f"The check agrees with the heat in part (rank correlation {e.agreement:.2f}).")
        else:
            how = "" if e.agreement is None else f" (rank correlation {e.agreement:.2f})"
            warnings.append(f"The check does not agree with the heat{how}: read little into where it is.")
    if e.trained_on:
        warnings.append("It was trained on this very picture, so that it is sure of it says little.")
    left, top, right, bottom = e.seen
    share = 1 - (right - left) * (bottom - top) / (e.image.shape[0] * e.image.shape[1])
    if share >= 0.01:
        facts.append(f"It did not see {percent(share, 0)} of the picture, which its crop takes away (striped).")
    return facts, warnings


def no_heat(e: Explanation) -> str:
    """Of one that has none: why."""
    if e.maps["heat"].heat.max() > 0:
        return f"No place stands out: every cell of the last map speaks as much for {e.class_name}."
    return f"Nothing in the last map speaks for {e.class_name}: there is no heat to be shown."


def _unknown(prediction: Prediction) -> tuple[list[str], list[str]]:
    """How unlike the pictures of training it is, where the model knows; to be known, or to make one careful."""
    share = prediction.unknown_score
    if share is None:
        return [], []
    if prediction.is_unknown:
        less = f"of held-out pictures of its own kind {percent(share, 0)} look less unlike them"
        return [], [f"It is unlike what the model was trained on ({less}): its answer is a guess."]
    as_unlike = f"of held-out pictures of its own kind {percent(1 - share, 0)} look at least as unlike them"
    return [f"It is like what the model was trained on ({as_unlike})."], []


def _top(prediction: Prediction, class_name: str) -> list[tuple[str, float]]:
    ranked = sorted(prediction.probs.items(), key=lambda item: -item[1])
    return ranked[:5] + [item for item in ranked[5:] if item[0] == class_name]


def _panels(e: Explanation, side: int, least: int = _LEAST) -> list[tuple[Array, str, str]]:
    shape = _shape(e.image, side, least)
    kinds = ["heat", *(["finer"] if "finer" in e.maps else [])] * e.has_heat + ["check"]
    texts = [_CAPTIONS[e.check_method if kind == "check" else kind] for kind in kinds]
    heats = [(overlay(e, kind, shape), *text) for kind, text in zip(kinds, texts, strict=True)]
    return [(_striped(_resized(e.image, shape).astype(np.float32), e), "The picture", ""), *heats]


def _shape(image: Array, side: int, least: int) -> tuple[int, int]:
    """Rows and columns as shown; of a picture smaller than `least` each pixel becomes a square of several."""
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer < least:
        return height * (least // longer), width * (least // longer)
    share = min(1.0, side / longer)
    return max(1, round(height * share)), max(1, round(width * share))


def _resized(image: Array, shape: tuple[int, int]) -> Array:
    how = Image.Resampling.NEAREST if shape[0] > image.shape[0] else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(shape[::-1], how))


def overlay(e: Explanation, what: str, shape: tuple[int, int]) -> Array:
    """The picture in paler colours, its heat laid on it, at `shape`; a line around all that is half as warm as the
    warmest; striped where the network did not look."""
    heat, picture = e.drawn(what, shape), _resized(e.image, shape).astype(np.float32)
    grey = picture @ np.array([0.299, 0.587, 0.114], np.float32)
    pale = 0.8 * (0.35 * picture + 0.65 * grey[..., None])
    colours = 255 * matplotlib.colormaps["inferno"](0.25 + 0.75 * heat)[..., :3].astype(np.float32)
    opacity = (0.8 * heat**0.8)[..., None]
    drawn = pale * (1 - opacity) + colours * opacity
    warm = np.pad(heat >= 0.5, 1, mode="edge")
    inner = warm[:-2, 1:-1] & warm[2:, 1:-1] & warm[1:-1, :-2] & warm[1:-1, 2:]
    drawn[warm[1:-1, 1:-1] & ~inner] = 255
    return _striped(drawn, e)


def _striped(drawn: npt.NDArray[np.float32], e: Explanation) -> Array:
    """float32 [h, w, 3] → uint8, dimmed and striped where the network did not look."""
    rows, columns = drawn.shape[:2]
    height, width = e.image.shape[:2]
    left, top, right, bottom = e.seen
    y, x = (np.arange(rows) + 0.5) * height / rows, (np.arange(columns) + 0.5) * width / columns
    outside = ((y < top) | (y > bottom))[:, None] | ((x < left) | (x > right))[None]
    stripes = (np.arange(rows)[:, None] + np.arange(columns)[None]) % 12 < 4
    drawn = np.where(outside[..., None], drawn * 0.35 + np.where(stripes, 90, 40)[..., None], drawn)
    return drawn.round().clip(0, 255).astype(np.uint8)


# ——— one picture as a PNG ———

_PAPER, _INK, _SOFT, _ACCENT, _LINE, _MISS = "#fbfaf7", "#1e2124", "#62676e", "#0c6f69", "#e5e2dc", "#b4452c"
_PANEL, _GAP, _ROW = 300, 20, 24  # pixels


def sheet(e: Explanation) -> Array:
    """All of one explanation as a picture, on paper: uint8 [h, w, 3]."""
    panels = _panels(e, _PANEL, _PANEL)
    wide = max(_PANEL, panels[0][0].shape[1])
    high = max(image.shape[0] for image, _, _ in panels)
    width = max(3, len(panels)) * (wide + _GAP) + _GAP  # what is below them needs three
    facts, warnings = said(e)
    lines = [(line, _INK) for line in facts] + [(line, _MISS) for line in warnings]
    text_width = width - 2 * _GAP
    wrapped = [(part, ink) for line, ink in lines for part in _wrapped(line, _font(15), text_width)]
    top, near = _top(e.prediction, e.class_name), list(e.neighbours)
    thumb = 96
    height = 84 + high + 56 + max(len(top) * _ROW, (thumb + 66) if near else 0) + 20 + len(wrapped) * _ROW + _GAP
    paper = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(paper)
    head = f"{e.prediction.label}  {percent(e.prediction.confidence)}"
    head += "" if e.class_name == e.prediction.label else f"   (explained: {e.class_name})"
    pen.text((_GAP, 14), _cut(head, _font(26), text_width), _INK, _font(26))
    pen.text((_GAP, 50), _cut(e.name, _font(14), text_width), _SOFT, _font(14))
    for number, (image, heading, _) in enumerate(panels):
        x = _GAP + number * (wide + _GAP)
        paper.paste(Image.fromarray(image), (x, 84))
        pen.text((x, 84 + high + 8), _cut(heading, _font(15), wide), _INK, _font(15))
    y, middle = 84 + high + 46, _GAP + 2 * (wide + _GAP)
    bars = middle - 2 * _GAP - 220
    for number, (name, share) in enumerate(top):
        at = y + number * _ROW
        pen.text((_GAP, at), _cut(name, _font(15), 130), _INK, _font(15))
        pen.rectangle((_GAP + 140, at + 6, _GAP + 140 + bars, at + 14), _LINE)
        if share * bars >= 1:
            pen.rectangle((_GAP + 140, at + 6, _GAP + 140 + share * bars, at + 14), _ACCENT)
        pen.text((_GAP + 150 + bars, at), percent(share), _SOFT, _font(15))
    if near:
        pen.text((middle, y), "Most like it", _INK, _font(15))
    for number, one in enumerate(near[: max(1, (width - middle - _GAP) // (thumb + 10))]):
        x = middle + number * (thumb + 10)
        if one.image is None:
            pen.rectangle((x, y + 26, x + thumb, y + 26 + thumb), _LINE)
        else:
            how = Image.Resampling.NEAREST if one.image.shape[0] < thumb else Image.Resampling.LANCZOS
            paper.paste(Image.fromarray(one.image).resize((thumb, thumb), how), (x, y + 26))
        ink = _INK if one.label == e.prediction.label else _MISS
        pen.text((x, y + 26 + thumb + 2), _cut(one.label, _font(14), thumb), ink, _font(14))
        pen.text((x, y + 26 + thumb + 20), "itself" if one.same else f"{one.distance:.3f}", _SOFT, _font(13))
    y = height - _GAP - len(wrapped) * _ROW
    for number, (line, ink) in enumerate(wrapped):
        pen.text((_GAP, y + number * _ROW), line, ink, _font(15))
    return np.asarray(paper)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's DejaVu Sans, which has Turkish, Greek and Cyrillic too; Pillow's own has none of these."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _cut(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """On one line, its end left out if it is wider than `width`."""
    text = "".join(sign if sign.isprintable() or sign == "\N{NARROW NO-BREAK SPACE}" else "?" for sign in text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_cut(line, font, width) for line in lines]
