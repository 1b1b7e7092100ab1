"""An `Evaluation` and what a run remembers → one HTML file that needs nothing else. `build` lays the page out,
`figures` draws, `explaining` shows where a network looked; no figure of merit is computed here."""

from wideresnet.report import explaining
from wideresnet.report.build import AUGMENTED, BoxClass, BoxFigures, Search, Shown, Subject, build
from wideresnet.report.checking import CheckFinding, CheckItem, CheckPicture, CheckSubject, build_check
from wideresnet.report.figures import lr_plot

__all__ = [
    "AUGMENTED",
    "BoxClass",
    "BoxFigures",
    "CheckFinding",
    "CheckItem",
    "CheckPicture",
    "CheckSubject",
    "Search",
    "Shown",
    "Subject",
    "build",
    "build_check",
    "explaining",
    "lr_plot",
]
