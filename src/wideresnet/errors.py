"""The few errors a user can cause, and what the process answers with. Every message names the thing, the place, what
was expected and the next step; the command line prints it as one line, without a traceback."""

import difflib
import errno
from collections.abc import Iterable

DONE = 0
SOME_FAILED = 1  # done, but some inputs failed; each was named
MISTAKE = 2  # the user's mistake; nothing was written
STOPPED = 3  # stopped whole (NaN, memory, disk); can go on
INTERRUPTED = 130  # Ctrl-C; can go on
TERMINATED = 143  # SIGTERM; can go on


class WideResNetError(Exception):
    """Something a user can mend. `exit_code` is what the command line answers with."""

    exit_code = MISTAKE


class UsageError(WideResNetError):
    """An option or argument that cannot be."""


class DataError(WideResNetError):
    """Data that cannot be read as it is."""


class ImageError(DataError):
    """One picture that cannot be read. The message is the reason alone: who asked for the picture names its path."""


class ModelFileError(WideResNetError):
    """A model file, checkpoint or run folder that is not what it should be."""


class TrainingStopped(WideResNetError):  # noqa: N818 - not a mistake of anybody's; the run can go on
    """Training stopped, whole: the last good checkpoint stands."""

    exit_code = STOPPED


class Diverged(TrainingStopped):
    """The loss or the weights are not finite any more. Going on would come to the same; other options may not.

    `batch`: the one whose loss it was, if it was one's.
    """

    def __init__(self, message: str, batch: object = None) -> None:
        super().__init__(message)
        self.batch = batch


class Interrupted(WideResNetError):  # noqa: N818 - likewise
    """A signal stopped the work, whole."""

    exit_code = INTERRUPTED

    def __init__(self, message: str, exit_code: int = INTERRUPTED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


_SAID = "said by process "


def said_by(error: BaseException, rank: int) -> None:
    """Several processes end together: marks `error` with the one that says why."""
    error.add_note(f"{_SAID}{rank}")


def speaker(error: BaseException) -> str | None:
    """The number of the process that says why all end; None if this one is not known to have others."""
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(_SAID)]
    return notes[-1].removeprefix(_SAID) if notes else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is a word for it: Python's, numpy's and Pillow's, the system's, the loader's of libraries, or
    torch's on a CPU or a GPU."""
    if isinstance(error, RuntimeError):
        # The last is oneDNN's, which does not tell why; what it does not support is a "primitive descriptor" there.
        words = ("out of memory", "can't allocate memory", "bad_alloc", "could not create a primitive")
        return any(one in str(error) for one in words) and "primitive descriptor" not in str(error)
    if isinstance(error, ImportError):
        return "failed to map segment" in str(error)
    if isinstance(error, SystemError):  # where there was no memory left for the exception itself
        return "without exception set" in str(error) or "without setting an exception" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def missing_extra(what: str, extra: str) -> UsageError:
    """The one line for an extra that is not installed: what it is for, and what brings it."""
    return UsageError(f"{what} needs an extra that is not installed: pip install 'wideresnet[{extra}]'")


def printable(text: object) -> str:
    """A name of somebody else's in a message: what would move or colour a terminal is written as its escape."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in str(text))


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: "; did you mean 'x'?" or "; expected one of a, b, c"."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; expected one of {', '.join(names)}"
