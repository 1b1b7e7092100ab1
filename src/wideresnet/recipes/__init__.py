"""Named hyper-parameters, frozen, each with its source; the learning rate they mean at each step; and the table of
defaults. Pure: nothing is measured, read or written here."""

from wideresnet.recipes.detector import BoxChanges, Detector, DetectorChanges, detector_defaults, make_detector
from wideresnet.recipes.recipe import FlipBy, OnNan, Policy, Precision, Recipe, RecipeChanges, Schedule, extras
from wideresnet.recipes.schedule import lr_at, momentum_begins_anew
from wideresnet.recipes.suited import Defaults, crop_padding, defaults, flips_are_safe
from wideresnet.recipes.table import FIXED, RECIPES, change, find

__all__ = [
    "FIXED",
    "RECIPES",
    "BoxChanges",
    "Defaults",
    "Detector",
    "DetectorChanges",
    "FlipBy",
    "OnNan",
    "Policy",
    "Precision",
    "Recipe",
    "RecipeChanges",
    "Schedule",
    "change",
    "crop_padding",
    "defaults",
    "detector_defaults",
    "extras",
    "find",
    "flips_are_safe",
    "lr_at",
    "make_detector",
    "momentum_begins_anew",
]
