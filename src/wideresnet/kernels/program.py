"""Operations of the kernels written one after the other, for a forward and a backward pass, and the memory they need.

What is computed and where it lies is a function of options, shapes and threads alone.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from wideresnet.kernels import library, plan
from wideresnet.kernels.library import ACTIVATIONS, Library, Op, Ops
from wideresnet.model import SameConv2d, WideResNetClassifier

_STEPS = {"x": "x_step", "res": "res_step", "y": "y_step", "z": "z_step"}
_POINTERS = {each[0] for each in Op._fields_ if each[1] is library.POINTER}


@dataclass(frozen=True, slots=True)
class Given:
    """A place outside the arena, which a call brings: "input"; "pooled", the result; "gradient", of the result;
    or a parameter's name, for its gradient."""

    name: str


@dataclass(frozen=True, slots=True)
class Map:
    """[n, h, w, c] at an offset of the arena, in floats."""

    offset: int
    h: int
    w: int
    c: int
    step: int  # floats of one image


@dataclass(frozen=True, slots=True)
class Norm:
    """A BN, or an identity in place of one (module None): where its rows and sums lie."""

    module: nn.BatchNorm2d | None
    name: str
    channels: int
    rows: int
    row: int  # floats of one
    forward_sums: int
    backward_sums: int
    statistics: int  # mean and unbiased variance of this batch

    def at(self, row: int) -> int:
        return self.rows + row * self.row


Fields = dict[str, Any]
Open = tuple[Op, str, Given]


@dataclass(slots=True)
class Pass:
    """Operations in order, as the fields of each: of pointers an int is an offset into the arena."""

    steps: list[Fields] = field(default_factory=list)

    def bound(self, arena: int) -> tuple[Ops, list[Open]]:
        """Their array for an arena at this address; and the fields that each call has to set."""
        ops, still_open = (Op * len(self.steps))(), list[Open]()
        for op, step in zip(ops, self.steps, strict=True):
            for name, value in step.items():
                if name not in _POINTERS:
                    setattr(op, name, value)
                elif isinstance(value, Given):
                    still_open.append((op, name, value))
                elif value is not None:
                    setattr(op, name, value.data_ptr() if isinstance(value, Tensor) else arena + 4 * value)
        return ops, still_open


