"""The doors to others: timm, torch.hub (`hubconf.py`), Hugging Face, trackers."""

from typing import TYPE_CHECKING, Any

from wideresnet.hub.huggingface import model_file
from wideresnet.hub.trackers import TRACKERS, Log, Row, Tracker, check_trackers, tracking

if TYPE_CHECKING:
    from wideresnet.hub.mixin import HubModel

__all__ = ["TRACKERS", "HubModel", "Log", "Row", "Tracker", "check_trackers", "model_file", "tracking"]


def __getattr__(name: str) -> Any:
    """HubModel is a class of Hugging Face's too, so it comes with that library, when it is asked for."""
    if name != "HubModel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from wideresnet.hub.mixin import HubModel

    return HubModel
