"""A file of text, whoever wrote it → its text; a number in it → that number."""

import math
from pathlib import Path

from wideresnet.errors import DataError


def read_text(path: Path) -> str:
    """UTF-8, with a byte-order mark or without. Raises DataError that names the line of the first byte that is not."""
    if not path.is_file():  # a pipe would block
        raise DataError(f"{path}: no file of text")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content[:256]:
        raise DataError(f"{path}: is UTF-16, or no text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = error.object.count(b"\n", 0, error.start) + 1, error.object[error.start]
        raise DataError(
            f"{path}, line {line}: byte 0x{byte:02X} is not UTF-8 (Latin-1, or a Windows code page?); save it as UTF-8"
        ) from error


def finite(text: str | None) -> float | None:
    """None of what is no number, or not a finite one."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
