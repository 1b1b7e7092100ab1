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
    return _in_parts(model, [name for name, _ in model.named_parameters()])


def _in_parts(model: nn.Module, names: Iterable[str]) -> dict[str, list[str]]:
    ours = isinstance(model, WideResNetClassifier)
    found, loose = dict[str, list[str]](), list[str]()
    for name in names:
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
    """The parameters of these parts are not trained: torch's `requires_grad` says so to all that trains. What a part
    shares with others, as a learnt activation, is frozen with it."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    own = _in_parts(model, parameters)
    for name in names:
        for parameter in own.get(name, ()):
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


def first_conv(model: nn.Module) -> str | None:
    """Name of the layer that the picture goes into: the first convolution, if there is one."""
    return next((name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)), None)
