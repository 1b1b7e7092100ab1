"""Named hyper-parameters, frozen, each with its source; the learning rate they mean at each step; and the table of
defaults. Pure: nothing is measured, read or written here."""

from wideresnet.recipes.recipe import FlipBy, OnNan, Policy, Precision, Recipe, RecipeChanges, Schedule, extras
from wideresnet.recipes.schedule import lr_at, momentum_begins_anew
from wideresnet.recipes.suited import Defaults, crop_padding, defaults, flips_are_safe
from wideresnet.recipes.table import FIXED, RECIPES, change, find

__all__ = [
    "FIXED",
    "RECIPES",
    "Defaults",
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
    "extras",
    "find",
    "flips_are_safe",
    "lr_at",
    "momentum_begins_anew",
]
