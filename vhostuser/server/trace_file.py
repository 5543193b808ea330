"""Where the trace goes: the loop gives lines, a thread writes them, and no disk or pipe holds up a reply."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from typing import Final

from vhostuser.errors import EnvironmentLacksError
from vhostuser.stats.trace import lost_line

_log = logging.getLogger("vhostuser")

STDOUT: Final = "-"
_MOST_WAITING: Final = 1 << 20
"""Bytes that may wait to be written; what comes then is counted and lost."""
_CLOSE_SECONDS: Final = 0.5


class TraceFile:
    """Appends to the file at ``path``, or writes to stdout ("-"), until `close` or the first error.

    Raises EnvironmentLacksError when it cannot be opened. A full disk or a reader that goes away ends the
    trace with one warning, and nothing else.
    """

    def __init__(self, path: str) -> None:
        self._name = "standard output" if path == STDOUT else path
        try:
            if path == STDOUT:
                self._fd = os.dup(1)
            else:
                # Without waiting for the reader of a named pipe; what is written later may wait.
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
                self._fd = os.open(path, flags, 0o640)
                os.set_blocking(self._fd, True)
        except OSError as error:
            raise EnvironmentLacksError(
                f"the trace cannot be written to {self._name} ({error.strerror}): "
                f"check its path and permissions"
            ) from None
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._lost = 0
        self._open = True
        # A daemon: a write that never ends must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="vhostuser-trace", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Takes one line, without its end; never waits."""
        content = line.encode() + b"\n"
        with self._changed:
            if not self._open:
                return
            if self._bytes + len(content) > _MOST_WAITING:
                self._lost += 1
                return
            if self._lost:
                self._put(lost_line(time.time_ns(), self._lost).encode() + b"\n")
                self._lost = 0
            self._put(content)

    def close(self) -> None:
        """Writes what is left, as far as that takes no time."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join(_CLOSE_SECONDS)

    def _put(self, content: bytes) -> None:
        self._waiting.append(content)
        self._bytes += len(content)
        self._changed.notify()

    def _run(self) -> None:
        try:
            while content := self._next():
                while content:
                    content = content[os.write(self._fd, content) :]
        except OSError as error:
            _log.warning("the trace ends: it cannot be written to %s (%s)", self._name, error.strerror)
        finally:
            with self._changed:
                self._open = False
                self._waiting.clear()
            os.close(self._fd)

    def _next(self) -> bytes:
        """All lines that wait, in one piece; b"" when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._open)
            content = b"".join(self._waiting)
            self._waiting.clear()
            self._bytes = 0
            return content