class Program:
    """The passes `forward` and `backward`, and the memory that both need: `floats`, the first `state` of them zero when
    a forward pass begins.

    `wanted`: what gradients are wanted of, parameters or "input".
    """

    def __init__(
        self,
        model: WideResNetClassifier,
        images: int,
        loaded: Library,
        isa: str,
        *,
        threads: int,
        wanted: frozenset[str],
    ) -> None:
        self.n = images
        self.threads, self.wanted = threads, wanted
        self.forward, self.backward = Pass(), Pass()
        self.floats = 0
        self.norms: list[Norm] = []
        self.dropouts: list[tuple[Pass, int, int]] = []  # a pass, its operation, which dropout
        self.biases: dict[nn.Conv2d, tuple[int, int]] = {}  # padded copy; sums of its gradient
        self.shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self.gradients: dict[str, torch.Size] = {}  # of the parameters whose gradients the backward pass computes
        self._loaded, self._isa, self.lanes = loaded, isa, loaded.lanes(isa)
        self._act = plan.activation(model)
        self.names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
        self._rooms: dict[str, int] = {}  # floats of what has its place at the end, the most that one operation needs
        self.state = self.work = self.stem_sums = 0
        self.activated_room = self.between_room = self.first_room = self.second_room = 0
        self.stem_gradient = Map(0, 0, 0, 0, 0)

    def finish(self) -> None:
        """Gives a place to what waited for its size."""
        for name, floats in self._rooms.items():
            at = self.place(floats)
            for step in (*self.forward.steps, *self.backward.steps):
                step |= {key: at for key, value in step.items() if isinstance(value, Given) and value.name == name}
        both = [each.bound(0)[0] for each in (self.forward, self.backward)]
        self.work = self.place(max(self._loaded.work_floats(self._isa, ops, self.threads) for ops in both))

    # Memory

    def padded(self, channels: int) -> int:
        return -(-channels // self.lanes) * self.lanes

    def place(self, floats: int) -> int:
        offset = self.floats
        self.floats += -(-floats // 16) * 16
        return offset

    def map(self, h: int, w: int, c: int, offset: int | None = None) -> Map:
        step = h * w * self.padded(c)
        return Map(self.place(self.n * step) if offset is None else offset, h, w, c, step)

    def at(self, offset: int, like: Map) -> Map:
        return replace(like, offset=offset)

    def sums(self, channels: int) -> int:
        return self.place(2 * self.threads * library.SUM_ROWS * self.padded(channels))

    def norm(self, module: nn.Module, channels: int) -> Norm:
        row = self.padded(channels)
        norm = Norm(
            module if isinstance(module, nn.BatchNorm2d) else None,
            self.names[module],
            channels,
            self.place(library.NORM_ROWS * row),
            row,
            self.sums(channels),
            self.sums(channels),
            self.place(2 * channels),
        )
        self.norms.append(norm)
        return norm

    def hold_sums(self, stem: nn.Conv2d, convs: list[nn.Conv2d]) -> None:
        """The sums of the stem's gradient and of biases; behind them nothing has to begin as zero."""
        self.stem_sums = self.place(2 * self.threads * 9 * stem.in_channels * self.padded(stem.out_channels))
        for conv in convs:
            if conv.bias is not None:
                self.biases[conv] = self.place(self.padded(conv.out_channels)), self.sums(conv.out_channels)
        self.state = self.floats

    def hold_maps(self, sizes: list[tuple[int, int, int]]) -> None:
        """Rooms for the largest of these maps [h, w, c], which are not kept from one pass to the other."""
        largest = max(self.n * h * w * self.padded(c) for h, w, c in sizes)
        self.activated_room, self.between_room, self.first_room, self.second_room = (
            self.place(largest) for _ in range(4)
        )

    def kept(self, h: int, w: int, c: int, room: int) -> Map:
        """A map that the backward pass reads; without one, in this room."""
        return self.map(h, w, c) if self.wanted else self.map(h, w, c, room)

    def other_room(self, than: Map) -> int:
        """The one of the two rooms for a block's input and sum, or their gradients, in which this map does not lie."""
        return self.second_room if than.offset == self.first_room else self.first_room

    def room(self, name: str, floats: int) -> Given:
        self._rooms[name] = max(floats, self._rooms.get(name, 0))
        return Given(name)

    def written(self, name: str) -> Given:
        self.gradients[name] = self.shapes[name]
        return Given(name)

    # Operations

    def add(self, to: Pass, kind: int, *, x: Any = None, y: Any = None, **given: Any) -> None:
        """An operation on maps: x's size is the input's, y's the output's; of one without maps its fields say it."""
        step: Fields = {"kind": kind, "n": self.n, "group": self.n, "segment": len(to.steps), "stride": 1, "size": 1}
        for at, names in ((x, ("h", "w", "c")), (y, ("ho", "wo", "k"))):
            if isinstance(at, Map):
                step |= zip(names, (at.h, at.w, at.c), strict=True)
        for name, value in {"x": x, "y": y, **given}.items():
            step[name] = value
            if isinstance(value, Map):
                step[name], step[_STEPS[name]] = value.offset, value.step
        to.steps.append(step)

    def activated(self, norm: Norm) -> Fields:
        """BN and activation on load."""
        return {"scale": norm.at(library.SCALE), "shift": norm.at(library.SHIFT), **self.by_activation()}

    def by_activation(self) -> Fields:
        act = self._act
        return {"act_in": ACTIVATIONS.index(act.name), "alpha": act.alpha, "beta": act.beta}

    def dropped(self, to: Pass, dropout: tuple[int, float] | None) -> None:
        """The operation just added drops with this probability, as the dropout of this number does in both passes."""
        if dropout is not None:
            number, to.steps[-1]["drop"] = dropout
            self.dropouts.append((to, len(to.steps) - 1, number))

    def normalise(self, norm: Norm, x: Map) -> None:
        """The rows of `norm`, of the sums over x that are there."""
        bn = norm.module
        if bn is None:
            return
        running: Fields = {"running": 1, "x": bn.running_mean, "res": bn.running_var}
        given = {"y": norm.statistics} if bn.training else running
        self.add(
            self.forward, library.NORM, k=norm.channels, ho=x.h, wo=x.w, norm=norm.rows, sums=norm.forward_sums,
            weight=bn.weight, bias=bn.bias, eps=bn.eps, **given,
        )  # fmt: skip

    def unnormalise(self, norm: Norm, x: Map, y: Map, z: Map, *, res: Map | None = None) -> None:
        """x, the gradient of the normalised z, summed → y, that of z; and of γ and β."""
        bn = norm.module
        if bn is not None:
            self.add(
                self.backward, library.NORM_GRAD, k=norm.channels, ho=z.h, wo=z.w, norm=norm.rows,
                sums=norm.backward_sums, y=self.written(f"{norm.name}.weight"),
                y2=self.written(f"{norm.name}.bias"), running=int(not bn.training),
            )  # fmt: skip
        self.add(self.backward, library.UNNORM, x=x, y=y, z=z, res=res, norm=norm.rows)

    def slope(self, x: Any, y: Map, z: Map, norm: Norm, *, pooled: int = 0) -> None:
        self.add(
            self.backward, library.SLOPE, x=x, y=y, z=z, norm=norm.rows, sums=norm.backward_sums, pooled=pooled,
            h=z.h, w=z.w, c=z.c, **self.by_activation(),
        )  # fmt: skip

    def conv(self, to: Pass, conv: nn.Conv2d, x: Map, y: Map, *, transposed: bool = False, **given: Any) -> None:
        """Its weight, packed, and the convolution x → y; transposed: the gradient of its output → that of its input."""
        size, stride = conv.kernel_size[0], conv.stride[0]
        kind = library.WINOGRAD if size == 3 or transposed else library.DIRECT
        shape: Fields = {"h": x.h, "w": x.w, "c": x.c, "ho": y.h, "wo": y.w, "k": y.c, "size": size, "stride": stride}
        shape |= {"transposed": int(transposed), "tile": 4}
        large = y if transposed else x
        pads = _padding(conv, large.h, large.w)
        if transposed and stride == 2 and size == 3:
            # Tiles begin behind the padding; where there is none, one tile earlier (csrc/adjoints.h, Up2).
            shape |= zip(("pad_top", "pad_left"), (0 if pad else 4 for pad in pads), strict=True)
            shape |= zip(("out_top", "out_left"), (0 if pad else 7 for pad in pads), strict=True)
        else:
            shape |= zip(("pad_top", "pad_left"), pads, strict=True)
        packed = self.room("packed", self._loaded.packed_floats(self._isa, Op(kind=kind, **shape)))
        self.add(to, library.PACK, of=kind, y=packed, weight=conv.weight, **shape)
        if not transposed and conv in self.biases:
            given["bias"] = self.biases[conv][0]
        chosen = plan.choose_trained(shape, self.n, threads=self.threads)
        self.add(to, kind, x=x, y=y, weight=packed, **shape, **chosen, **given)

    def bias_gradient(self, conv: nn.Conv2d, d: Map) -> None:
        if (name := f"{self.names[conv]}.bias") in self.wanted:
            self.add(self.backward, library.SUM, x=d, sums=self.biases[conv][1])
            self.written(name)

    def weight_gradient(self, conv: nn.Conv2d, x: Map, d: Map, loaded: Fields) -> None:
        """The gradient of conv's weight and bias, where they are wanted."""
        name, to = self.names[conv], self.backward
        self.bias_gradient(conv, d)
        if f"{name}.weight" not in self.wanted:
            return
        size, stride = conv.kernel_size[0], conv.stride[0]
        shape: Fields = {"h": x.h, "w": x.w, "c": x.c, "ho": d.h, "wo": d.w, "k": d.c, "size": size, "stride": stride}
        shape |= zip(("pad_top", "pad_left"), _padding(conv, x.h, x.w), strict=True)
        shape |= plan.choose_weight_gradient(shape)
        floats = self._loaded.packed_floats(self._isa, Op(kind=library.WEIGHT_GRAD, **shape))
        products = self.room("products", floats * (1 if shape["share"] else self.threads))
        self.add(to, library.WEIGHT_GRAD, x=x, res=d, y=products, **shape, **loaded)
        self.add(to, library.WEIGHT_SUM, x=products, y=self.written(f"{name}.weight"), **shape)

    def loaded_as(self, to: Pass, x: Map, norm: Norm, dropout: tuple[int, float] | None = None) -> tuple[Map, Fields]:
        """What a convolution reads of x, normalised and activated: x itself, with what to do on load, or a map made."""
        if self._act.cheap and dropout is None:
            return x, self.activated(norm)
        made = self.at(self.activated_room, x)
        self.add(to, library.ACTIVATE, x=x, y=made, **self.activated(norm))
        self.dropped(to, dropout)
        return made, {}

    def input_gradient(
        self,
        conv: nn.Conv2d,
        d: Map,
        y: Map,
        z: Map,
        norm: Norm,
        *,
        res: Map | None = None,
        drop: tuple[int, float] | None = None,
    ) -> None:
        """d, the gradient of conv's output → y, that of z normalised, through dropout and activation; summed."""
        if self._act.cheap and drop is None:
            fields = {"end": library.SLOPED, "norm": norm.rows, "sums": norm.backward_sums, "alpha": self._act.alpha}
            self.conv(self.backward, conv, d, y, transposed=True, z=z, res=res, **fields)
            return
        self.conv(self.backward, conv, d, y, transposed=True, res=res)
        self.slope(y, y, z, norm)
        self.dropped(self.backward, drop)


def _padding(conv: nn.Conv2d, height: int, width: int) -> tuple[int, int]:
    """Above and to the left of an input of this size."""
    size, stride = conv.kernel_size[0], conv.stride[0]
    return plan.padding(height, width, size, stride, same=isinstance(conv, SameConv2d))
