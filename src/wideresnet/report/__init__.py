"""An `Evaluation` and what a run remembers → one HTML file that needs nothing else. `build` lays the page out,
`figures` draws; no figure of merit is computed here."""

from wideresnet.report.build import Subject, build

__all__ = ["Subject", "build"]
