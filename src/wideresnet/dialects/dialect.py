"""One published Wide ResNet as a value: a row of the table."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from wideresnet.dialects.inputs import Input
from wideresnet.dialects.keys import Keys
from wideresnet.model import Options

# The paper's own network, by its Lua code (models/wide-resnet.lua) and its PyTorch port.
PAPER: Options = {"stem": "conv", "shortcut": "activated", "dropout_at": "after-act2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One published Wide ResNet. `options` are the network's; `inputs` by data set (`ANY`: whatever it is)."""

    name: str
    source: str  # owner/name of the code, and the file
    paper: str
    licence: str  # of the code; that of published weights may differ
    options: Options
    keys: Keys = field(default_factory=Keys)
    inputs: Mapping[str, Input]
    inside: bool = False  # the source normalises within its network; ours never does
    quirks: str = ""
    read_off: tuple[str, ...] = ()  # options that the source lets vary and the keys show
    aliases: tuple[str, ...] = ()
