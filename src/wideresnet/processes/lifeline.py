"""A connection of each process with the first one, by which all learn at once that one of them has failed or died.

A sum over processes waits for one that is gone; the system knows, and closes its connections. Those to a machine that
is cut off it tries every few seconds, and gives up after a minute or two. The first process passes on what it hears.
The process that fails first says why, the others end with it.
"""

import contextlib
import os
import secrets
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch.distributed import DistError
from torch.distributed.distributed_c10d import Store

from wideresnet.errors import STOPPED, TERMINATED, Interrupted, TrainingStopped, WideResNetError, said_by

JOIN_S = 300  # torchrun starts processes when all machines are there: what is left to wait for is importing torch
GRACE_S = 10  # for a process to end by itself, its files written; then it is ended wherever it is
_POLL_S = 0.3
_SPEAK_S = 1.0  # torchrun ends a machine's processes as soon as one has ended: the one that speaks comes first
_KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPALIVE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}  # Linux's, macOS's names
_HELLO = struct.Struct("!32sI")  # the first process's port is open to the network: a token, and the rank
_WORD = struct.Struct("!cI")  # what happened to which process
_DONE, _FAILED, _LOST = b"d", b"f", b"l"


class Lifeline:
    """Of one process. `store`: what all processes read and write, and nobody else does. `others`: connections by rank,
    the first process's with all others, another's with the first."""

    def __init__(self, store: Store, rank: int, size: int, others: Mapping[int, socket.socket]) -> None:
        self.rank, self.size = rank, size
        self._store, self._others = store, others
        self._news, self._num_meetings = (_DONE, rank), 0
        self._told, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def reason(self, wait_s: float) -> TrainingStopped | None:
        """Why this process must end, if within `wait_s` another turns out to have failed or died."""
        if not self._told.wait(wait_s):
            return None
        what, rank = self._news
        if what == _FAILED:
            return TrainingStopped(f"process {rank} of {self.size} has failed, and says why")
        return TrainingStopped(
            f"process {rank} of {self.size} has ended without a word: it was killed (the system does that where memory "
            "runs out), or its machine is gone"
        )

    def meeting(self) -> str:
        """A name for the next place where processes wait for one another; the same in all."""
        self._num_meetings += 1
        return f"meeting {self._num_meetings}"

    def arrive(self, where: str) -> None:
        self._store.add(where, 1)

    def wait_for(self, num: int, where: str) -> None:
        """Until `num` processes have arrived, however long that takes. Raises TrainingStopped if one will not."""
        while self._store.add(where, 0) < num:
            if reason := self.reason(_POLL_S):
                raise reason

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While open, torch's errors about a connection are a TrainingStopped that names the process at its end."""
        try:
            yield
        except RuntimeError as error:
            if not (isinstance(error, DistError) or "gloo" in str(error)):
                raise
            raise self.reason(GRACE_S) or TrainingStopped(f"the processes have lost touch: {error}") from error

    def end(self, error: BaseException) -> BaseException:
        """Tells the others that this process fails; → what it fails with, marked with the process that says why."""
        speaker = self._speaker()
        self.close(failed=True)
        if speaker != self.rank:
            time.sleep(_SPEAK_S)
            if isinstance(error, Exception) and not isinstance(error, WideResNetError):
                error = TrainingStopped(f"process {speaker} of {self.size} has failed, and says why")  # one traceback
        said_by(error, speaker)
        return error

    def _speaker(self) -> int:
        """The process that says why all end: the first that asks."""
        if self._told.is_set() and self._news == (_LOST, 0):  # the store is on its machine, gone or cut off with it
            local_rank = os.environ.get("LOCAL_RANK", "0")
            return self.rank if local_rank == "0" or local_rank == str(self.rank) == "1" else 0
        try:
            return int(self._store.compare_set("speaker", "", str(self.rank)))
        except (RuntimeError, ValueError):
            return self.rank

    def close(self, *, failed: bool = False) -> None:
        """The others are told how this process ends, and it listens no more."""
        self._closing.set()
        for other in self._others.values():
            _send(other, _FAILED if failed else _DONE, self.rank)
            with contextlib.suppress(OSError):
                other.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join()
        for other in self._others.values():
            other.close()

    def _listen(self) -> None:
        """Until every other is done, or one has ended otherwise: that is passed on. The work of a thread."""
        with selectors.DefaultSelector() as selector:
            for rank, other in self._others.items():
                selector.register(other, selectors.EVENT_READ, rank)
            while selector.get_map():
                for key, _ in selector.select():
                    what, whose = _receive(self._others[key.data]) or (_LOST, key.data)
                    if self._closing.is_set():
                        return
                    if what != _DONE:
                        self._hear(what, whose)
                        return
                    selector.unregister(key.fileobj)

    def _hear(self, what: bytes, whose: int) -> None:
        if self.rank == 0:
            for other in self._others.values():
                _send(other, what, whose)
        self._news = (what, whose)
        self._told.set()
        if self._closing.wait(GRACE_S):
            return
        # It waits within a library, on a GPU or in a long piece of work, where no exception of ours can reach it.
        if self._speaker() == self.rank:
            print(f"wrn, process {self.rank}: {self.reason(0)}", file=sys.stderr, flush=True)
        os._exit(STOPPED)


