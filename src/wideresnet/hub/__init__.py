"""The doors to others: timm, torch.hub (`hubconf.py`), Hugging Face, trackers."""

from wideresnet.hub.trackers import TRACKERS, Log, Row, Tracker, check_trackers, tracking

__all__ = ["TRACKERS", "Log", "Row", "Tracker", "check_trackers", "tracking"]
