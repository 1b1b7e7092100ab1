"""The table of networks, the table of published variants; their keys ↔ ours."""

from wideresnet.dialects.architectures import (
    ARCHITECTURES,
    FORMS,
    Architecture,
    arch_name,
    create_model,
    list_models,
    parse_arch,
)
from wideresnet.dialects.dialect import Dialect
from wideresnet.dialects.inputs import Input
from wideresnet.dialects.keys import Keys
from wideresnet.dialects.matching import Fit, Misfit, fit, fits, input_for, to_ours, to_theirs
from wideresnet.dialects.table import DIALECTS, find_dialect

__all__ = [
    "ARCHITECTURES",
    "DIALECTS",
    "FORMS",
    "Architecture",
    "Dialect",
    "Fit",
    "Input",
    "Keys",
    "Misfit",
    "arch_name",
    "create_model",
    "find_dialect",
    "fit",
    "fits",
    "input_for",
    "list_models",
    "parse_arch",
    "to_ours",
    "to_theirs",
]
