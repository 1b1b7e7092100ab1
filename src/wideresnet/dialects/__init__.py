"""The table of networks, the table of published variants; their keys ↔ ours."""

from wideresnet.dialects.architectures import (
    ARCHITECTURES,
    DEFAULTS,
    FORMS,
    Architecture,
    arch_name,
    create_model,
    list_models,
    parse_arch,
)
from wideresnet.dialects.containers import WRITTEN, content, read
from wideresnet.dialects.dialect import Dialect
from wideresnet.dialects.inputs import Input, three
from wideresnet.dialects.keys import Keys
from wideresnet.dialects.matching import TRAINING_ONLY, Fit, Misfit, fit, fits, input_for, to_ours, to_theirs
from wideresnet.dialects.refused import refused
from wideresnet.dialects.table import DIALECTS, find_dialect
from wideresnet.dialects.wrappers import Found, unwrap

__all__ = [
    "ARCHITECTURES",
    "DEFAULTS",
    "DIALECTS",
    "FORMS",
    "TRAINING_ONLY",
    "WRITTEN",
    "Architecture",
    "Dialect",
    "Fit",
    "Found",
    "Input",
    "Keys",
    "Misfit",
    "arch_name",
    "content",
    "create_model",
    "find_dialect",
    "fit",
    "fits",
    "input_for",
    "list_models",
    "parse_arch",
    "read",
    "refused",
    "three",
    "to_ours",
    "to_theirs",
    "unwrap",
]
