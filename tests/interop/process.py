"""Programs that a test starts: one object each, its output in a file, and it never outlives the test run.

What lives here: starting, watching and ending a program by its own process id. What the program is, and what
to say to it, is in the file of its name.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.02
TIMEOUT_SCALE = float(os.environ.get("VHOSTUSER_TIMEOUT_SCALE", "1"))

_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


class NotSeen(AssertionError):
    """What a test waited for did not come in time, or cannot come any more."""


def wait_until(what: str, probe: Callable[[], T | None], timeout: float, note: Callable[[], str] = str) -> T:
    """Return the first true answer of `probe`, asked again and again; raise NotSeen after `timeout` seconds.

    `note` adds what is known about the failure (a log, counters) to the message.
    """
    end = time.monotonic() + timeout * TIMEOUT_SCALE
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > end:
            raise NotSeen(f"not seen in {timeout:g} s: {what}\n{note()}")
        time.sleep(POLL_SECONDS)


def _die_with_the_test_run() -> None:
    """Between fork and exec: have the kernel end us should the test run be killed."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Program:
    """One running program. A context manager: leaving it ends the program if it still runs.

    `argv[0]` must become the program itself (nsenter and taskset do: they exec), so that `pid` is its.
    """

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.argv = list(argv)
        self.log_path = log
        with log.open("wb") as output:
            # preexec_fn is safe here: the caller has no thread that may hold a lock which prctl needs.
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                preexec_fn=_die_with_the_test_run,
            )
        self.pid = self._process.pid

    @property
    def log(self) -> str:
        """All that the program has written so far."""
        return self.log_path.read_text(errors="replace")

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs; minus the signal's number when a signal ended it."""
        return self._process.poll()

    def describe(self) -> str:
        state = "still runs" if self.status is None else f"ended with status {self.status}"
        return f"$ {' '.join(self.argv)}\n({state})\n{self.log[-6000:]}"

    def write(self, text: str) -> None:
        """Type `text` into the program's standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def wait_for(self, what: str, probe: Callable[[], T | None], timeout: float) -> T:
        """wait_until, which also ends (with the log) when the program ends."""

        def probe_alive() -> T | None:
            answer = probe()
            if not answer and self.status is not None:
                raise NotSeen(f"{what}: the program ended before\n{self.describe()}")
            return answer

        return wait_until(what, probe_alive, timeout, self.describe)

    def wait_log(self, pattern: str, timeout: float = 10, start: int = 0) -> re.Match[str]:
        """The first match of `pattern` in the log from position `start` on."""
        expression = re.compile(pattern, re.MULTILINE)
        return self.wait_for(f"log line {pattern!r}", lambda: expression.search(self.log, start), timeout)

    def wait_exit(self, timeout: float = 10) -> int:
        """The exit status, once the program has ended by itself."""
        try:
            status = self._process.wait(timeout * TIMEOUT_SCALE)
        except subprocess.TimeoutExpired:
            raise NotSeen(f"it did not end in {timeout:g} s\n{self.describe()}") from None
        self._close_input()
        return status

    def terminate(self, timeout: float = 5) -> int:
        """SIGTERM, and the exit status that follows."""
        self._process.terminate()
        return self.wait_exit(timeout)

    def kill(self) -> None:
        """SIGKILL: the program has no say in it. Nothing happens if it has ended already."""
        self._process.kill()
        self._process.wait(10)
        self._close_input()

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
