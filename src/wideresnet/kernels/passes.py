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


@dataclass(frozen=True, slots=True)
class _Dropout:
    """A block's: which of the network's, where it stands, the probability of a zero."""

    number: int
    place: str
    p: float

    def at(self, place: str) -> tuple[int, float] | None:
        return (self.number, self.p) if self.place == place else None


@dataclass(frozen=True, slots=True)
class _Forward:
    """What the backward pass of a block reads of its forward pass."""

    block: WideResidualBlock
    x: Map
    h: Map
    y: Map
    norm1: Norm
    norm2: Norm
    dropout: _Dropout | None

    def dropped(self, place: str) -> tuple[int, float] | None:
        return None if self.dropout is None else self.dropout.at(place)


def write(p: Program, model: WideResNetClassifier, height: int, width: int) -> None:
    """Both passes of the model's backbone and pooling, into a fresh program; the backward pass ends at the part nearest
    the input that has a parameter in `wanted`, or with "input" at the stem. Without any there is none."""
    backbone, stem = model.backbone, _conv_of(model.backbone.stem[0])
    named = dict(backbone.named_modules(prefix="backbone"))
    blocks = {name: each for name, each in named.items() if isinstance(each, WideResidualBlock)}
    stem_norm = p.norm(backbone.stem[1], stem.out_channels) if len(backbone.stem) > 1 else None
    norms = [(p.norm(b.bn1, _conv_of(b.conv1).in_channels), p.norm(b.bn2, b.out_ch)) for b in blocks.values()]
    final = p.norm(backbone.bn, backbone.out_channels)
    p.hold_sums(stem, [each for each in named.values() if isinstance(each, nn.Conv2d)])

    sizes = [(height, width, stem.out_channels)]
    for block in blocks.values():
        h, w, _ = sizes[-1]
        sizes.append((-(-h // block.stride), -(-w // block.stride), block.out_ch))
    # Between a block's convolutions the map has the sides of either, and the channels of the latter.
    sizes += [(h, w, block.out_ch) for (h, w, _), block in zip(sizes, blocks.values(), strict=False)]
    p.hold_maps(sizes)

    s, x = _stem(p, stem, stem_norm, norms[0][0], (height, width))
    forward = list[_Forward]()
    readers = [*(norm1 for norm1, _ in norms[1:]), final]
    for number, (block, (norm1, norm2), reader) in enumerate(zip(blocks.values(), norms, readers, strict=True)):
        drops = block.dropout is not None and block.dropout.training
        dropout = _Dropout(number, block.dropout_at, block.dropout.p) if drops and block.dropout else None
        forward.append(_block(p, block, x, (norm1, norm2, reader), dropout))
        x = forward[-1].y
    p.normalise(final, x)
    p.add(p.forward, library.POOL, x=x, y=Given("pooled"), **p.activated(final))

    if not p.wanted:
        return
    d, of_activated = p.at(p.first_room, x), p.at(p.activated_room, x)
    p.slope(Given("gradient"), of_activated, x, final, pooled=1)
    p.unnormalise(final, of_activated, d, x)
    first = _first_wanted(p, list(blocks))
    for i, each in reversed(list(enumerate(forward, 1))):
        if i < first:
            return
        d = _block_backward(p, each, d)
    if first == 0:
        _stem_backward(p, stem, stem_norm, s, d)


def _first_wanted(p: Program, blocks: list[str]) -> int:
    """The part nearest the input that has something in `wanted`: the stem is 0, blocks follow, then the last BN."""
    parts = [*blocks, "backbone.bn"]

    def part_of(name: str) -> int:
        # An activation's own parameters, shared by all parts, are named at the stem or after the first block.
        of_activation = name.endswith((".alpha", ".beta"))
        return next((i for i, part in enumerate(parts, 1) if name.startswith(part + ".") and not of_activation), 0)

    return min(map(part_of, p.wanted))


def _stem(p: Program, conv: nn.Conv2d, norm: Norm | None, reader: Norm, sides: tuple[int, int]) -> tuple[Map, Map]:
    """What the stem's BN reads, and the stem's output: one map where it has none."""
    s = p.kept(*sides, conv.out_channels, p.first_room)
    p.stem_gradient = s  # until the backward pass says where
    packed = p.room("packed", 9 * conv.in_channels * p.padded(conv.out_channels))
    bias = p.biases[conv][0] if conv in p.biases else None
    shape: Fields = {"h": s.h, "w": s.w, "c": conv.in_channels, "k": s.c, "size": 3}
    p.add(p.forward, library.PACK, of=library.STEM, weight=conv.weight, **shape, y=packed)
    sums = (norm or reader).forward_sums
    p.add(p.forward, library.STEM, x=Given("input"), y=s, weight=packed, bias=bias, sums=sums, **shape)
    if norm is None:
        return s, s
    x = p.kept(*sides, conv.out_channels, p.second_room)
    p.normalise(norm, s)
    p.add(p.forward, library.ACTIVATE, x=s, y=x, sums=reader.forward_sums, **p.activated(norm))
    return s, x


def _stem_backward(p: Program, conv: nn.Conv2d, norm: Norm | None, s: Map, d: Map) -> None:
    if norm is not None:
        p.slope(d, d, s, norm)
        p.unnormalise(norm, d, d, s)
    p.stem_gradient = d
    p.bias_gradient(conv, d)
    if (name := f"{p.names[conv]}.weight") in p.wanted:
        p.add(
            p.backward, library.STEM_GRAD, x=Given("input"), res=d, sums=p.stem_sums, h=d.h, w=d.w,
            c=conv.in_channels, k=d.c, y=p.written(name),
        )  # fmt: skip


def _block(
    p: Program, block: WideResidualBlock, x: Map, norms: tuple[Norm, Norm, Norm], dropout: _Dropout | None
) -> _Forward:
    norm1, norm2, reader = norms
    to, conv1, conv2 = p.forward, _conv_of(block.conv1), _conv_of(block.conv2)
    h = p.kept(*_halved(x, conv1), block.out_ch, p.between_room)
    y = p.kept(*_halved(h, conv2), block.out_ch, p.other_room(x))
    forward = _Forward(block, x, h, y, norm1, norm2, dropout)
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
    p.conv(to, conv1, activated[0], h, end=library.SUMMED, sums=norm2.forward_sums, **activated[1])
    p.dropped(to, forward.dropped("before-bn2"))
    p.normalise(norm2, h)
    source, loaded = p.loaded_as(to, h, norm2, forward.dropped("after-act2"))
    p.conv(to, conv2, source, y, end=library.SUMMED, sums=reader.forward_sums, res=skip, **loaded)
    return forward


def _block_backward(p: Program, forward: _Forward, d: Map) -> Map:
    """d, the gradient of the block's sum → that of its input."""
    block, x, h, norm1, norm2, to = forward.block, forward.x, forward.h, forward.norm1, forward.norm2, p.backward
    conv1, conv2 = _conv_of(block.conv1), _conv_of(block.conv2)
    source, loaded = p.loaded_as(to, h, norm2, forward.dropped("after-act2"))
    p.weight_gradient(conv2, source, d, loaded)
    of_h = p.at(p.between_room, h)
    p.input_gradient(conv2, d, of_h, h, norm2, drop=forward.dropped("after-act2"))
    p.unnormalise(norm2, of_h, of_h, h)
    p.dropped(to, forward.dropped("before-bn2"))

    bypassed = block.shortcut == "bypass" and block.changes
    activated = (x, {}) if bypassed else p.loaded_as(to, x, norm1)
    p.weight_gradient(conv1, activated[0], of_h, activated[1])
    skip, of_skip = d, p.at(p.other_room(d), x)
    if block.proj is not None:
        source, loaded = activated if block.shortcut == "activated" else (x, {})
        p.weight_gradient(block.proj, source, d, loaded)
        p.conv(to, block.proj, d, of_skip, transposed=True)
        skip = of_skip
    elif block.changes:
        p.add(to, library.POOL_PAD_GRAD, x=d, y=of_skip, stride=block.stride, **_turned(of_skip, d))
        skip = of_skip
    if bypassed:
        p.conv(to, conv1, of_h, skip, transposed=True, res=skip)
        return skip
    joins_activated = block.shortcut == "activated" and block.proj is not None
    of_activated = p.at(p.activated_room, x)
    p.input_gradient(conv1, of_h, of_activated, x, norm1, res=skip if joins_activated else None)
    p.unnormalise(norm1, of_activated, skip, x, res=None if joins_activated else skip)
    return skip


def _turned(large: Map, small: Map) -> Fields:
    """Sizes of an operation whose input is the smaller map."""
    return {"h": large.h, "w": large.w, "c": large.c, "ho": small.h, "wo": small.w, "k": small.c}


def _halved(x: Map, conv: nn.Conv2d) -> tuple[int, int]:
    """Sides of conv's output."""
    return -(-x.h // conv.stride[0]), -(-x.w // conv.stride[0])


def _conv_of(module: nn.Module) -> nn.Conv2d:
    assert isinstance(module, nn.Conv2d)
    return module
