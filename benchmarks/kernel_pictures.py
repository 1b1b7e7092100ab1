"""The pictures of docs/kernels.md.

Usage: python benchmarks/kernel_pictures.py FOLDER
    Writes kernels-idea.svg, kernels-layer.svg, kernels-roofline.svg and kernels-stride2.svg; the same bytes each time.
"""

import sys
from pathlib import Path

import matplotlib as mpl
from kernel_layers import LAYERS, ONE_IMAGE
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

INK, GREY, LIGHT = "#222222", "#777777", "#d9d9d9"
BLUE, ORANGE, GREEN, VIOLET = "#2f6db3", "#d9772b", "#3c8a4e", "#7d54a8"
PALE = {BLUE: "#dbe8f6", ORANGE: "#fae4d3", GREEN: "#dcefe0", VIOLET: "#e9e0f3", GREY: "#eeeeee"}

# Of the machine, both cores together; docs/kernels.md says which.
PEAK = 540.0  # GFLOP/s, fused multiply-add
MEMORY, THIRD = 75.0, 230.0  # GB/s, reading


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Axes without a frame, in units of a tenth of an inch, y downwards."""
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 10 * width)
    axes.set_ylim(10 * height, 0)
    axes.axis("off")
    return figure, axes


def text(
    axes: Axes, x: float, y: float, words: str, *, size: float = 10, colour: str = INK, at: str = "center"
) -> None:
    axes.text(x, y, words, fontsize=size, color=colour, ha=at, va="center", linespacing=1.35)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = INK) -> None:
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, lw=1.4, color=colour, shrinkA=0, shrinkB=0)
    )


def grid(axes: Axes, at: tuple[float, float], shape: tuple[int, int], cell: float, colour: str) -> None:
    x, y = at
    rows, columns = shape
    for i in range(rows):
        for j in range(columns):
            place = (x + j * cell, y + i * cell)
            axes.add_patch(Rectangle(place, cell, cell, facecolor=PALE[colour], edgecolor=colour, lw=0.9))


def stack(axes: Axes, at: tuple[float, float], shape: tuple[int, int], cell: float, colour: str) -> None:
    """A grid in front of others like it: the channels."""
    for shift in (2.0, 1.0):
        place, size = (at[0] + shift, at[1] - shift), (shape[1] * cell, shape[0] * cell)
        axes.add_patch(Rectangle(place, *size, facecolor=PALE[colour], edgecolor=colour, lw=0.9))
    grid(axes, at, shape, cell, colour)


def box(axes: Axes, at: tuple[float, float], size: tuple[float, float], words: str, colour: str) -> None:
    (x, y), (width, height) = at, size
    style = "round,pad=0,rounding_size=1"
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=PALE[colour], edgecolor=colour, lw=1.3)
    )
    text(axes, x + width / 2, y + height / 2, words, size=9.5)


def idea() -> Figure:
    figure, axes = canvas(10, 4.9)
    stack(axes, (5, 9), (6, 6), 2, BLUE)
    text(axes, 11.5, 24.5, "6×6 pixels of the input,\nC channels")
    grid(axes, (8, 33), (3, 3), 2, ORANGE)
    text(axes, 11.5, 43, "a 3×3 filter for each pair\nof channels")

    arrow(axes, (21, 15), (29, 15), BLUE)
    text(axes, 25, 11.4, "transform", size=9, colour=BLUE)
    text(axes, 25, 18.6, "× 2, 4, 5\nand sums", size=8.5, colour=GREY)
    arrow(axes, (16, 36), (29, 36), ORANGE)
    text(axes, 22.3, 32.6, "transform, once", size=9, colour=ORANGE)

    stack(axes, (31, 9), (6, 6), 2, BLUE)
    text(axes, 38, 24.5, "36 frequencies,\nC channels")
    stack(axes, (31, 31), (6, 6), 2, ORANGE)
    text(axes, 38, 46, "36 frequencies, C×K")

    # one frequency: a row of V times a matrix U
    axes.add_patch(Rectangle((35, 13), 2, 2, facecolor=BLUE, edgecolor=BLUE))
    axes.add_patch(Rectangle((35, 35), 2, 2, facecolor=ORANGE, edgecolor=ORANGE))
    arrow(axes, (46, 15), (52, 20), BLUE)
    arrow(axes, (46, 35), (52, 30), ORANGE)
    box(axes, (52.5, 17.5), (20, 15), "at each frequency alone:\n\nV [tiles × C] · U [C × K]\n= M [tiles × K]", GREEN)
    text(axes, 62.5, 36, "36 products for each pair\nof channels", colour=GREEN)

    arrow(axes, (73, 25), (79.5, 25), GREEN)
    text(axes, 76.2, 21.4, "back", size=9, colour=GREEN)
    stack(axes, (81, 21), (4, 4), 2, VIOLET)
    text(axes, 86.5, 33, "4×4 pixels of the output,\nK channels")
    text(axes, 86.5, 41.5, "direct: 16 · 9 = 144 products\nfor each pair of channels", colour=GREY)
    text(axes, 50, 3, "F(4×4, 3×3): the same 16 outputs with 36 multiplications where there were 144", size=12.5)
    return figure


def layer_pass() -> Figure:
    figure, axes = canvas(10, 5.6)
    text(axes, 50, 3, "One layer: one pass over memory", size=12.5)
    for y, height, words in (
        (7, 10, "memory and\nthird cache"),
        (19, 12, "processor"),
        (33, 10, "second cache\n(wide: third too)"),
    ):
        axes.add_patch(Rectangle((1, y), 98, height, facecolor="#fafafa", edgecolor=LIGHT, lw=0.8))
        text(axes, 2, y + height / 2, words, size=9, colour=GREY, at="left")

    box(axes, (13, 8.5), (14, 7), "map x\n[n][h][w][C]", BLUE)
    box(axes, (42, 8.5), (18, 7), "filters U, packed once\n[panel][36][C][32]", ORANGE)
    box(axes, (64, 8.5), (13, 7), "residual\n[n][h][w][K]", VIOLET)
    box(axes, (82, 8.5), (14, 7), "map y\n[n][h][w][K]", VIOLET)

    box(axes, (12, 21), (20, 8), "BN, ReLU,\ninput transform", BLUE)
    box(axes, (40, 21), (22, 8), "", GREEN)
    text(axes, 51, 25, "36 matrix products\nin registers")
    box(axes, (70, 21), (27, 8), "output transform,\nbias, ReLU, + residual", VIOLET)

    box(axes, (15.5, 34.5), (20, 7), "V, 28 tiles at a time\n[36][tiles][C]", BLUE)
    box(axes, (67, 34.5), (20, 7), "M\n[36][tiles][K]", GREEN)

    arrow(axes, (20, 15.7), (20, 20.8), BLUE)
    arrow(axes, (26, 29.2), (26, 34.3), BLUE)
    arrow(axes, (35.7, 37), (45, 29.2), BLUE)
    arrow(axes, (51, 15.7), (51, 20.8), ORANGE)
    arrow(axes, (59, 29.2), (69, 34.3), GREEN)
    arrow(axes, (79, 34.3), (82, 29.2), GREEN)
    arrow(axes, (72, 15.7), (76, 20.8), VIOLET)
    arrow(axes, (88, 20.8), (88, 15.7), VIOLET)

    # the microkernel, as registers
    text(axes, 2, 50, "registers\n(AVX-512)", size=9, colour=GREY, at="left")
    for i in range(14):
        axes.add_patch(Rectangle((37 + i * 1.9, 46), 1.7, 3.4, facecolor=PALE[GREEN], edgecolor=GREEN, lw=0.9))
        axes.add_patch(Rectangle((37 + i * 1.9, 49.6), 1.7, 3.4, facecolor=PALE[GREEN], edgecolor=GREEN, lw=0.9))
    text(axes, 34.5, 49.5, "14 tiles × 2 vectors of 16\noutput channels: 28 sums", size=9.5, at="right")
    text(
        axes,
        66,
        49.5,
        "step: 2 vectors of U loaded,\n14 numbers of V, each sent to 16 lanes,\n28 fused multiply-adds",
        size=9.5,
        at="left",
    )
    axes.plot((40.2, 37), (29.2, 45.6), color=GREEN, lw=0.8, ls=":")
    axes.plot((62, 63.4), (29, 45.6), color=GREEN, lw=0.8, ls=":")
    return figure


def roofline() -> Figure:
    figure = Figure(figsize=(10, 6.2), facecolor="white")
    axes = figure.add_axes((0.075, 0.095, 0.905, 0.84))
    left, right, top = 4.0, 600.0, 4 * PEAK
    ceilings = (
        (top, f"F(4×4) at best: 4 · {PEAK:,.0f} = {top:,.0f}", GREEN),
        (PEAK * 144 / 81, f"stride 2 at best: 144/81 · {PEAK:,.0f} = {PEAK * 144 / 81:,.0f}", VIOLET),
        (PEAK, f"direct convolution at best: what the processor can multiply, {PEAK:,.0f}", ORANGE),
    )
    for height, words, colour in ceilings:
        axes.plot((height / MEMORY, right), (height, height), color=colour, lw=1.8)
        axes.text(right * 0.97, height * 1.02, words, ha="right", va="bottom", fontsize=10, color=colour)
    for words, speed, line in (("memory", MEMORY, "-"), ("third cache", THIRD, "--")):
        axes.plot((left, top / speed), (left * speed, top), color=INK, lw=1.6, ls=line)
        start = 1.1 * left
        axes.annotate(words + f", {speed:g} GB/s", (start, start * speed), (-6, 6), textcoords="offset points",
                      rotation=49.2, rotation_mode="anchor", fontsize=10, color=INK)  # fmt: skip
    colours = {"WRN-16-2": ORANGE, "WRN-16-4": GREEN, "WRN-28-10": BLUE}
    for layer in LAYERS:
        place, colour = (layer.intensity, layer.gflops), colours[layer.net]
        axes.plot(*place, "o" if layer.stride == 1 else "s", ms=7, color=colour)
        words = f"{layer.in_ch}@{layer.side}" if layer.stride == 1 else f"{layer.in_ch}→{layer.out_ch}"
        axes.annotate(words, place, layer.at, textcoords="offset points", fontsize=10, color=colour)
    for words, layer in ONE_IMAGE:
        place = layer.intensity, layer.gflops
        axes.plot(*place, "o", ms=7, mfc="white", mec=BLUE, mew=1.6)
        axes.annotate(words, place, layer.at, textcoords="offset points", fontsize=9.5, color=BLUE)
    for net, colour in colours.items():
        axes.plot([], [], "o", color=colour, label=f"{net}, batch 16: channels@side")
    axes.plot([], [], "s", color=GREY, label="stride 2, batch 16: channels in → out")
    axes.plot([], [], "o", mfc="white", mec=BLUE, mew=1.6, label="640@8, one image, computed in four ways")
    axes.legend(loc="lower right", fontsize=9.5, frameon=False, bbox_to_anchor=(1, 0.015))
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(250, 3000))
    for axis, ticks in ((axes.xaxis, (5, 10, 20, 50, 100, 200, 500)), (axes.yaxis, (250, 500, 1000, 2000))):
        axis.set_ticks(ticks, [f"{tick:,}" for tick in ticks], fontsize=10)
        axis.set_ticks([], minor=True)
    axes.set_xlabel("work for each byte that must move: FLOP as a direct convolution counts / (maps and filters, once)")
    axes.set_ylabel("GFLOP/s, as a direct convolution counts")
    axes.set_title("Two cores of an AMD EPYC (Zen 5), float32", fontsize=12.5)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def samples(axes: Axes, at: tuple[float, float], names: str, colours: str) -> None:
    x, y = at
    step = 4.4
    for i, (name, colour) in enumerate(zip(names.split(), colours.split(), strict=True)):
        axes.add_patch(Rectangle((x + i * step, y), 4, 4, facecolor=PALE[colour], edgecolor=colour, lw=1.1))
        text(axes, x + i * step + 2, y + 2, name, size=9)


def stride2() -> Figure:
    figure, axes = canvas(10, 4.9)
    text(axes, 50, 3, "Stride 2: even and odd samples apart, 81 multiplications where there were 144", size=12.5)
    text(axes, 4, 9, "along one side: 4 outputs y from 9 samples z", at="left")
    samples(axes, (4, 11.5), "z0 z1 z2 z3 z4 z5 z6 z7 z8", " ".join((BLUE, ORANGE) * 4 + (BLUE,)))
    text(axes, 4, 18.6, "y[i] = w0·z[2i] + w1·z[2i+1] + w2·z[2i+2]", at="left")
    samples(axes, (4, 23), "z0 z2 z4 z6 z8", " ".join((BLUE,) * 5))
    text(axes, 27.5, 25, "taps w0, w2, without a stride:\nF(4, 2), 5 products, not 8", size=9.5, colour=BLUE, at="left")
    samples(axes, (4, 31), "z1 z3 z5 z7", " ".join((ORANGE,) * 4))
    text(axes, 27.5, 33, "tap w1 alone:\n4 products", size=9.5, colour=ORANGE, at="left")
    text(axes, 4, 40.5, "5 + 4 = 9 products, not 4 · 3 = 12", size=11, at="left")

    x, y, cell = 66.0, 11.5, 2.8
    text(axes, x + 4.5 * cell, 9, "both sides: 4×4 outputs")
    for i, j, rows, columns, colour in (
        (0, 0, 5, 5, BLUE),
        (0, 5, 5, 4, VIOLET),
        (5, 0, 4, 5, VIOLET),
        (5, 5, 4, 4, ORANGE),
    ):
        grid(axes, (x + j * cell, y + i * cell), (rows, columns), cell, colour)
        place = (x + (j + columns / 2) * cell, y + (i + rows / 2) * cell)
        axes.text(*place, str(rows * columns), fontsize=13, color=INK, ha="center", va="center", weight="bold",
                  bbox={"facecolor": PALE[colour], "edgecolor": "none", "pad": 1.5})  # fmt: skip
    text(axes, x - 1, y + 2.5 * cell, "even", size=9.5, colour=BLUE, at="right")
    text(axes, x - 1, y + 7 * cell, "odd", size=9.5, colour=ORANGE, at="right")
    text(axes, x + 2.5 * cell, y + 9 * cell + 2, "even", size=9.5, colour=BLUE)
    text(axes, x + 7 * cell, y + 9 * cell + 2, "odd", size=9.5, colour=ORANGE)
    text(axes, x + 4.5 * cell, 43.5, "9 · 9 = 81 products,\nnot 16 · 9 = 144", size=11)
    return figure


def main(words: list[str]) -> int:
    if len(words) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    mpl.rcParams.update({"svg.hashsalt": "wideresnet", "font.family": "DejaVu Sans"})
    for name, draw in (("idea", idea), ("layer", layer_pass), ("roofline", roofline), ("stride2", stride2)):
        draw().savefig(Path(words[0]) / f"kernels-{name}.svg", metadata={"Date": None})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
