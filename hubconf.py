"""torch.hub's door: torch.hub.load(REPOSITORY, "wrn_28_10", source="local", num_classes=10).

An entry for each network that papers name, and `create_model(arch="wrn_34_10.trades")` for any other depth, width or
form. The package need not be installed: it is taken from `src` beside this file.
"""

import sys as _sys
from collections.abc import Callable as _Callable
from pathlib import Path as _Path
from typing import Any as _Any

dependencies = ["torch", "safetensors"]

_sys.path.insert(0, str(_Path(__file__).parent / "src"))
try:
    import wideresnet.dialects as _dialects
    from wideresnet.model import WideResNetClassifier as _Network
finally:
    _sys.path.pop(0)


def create_model(arch: str, num_classes: int = 10, **options: _Any) -> _Network:
    """Any network by name, untrained: arch="wrn_40_3", or in a published form, arch="wrn_34_10.trades".

    `options` are WideResNetClassifier's own: in_channels=1, dropout_p=0.3, … Raises ValueError on an unknown name, and
    on pretrained=True: no weights are published.
    """
    if options.pop("pretrained", False):
        raise ValueError(f"{arch}: no weights are published; train it, or load a model file of yours by wrn.load")
    return _dialects.create_model(arch, num_classes, **options)


def _entry(row: _dialects.Architecture) -> _Callable[..., _Network]:
    def entry(num_classes: int = 10, **options: _Any) -> _Network:
        return create_model(row.name, num_classes, **options)

    entry.__name__ = entry.__qualname__ = row.name
    entry.__doc__ = f"""{row.title}, untrained ({row.used_by}).

    num_classes, and `options` as WideResNetClassifier's: in_channels=1, dropout_p=0.3, … In another form:
    create_model(arch="{row.name}.paper").
    """
    return entry


globals().update({row.name: _entry(row) for row in _dialects.ARCHITECTURES})
