"""A network → its parts from front to back, by name: what is frozen, how fast each learns, which layers touch the
pictures and the classes.

The parts of our own are stem, stage1, stage2, stage3, bn and fc. Those of a library's network are its top-level
children that have parameters, in the order in which it lists them, the last one being the head; parameters that lie in
no child go with the first.
"""

from collections.abc import Iterable

from torch import nn

from wideresnet.errors import UsageError, nearest
from wideresnet.model import WideResNetClassifier

BACKBONE = "backbone"  # all but the head


def parts(model: nn.Module) -> dict[str, list[str]]:
    """Part → the names of its parameters."""
    ours = isinstance(model, WideResNetClassifier)
    found, loose = dict[str, list[str]](), list[str]()
    for name, _ in model.named_parameters():
        part, dot, _ = name.removeprefix("backbone." if ours else "").partition(".")
        (found.setdefault(part, []) if dot else loose).append(name)
    first = next(iter(found))
    found[first] = loose + found[first]
    return found


def parts_named(model: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """`names` of parts ("backbone": all but the head; one text may hold several, with commas) in the network's order.

    Raises UsageError on an unknown one, with the nearest, and where nothing would be left to train.
    """
    known = list(parts(model))
    wanted = set[str]()
    for name in (one.strip() for text in names for one in text.split(",")):
        if name not in (BACKBONE, *known):
            raise UsageError(f"--freeze {name}{nearest(name, [*known, BACKBONE])}")
        wanted |= set(known[:-1]) if name == BACKBONE else {name}
    if wanted == set(known):
        raise UsageError(f"--freeze {','.join(known)}: nothing is left to train; leave out {known[-1]} at least")
    return tuple(name for name in known if name in wanted)


def freeze(model: nn.Module, names: Iterable[str]) -> None:
    """The parameters of these parts are not trained: torch's `requires_grad` says so to all that trains."""
    parameters, own = dict(model.named_parameters()), parts(model)
    for name in names:
        for parameter in own[name]:
            parameters[parameter].requires_grad_(False)


def lr_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """Parameter → its share of the learning rate: of the head 1, of each part before it `decay` times the next one's.

    The final BN of our networks belongs to stage3, which it normalises. Howard & Ruder 2018 (section 3.1, one rate for
    each layer, 1/2.6 of the next one's); Clark et al. 2020 (section 3.1) name it layer-wise decay.
    """
    if decay == 1:
        return {}
    levels = list[list[str]]()
    for name, parameters in parts(model).items():
        if name == "bn" and isinstance(model, WideResNetClassifier):
            levels[-1] += parameters
        else:
            levels.append(list(parameters))
    return {name: decay**distance for distance, level in enumerate(reversed(levels)) for name in level}


def class_layer(model: nn.Module) -> str:
    """Name of the layer with a row for each class: the last linear layer or convolution."""
    names: list[str] = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return names[-1]


def first_conv(model: nn.Module) -> str:
    """Name of the layer that the picture goes into: the first convolution."""
    names: list[str] = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return names[0]
