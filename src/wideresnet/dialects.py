"""The table of networks: which Wide ResNets the papers use, and in which forms. Data: a new one is a new row."""

import re
from dataclasses import dataclass
from typing import Any

_DEFAULTS = {"stem": "conv-bn-act", "shortcut": "raw", "dropout_at": "before-bn2"}  # the classifier's own

FORMS: dict[str, dict[str, Any]] = {
    "": {},  # the tutorial's network, the default
    "paper": {"stem": "conv", "shortcut": "activated", "dropout_at": "after-act2"},  # models/wide-resnet.lua
}
"""Form → options of `WideResNetClassifier`; written after a dot: wrn_28_10.paper."""


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

    "WRN-28-10" is read too. Any depth and widen factor may be asked for; that depth is 6n+4 is the network's to
    check. Raises ValueError on anything else.
    """
    found = re.fullmatch(r"wrn[-_](\d+)[-_](\d+)(?:\.(\w+))?", arch, re.ASCII | re.IGNORECASE)
    form = (found[3] or "").lower() if found else ""
    if not found or form not in FORMS:
        forms = " or ".join(f"wrn_DEPTH_WIDEN.{form}" for form in FORMS if form)
        raise ValueError(
            f"architecture {arch!r}: expected wrn_DEPTH_WIDEN (as in wrn_28_10) or {forms}; see `wrn models`"
        )
    return {"depth": int(found[1]), "widen_factor": int(found[2]), **FORMS[form]}


def arch_name(architecture: dict[str, Any]) -> str:
    """The shortest name of a `WideResNetClassifier.architecture`: {depth: 28, widen_factor: 10, …} → "wrn_28_10".

    Options that together are no form of the table are spelt out: "wrn_28_10 with stem=conv" (which `parse_arch`
    does not read: it is for people).
    """
    name = f"wrn_{architecture['depth']}_{architecture['widen_factor']}"
    changed = {
        key: architecture[key] for key, default in _DEFAULTS.items() if architecture.get(key, default) != default
    }
    for form, options in FORMS.items():
        if options == changed:
            return f"{name}.{form}" if form else name
    return f"{name} with {', '.join(f'{key}={value}' for key, value in changed.items())}"
