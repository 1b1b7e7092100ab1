"""The table of networks: which Wide ResNets the papers use, and in which forms. Data: a new one is a new row."""

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from wideresnet.dialects.dialect import PAPER
from wideresnet.dialects.table import DIALECTS, find_dialect
from wideresnet.errors import UsageError
from wideresnet.model import Options, Variant, WideResNetClassifier

DEFAULTS = asdict(Variant())  # the classifier's own
_EXPECTED = "expected wrn_DEPTH_WIDEN (as in wrn_28_10), wrn_DEPTH_WIDEN.paper or another form; see `wrn models`"

FORMS: dict[str, Options] = {
    "": {},  # the tutorial's network, the default
    "paper": PAPER,
    **{dialect.name: dialect.options for dialect in DIALECTS},
}
"""Form → options of `WideResNetClassifier`; written after a dot: wrn_28_10.paper, wrn_34_10.trades."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """One network that papers name; depth and widen factor say it all."""

    depth: int
    widen_factor: int
    used_by: str

    @property
    def name(self) -> str:
        return f"wrn_{self.depth}_{self.widen_factor}"

    @property
    def title(self) -> str:
        return f"WRN-{self.depth}-{self.widen_factor}"


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(10, 1, "the smallest there is; tests"),
    Architecture(10, 2, "the tutorial's numbers"),
    Architecture(16, 1, "distillation: student"),
    Architecture(16, 2, "distillation: student"),
    Architecture(16, 4, "Zagoruyko & Komodakis 2016, table 6; SVHN"),
    Architecture(16, 8, "Zagoruyko & Komodakis 2016, table 5; SVHN; ASAM"),
    Architecture(16, 10, "Zagoruyko & Komodakis 2016, table 4"),
    Architecture(22, 8, "Zagoruyko & Komodakis 2016, table 4"),
    Architecture(22, 10, "Zagoruyko & Komodakis 2016, table 4"),
    Architecture(28, 2, "semi-supervised learning: MixMatch, FixMatch, FlexMatch"),
    Architecture(28, 8, "semi-supervised learning on CIFAR-100; mixing augmentations"),
    Architecture(28, 10, "Zagoruyko & Komodakis 2016, tables 4 and 5; robustness; uncertainty"),
    Architecture(28, 12, "Zagoruyko & Komodakis 2016, table 4"),
    Architecture(34, 10, "adversarial training: TRADES, AWP"),
    Architecture(40, 1, "Zagoruyko & Komodakis 2016, table 4; distillation: student"),
    Architecture(40, 2, "AugMix; out-of-distribution detection; distillation: teacher"),
    Architecture(40, 4, "Zagoruyko & Komodakis 2016, tables 4 and 5"),
    Architecture(40, 8, "Zagoruyko & Komodakis 2016, table 4"),
    Architecture(40, 10, "Zagoruyko & Komodakis 2016, single run with dropout"),
)


def parse_arch(arch: str) -> dict[str, Any]:
    """Arguments of `WideResNetClassifier`: "wrn_28_10" → depth and widen_factor; a form after a dot adds its options.

    "WRN-28-10" is read too, and a dialect's other names. Any depth and widen factor may be asked for; that depth is
    6n+4 is the network's to check. Raises ValueError on anything else.
    """
    found = re.fullmatch(r"wrn[-_](\d+)[-_](\d+)(?:\.([\w-]+))?", arch, re.ASCII | re.IGNORECASE)
    if not found:
        raise ValueError(f"architecture {arch!r}: {_EXPECTED}")
    form = (found[3] or "").lower()
    if form not in FORMS:
        try:
            form = find_dialect(form).name
        except UsageError as error:
            raise ValueError(f"architecture {arch!r}: {error}; {_EXPECTED}") from error
    return {"depth": int(found[1]), "widen_factor": int(found[2]), **FORMS[form]}


def arch_name(architecture: Mapping[str, Any]) -> str:
    """The shortest name of a `WideResNetClassifier.architecture`: {depth: 28, widen_factor: 10, …} → "wrn_28_10".

    Options that together are no form of the table are spelt out: "wrn_28_10 with stem=conv" (which `parse_arch`
    does not read: it is for people).
    """
    name = f"wrn_{architecture['depth']}_{architecture['widen_factor']}"
    changed = {key: architecture[key] for key, default in DEFAULTS.items() if architecture.get(key, default) != default}
    for form, options in FORMS.items():
        if {key: value for key, value in options.items() if value != DEFAULTS[key]} == changed:
            return f"{name}.{form}" if form else name
    return f"{name} with {', '.join(f'{key}={value}' for key, value in changed.items())}"


def create_model(arch: str, num_classes: int = 10, **options: Any) -> WideResNetClassifier:
    """`WideResNetClassifier` by name: create_model("wrn_34_10.trades", num_classes=100, in_channels=1).

    `options` are the classifier's own keywords, and overrule the name's. Raises ValueError on an unknown name, and as
    the classifier does.
    """
    return WideResNetClassifier(num_classes, **{**parse_arch(arch), **options})


def list_models(pattern: str = "*") -> list[str]:
    """The names of the papers' networks that match, as in a shell: list_models("wrn_28_*"). Each may be followed by a
    form: "wrn_*.trades" gives every network in that form. Raises ValueError on an unknown form."""
    sizes, _, form = pattern.partition(".")
    if form and not any(fnmatch.fnmatchcase(known, form) for known in FORMS if known):
        parse_arch(f"wrn_28_10.{form}")  # says which forms are near
    forms = [known for known in FORMS if known and fnmatch.fnmatchcase(known, form)] if form else [""]
    names = [row.name for row in ARCHITECTURES if fnmatch.fnmatchcase(row.name, sizes)]
    return [f"{name}.{form}" if form else name for form in forms for name in names]
