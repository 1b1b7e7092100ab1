"""The table of dialects: Wide ResNets as other projects publish them. Data: a new one is a new row, and its fixture.

Each row was read in the source's own code; `tests/test_dialects.py` compares it with logits that this code computed.
"""

from wideresnet.dialects import others, xternalz
from wideresnet.dialects.dialect import Dialect
from wideresnet.errors import UsageError, nearest

DIALECTS: tuple[Dialect, ...] = (*xternalz.ROWS, *others.ROWS)


def find_dialect(name: str) -> Dialect:
    """By name or alias, in any case. Raises UsageError with the nearest names."""
    wanted = name.lower()
    for dialect in DIALECTS:
        if wanted == dialect.name or wanted in dialect.aliases:
            return dialect
    known = [each for dialect in DIALECTS for each in (dialect.name, *dialect.aliases)]
    raise UsageError(f"dialect {name!r}{nearest(wanted, known)}. See `wrn models --dialects`")
