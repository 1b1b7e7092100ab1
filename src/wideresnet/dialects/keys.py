"""Their state-dict keys ↔ ours: a rule is data, read in both directions.

A rule names the module that each of our modules is in the source's network, as a template: {s} the stage from 1, {s0}
from 0; {i} the block of its stage from 0, {i1} from 1; {c} and {b} the convolution and the BN of the whole network in
order, as Keras counts them: nothing for the first, then _1, _2, ….
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_OURS = re.compile(r"(?:backbone\.)?(?:stage(?P<s>\d)\.(?P<i>\d+)\.)?(?P<part>\w+?)(?P<at>\.\d)?\.(?P<leaf>\w+)")
_KINDS = {"stem.0": "conv", "stem.1": "bn", "proj": "conv", "bn": "bn", "fc": "fc", "activation": "activation"}
_KINDS |= {"bn1": "bn", "bn2": "bn", "conv1": "conv", "conv2": "conv"}

KERAS = {
    "conv.weight": "/kernel",
    "conv.bias": "/bias",
    "bn.weight": "/gamma",
    "bn.bias": "/beta",
    "bn.running_mean": "/moving_mean",
    "bn.running_var": "/moving_variance",
    "fc.weight": "/kernel",
    "fc.bias": "/bias",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The rule of one source; the defaults are xternalz/WideResNet-pytorch's, which most others copied."""

    prefix: str = ""  # of every key of the network
    stem: str = "conv1"
    block: str = "block{s}.layer.{i}."
    bn1: str = "bn1"
    conv1: str = "conv1"
    bn2: str = "bn2"
    conv2: str = "conv2"
    proj: str = "convShortcut"
    first: Mapping[str, str] = field(default_factory=dict)  # part → its template in a stage's first block
    bn: str = "bn1"
    fc: str = "fc"
    activation: str = "activation"
    leaves: Mapping[str, str] = field(default_factory=dict)  # "conv.weight" → what follows the module's name
    counted: bool = True  # whether BN's num_batches_tracked is there
    hwio: bool = False  # kernels lie as [H, W, in, out] and [in, out], as TensorFlow has them
    mean: str = ""  # the key of the mean of the source's own normalisation, [1, C, 1, 1] or [C, 1, 1]; "": has none
    std: str = ""
    spectral: float = 0.0  # above 0: the coefficient of its spectral normalisation
    unused: tuple[str, ...] = ()  # patterns of what lies beside, and is never computed with

    def theirs(self, ours: Iterable[str]) -> dict[str, str]:
        """Our keys, in a state dict's order → their keys; num_batches_tracked is left out where they have none."""
        found, counts = dict[str, str](), dict[str, int]()
        counted = dict[str, str]()  # our module → its {c} or {b}
        for key in ours:
            match = _OURS.fullmatch(key)
            if match is None:
                raise ValueError(f"{key}: no key of a Wide ResNet of ours")
            stage, block, part, leaf = match["s"], match["i"], match["part"] + (match["at"] or ""), match["leaf"]
            if leaf == "num_batches_tracked" and not self.counted:
                continue
            kind, module = _KINDS[part], key.rpartition(".")[0]
            if module not in counted:
                counted[module] = f"_{number}" if (number := counts.get(kind, 0)) else ""
                counts[kind] = number + 1
            template = self._template(part, in_block=stage is not None, is_first=block == "0")
            name = template.format(
                s=stage,
                s0=int(stage or 1) - 1,
                i=block,
                i1=int(block or 0) + 1,
                c=counted[module],
                b=counted[module],
            )
            found[key] = self.prefix + name + self.leaves.get(f"{kind}.{leaf}", f".{leaf}")
        return found

    def _template(self, part: str, *, in_block: bool, is_first: bool) -> str:
        if part.startswith("stem."):
            if part != "stem.0":
                raise ValueError("their stem is a bare convolution; this network's has BN and activation")
            return self.stem
        own: str = getattr(self, part)
        if not in_block:
            return own
        return self.block + (self.first.get(part, own) if is_first else own)


SZAGORUYKO = Keys(
    stem="conv0",
    block="group{s0}.block{i}.",
    bn1="bn0",
    conv1="conv0",
    bn2="bn1",
    conv2="conv1",
    proj="convdim",
    bn="bn",
    leaves={"conv.weight": "", "conv.bias": ".bias"},
    counted=False,
)
MELIKETOY = Keys(block="layer{s}.{i}.", proj="shortcut.0", fc="linear")
DEEPMIND = Keys(
    stem="init_conv",
    block="layer.{s0}.block.{i}.",
    bn1="batchnorm_0",
    conv1="conv_0",
    bn2="batchnorm_1",
    conv2="conv_1",
    proj="shortcut",
    bn="batchnorm",
    fc="logits",
)
PYTORCHCV = Keys(
    stem="features.init_block",
    block="features.stage{s}.unit{i1}.",
    bn1="body.conv1.bn",
    conv1="body.conv1.conv",
    bn2="body.conv2.bn",
    conv2="body.conv2.conv",
    proj="identity_conv",
    bn="features.post_activ.bn",
    fc="output",
)
HYSTS = Keys(stem="conv", block="stage{s}.block{i1}.", proj="shortcut.conv", bn="bn")
SAM = Keys(
    stem="f.0_convolution",
    block="f.{s}_block.block.{i}.",
    bn1="block.0_normalization",
    conv1="block.2_convolution",
    bn2="block.3_normalization",
    conv2="block.6_convolution",
    proj="downsample",
    first={
        "bn1": "norm_act.0_normalization",
        "conv1": "block.0_convolution",
        "bn2": "block.1_normalization",
        "conv2": "block.4_convolution",
    },
    bn="f.4_normalization",
    fc="f.8_classification",
)
JEM = Keys(
    stem="f.conv1",
    block="f.layer{s}.{i}.",
    proj="shortcut.0",
    bn="f.bn1",
    fc="class_output",
    unused=("f.linear.*", "energy_output.*"),
)
TENSORFLOW = Keys(
    stem="conv2d{c}",
    block="",
    bn1="batch_normalization{b}",
    conv1="conv2d{c}",
    bn2="batch_normalization{b}",
    conv2="conv2d{c}",
    proj="conv2d{c}",
    bn="batch_normalization{b}",
    fc="dense",
    leaves=KERAS,
    counted=False,
    hwio=True,
)