def connections(store: Store, rank: int, size: int, address: str) -> dict[int, socket.socket]:
    """What a Lifeline takes as `others`. `address`: of the first process's machine. Raises OSError, or torch's
    RuntimeError, if they do not come within `JOIN_S`."""
    if rank == 0:
        token = secrets.token_hex(16)
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        with socket.create_server(
            ("", 0), family=family, backlog=size, dualstack_ipv6=family == socket.AF_INET6
        ) as server:
            store.set("lifeline", f"{server.getsockname()[1]} {token}")
            return _accepted(server, token.encode(), size)
    port, token = store.get("lifeline").decode().split()
    first = socket.create_connection((address, int(port)), timeout=JOIN_S)
    first.sendall(_HELLO.pack(token.encode(), rank))
    return {0: _kept_alive(first)}


def _accepted(server: socket.socket, token: bytes, size: int) -> dict[int, socket.socket]:
    others, deadline = dict[int, socket.socket](), time.monotonic() + JOIN_S
    while missing := sorted(set(range(1, size)) - others.keys()):
        server.settimeout(max(0.0, deadline - time.monotonic()) or 1e-3)
        try:
            other, _ = server.accept()
        except TimeoutError:
            for other in others.values():
                _send(other, _FAILED, 0)
            raise TimeoutError(f"process {', '.join(map(str, missing))} has not come within {JOIN_S} s") from None
        other.settimeout(5)
        try:
            found, rank = _HELLO.unpack(other.recv(_HELLO.size, socket.MSG_WAITALL))
        except (OSError, struct.error):  # a stranger
            found, rank = b"", 0
        if not secrets.compare_digest(found, token):
            other.close()
            continue
        others[rank] = _kept_alive(other)
    return others


def _kept_alive(connection: socket.socket) -> socket.socket:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
    return connection


def _send(other: socket.socket, what: bytes, whose: int) -> None:
    with contextlib.suppress(OSError):  # it has ended itself
        other.sendall(_WORD.pack(what, whose))


def _receive(other: socket.socket) -> tuple[bytes, int] | None:
    """None where the connection has closed without a word."""
    try:
        what, whose = _WORD.unpack(other.recv(_WORD.size, socket.MSG_WAITALL))
    except (OSError, struct.error):
        return None
    return what, whose


class Terminated:
    """While open, SIGTERM is an Interrupted, so that what is open is closed; torchrun sends it to all processes of a
    machine as soon as one has ended. After an error it is not heard for some seconds: the error is still to be said."""

    def __init__(self, line: Lifeline) -> None:
        self._line, self._deaf_until = line, 0.0

    def __enter__(self) -> None:
        self._main = threading.current_thread() is threading.main_thread()  # elsewhere Python allows no handlers
        if self._main:
            self._before = signal.signal(signal.SIGTERM, self._raise)

    def _raise(self, *_: object) -> None:
        raise Interrupted("stopped by SIGTERM; nothing was half written", TERMINATED)

    def _wait(self, *_: object) -> None:
        if time.monotonic() > self._deaf_until:
            signal.signal(signal.SIGTERM, self._before)
            signal.raise_signal(signal.SIGTERM)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not self._main:
            return
        if error is None:
            signal.signal(signal.SIGTERM, self._before)
            return
        self._deaf_until = time.monotonic() + 2 * _SPEAK_S + GRACE_S
        signal.signal(signal.SIGTERM, self._wait)
        if isinstance(error, Interrupted) and (reason := self._line.reason(_SPEAK_S)):
            raise reason from error
