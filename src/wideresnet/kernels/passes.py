"""A WideResNetClassifier's backbone in training, part by part: what each does in the forward and in the backward pass.

Forward: each convolution normalises and activates its input as it loads it, and sums its output for the BN that reads
it next. Kept for the backward pass are what BNs read, one map a convolution. Backward: normalised and activated inputs
are made again as they are loaded; an input's gradient leaves its convolution multiplied by the activation's slope, and
summed.
"""

from dataclasses import dataclass

from torch import nn

from wideresnet.kernels import library
from wideresnet.kernels.program import Fields, Given, Map, Norm, Program
from wideresnet.model import WideResidualBlock, WideResNetClassifier

_STEM_WIDTH = 16


@dataclass(frozen=True, slots=True)
class _Begun:
    """A block whose forward pass is written: what its backward pass reads."""

    block: WideResidualBlock
    name: str
    x: Map
    h: Map
    y: Map
    norm1: Norm
    norm2: Norm


def write(p: Program, model: WideResNetClassifier, height: int, width: int) -> None:
    """Both passes of the model's backbone and pooling, into a fresh program. The backward pass ends at the part nearest
    the input that has a parameter in `wanted`, or with "input" at the stem."""
    backbone = model.backbone
    stages = (backbone.stage1, backbone.stage2, backbone.stage3)
    blocks = [each for stage in stages for each in stage if isinstance(each, WideResidualBlock)]
    stem_norm = p.norm(backbone.stem[1], _STEM_WIDTH) if len(backbone.stem) > 1 else None
    norms = [(p.norm(b.bn1, _conv_of(b.conv1).in_channels), p.norm(b.bn2, b.out_ch)) for b in blocks]
    final = p.norm(backbone.bn, backbone.out_channels)
    p.hold_sums(_conv_of(backbone.stem[0]), [m for m in backbone.modules() if isinstance(m, nn.Conv2d)])

    sizes = [(height, width, _STEM_WIDTH)]
    for block in blocks:
        h, w, _ = sizes[-1]
        sizes.append((-(-h // block.stride), -(-w // block.stride), block.out_ch))
    # Between a block's convolutions the map has the sides of either, and the channels of the latter.
    sizes += [(h, w, block.out_ch) for (h, w, _), block in zip(sizes, blocks, strict=False)]
    p.hold_temporaries(sizes)

    s, x = _stem(p, model, stem_norm, norms[0][0], (height, width))
    begun = list[_Begun]()
    readers = [*(norm1 for norm1, _ in norms[1:]), final]
    for block, (norm1, norm2), reader in zip(blocks, norms, readers, strict=True):
        begun.append(_block(p, block, x, (norm1, norm2, reader)))
        x = begun[-1].y
    p.normalise(final, x)
    p.add(p.forward, library.POOL, x=x, y=Given("pooled"), **p.activated(final))

    third, d = p.at(p.made, x), p.at(p.gradient, x)
    p.slope(Given("gradient"), third, x, final, pooled=1)
    p.unnormalise(final, third, d, x)
    for each in reversed(begun):
        d = _block_backward(p, each, d)
        first = next(name for name in (*p.gradients, "") if name in p.wanted or not name)
        if "input" not in p.wanted and first.startswith(each.name + "."):
            return
    _stem_backward(p, model, stem_norm, s, d)


def _stem(
    p: Program, model: WideResNetClassifier, norm: Norm | None, reader: Norm, sides: tuple[int, int]
) -> tuple[Map, Map]:
    """What the stem's BN reads, and the stem's output: one map where it has none."""
    conv, s = _conv_of(model.backbone.stem[0]), p.map(*sides, _STEM_WIDTH)
    p.stem_gradient = p.at(p.gradient, s)  # unless the backward pass says where
    packed = p.room("packed", 9 * conv.in_channels * p.padded(_STEM_WIDTH))
    bias = p.biases[conv][0] if conv in p.biases else None
    shape: Fields = {"h": s.h, "w": s.w, "c": conv.in_channels, "k": _STEM_WIDTH, "size": 3}
    p.add(p.forward, library.PACK, of=library.STEM, weight=conv.weight, **shape, y=packed)
    sums = (norm or reader).forward_sums
    p.add(p.forward, library.STEM, x=Given("input"), y=s, weight=packed, bias=bias, sums=sums, **shape)
    if norm is None:
        return s, s
    x = p.map(*sides, _STEM_WIDTH)
    p.normalise(norm, s)
    p.add(p.forward, library.ACTIVATE, x=s, y=x, sums=reader.forward_sums, **p.activated(norm))
    return s, x


def _stem_backward(p: Program, model: WideResNetClassifier, norm: Norm | None, s: Map, d: Map) -> None:
    conv = _conv_of(model.backbone.stem[0])
    if norm is not None:
        p.slope(d, d, s, norm)
        p.unnormalise(norm, d, d, s)
    p.stem_gradient = d
    name = p.names[conv]
    if f"{name}.bias" in p.wanted:
        p.add(p.backward, library.SUM, x=d, sums=p.biases[conv][1])
        p.written(f"{name}.bias")
    if f"{name}.weight" in p.wanted:
        p.add(
            p.backward, library.STEM_GRAD, x=Given("input"), res=d, sums=p.stem_sums, h=d.h, w=d.w,
            c=conv.in_channels, k=d.c, y=p.written(f"{name}.weight"),
        )  # fmt: skip


def _block(p: Program, block: WideResidualBlock, x: Map, norms: tuple[Norm, Norm, Norm]) -> _Begun:
    norm1, norm2, reader = norms
    to, conv1, conv2 = p.forward, _conv_of(block.conv1), _conv_of(block.conv2)
    h = p.map(*_halved(x, conv1), block.out_ch)
    y = p.map(*_halved(h, conv2), block.out_ch)
    p.normalise(norm1, x)
    bypassed = block.shortcut == "bypass" and block.changes
    activated = (x, {}) if bypassed else p.loaded_as(to, x, norm1)
    skip = x
    if block.proj is not None:
        source, loaded = activated if block.shortcut == "activated" else (x, {})
        p.conv(to, block.proj, source, y, **loaded)
        skip = y
    elif block.changes:
        skip = y
        p.add(to, library.POOL_PAD, x=x, y=y, stride=block.stride)
    number, drop = _number_of_dropout(p, block)
    before = block.dropout_at == "before-bn2"
    p.conv(to, conv1, activated[0], h, end=library.SUMMED, sums=norm2.forward_sums, **activated[1])
    p.dropped(to, number if before else None, drop)
    p.normalise(norm2, h)
    source, loaded = p.loaded_as(to, h, norm2, None if before else number, drop)
    p.conv(to, conv2, source, y, end=library.SUMMED, sums=reader.forward_sums, res=skip, **loaded)
    if number is not None:
        p.num_dropouts += 1
    return _Begun(block, p.names[block], x, h, y, norm1, norm2)


def _block_backward(p: Program, begun: _Begun, d: Map) -> Map:
    """d, the gradient of the block's sum → that of its input."""
    block, x, h, norm1, norm2, to = begun.block, begun.x, begun.h, begun.norm1, begun.norm2, p.backward
    conv1, conv2 = _conv_of(block.conv1), _conv_of(block.conv2)
    if block.dropout is not None and block.dropout.training:
        p.num_dropouts -= 1
    number, drop = _number_of_dropout(p, block)
    before = block.dropout_at == "before-bn2"
    after = None if before else number
    source, loaded = p.loaded_as(to, h, norm2, after, drop)
    p.weight_gradient(conv2, source, d, loaded)
    g = p.at(p.inner, h)
    p.input_gradient(conv2, d, g, h, norm2, drop=(after, drop))
    p.unnormalise(norm2, g, g, h)
    p.dropped(to, number if before else None, drop)

    bypassed = block.shortcut == "bypass" and block.changes
    activated = (x, {}) if bypassed else p.loaded_as(to, x, norm1)
    p.weight_gradient(conv1, activated[0], g, activated[1])
    skip, by_proj = d, p.at(p.other, x)
    if block.proj is not None:
        source, loaded = activated if block.shortcut == "activated" else (x, {})
        p.weight_gradient(block.proj, source, d, loaded)
        p.conv(to, block.proj, d, by_proj, transposed=True)
        skip = by_proj
    elif block.changes:
        p.add(to, library.POOL_PAD_GRAD, x=d, y=by_proj, stride=block.stride, **_turned(by_proj, d))
        skip = by_proj
    if skip is by_proj:
        p.gradient, p.other = p.other, p.gradient
    if bypassed:
        p.conv(to, conv1, g, skip, transposed=True, res=skip)
        return skip
    of_activated = skip if block.shortcut == "activated" and block.proj is not None else None
    third = p.at(p.made, x)
    p.input_gradient(conv1, g, third, x, norm1, res=of_activated)
    p.unnormalise(norm1, third, skip, x, res=skip if of_activated is None else None)
    return skip


def _number_of_dropout(p: Program, block: WideResidualBlock) -> tuple[int | None, float]:
    dropout = block.dropout
    return (None, 0.0) if dropout is None or not dropout.training else (p.num_dropouts, dropout.p)


def _turned(large: Map, small: Map) -> Fields:
    """Sizes of an operation whose input is the smaller map."""
    return {"h": large.h, "w": large.w, "c": large.c, "ho": small.h, "wo": small.w, "k": small.c}


def _halved(x: Map, conv: nn.Conv2d) -> tuple[int, int]:
    """Sides of conv's output."""
    return -(-x.h // conv.stride[0]), -(-x.w // conv.stride[0])


def _conv_of(module: nn.Module) -> nn.Conv2d:
    assert isinstance(module, nn.Conv2d)
    return module
