"""Giving back what a front-end sent, on threads of its own: it may take long, and nobody waits for it.

Closing a socket with SO_LINGER sleeps as long as its sender likes, the last reference to a filled memfd frees
its pages (37 ms for 256 MiB, seen), unmapping takes 52 ms a GiB, and a file of a user-space file system asks
its daemon. None of that may cost the loop, nor the thread that sets up ports.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

MOST_THREADS: Final = 16
"""Jobs that hang, hang one thread each; beyond that many, what is given back waits."""
_LINGER_SECONDS: Final = 1.0


class Reaper:
    """Runs jobs in any order. Threads come with work and go when there has been none for a second."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._threads = 0
        self._idle = 0

    def submit(self, job: Callable[[], None]) -> None:
        """``job`` must not raise."""
        with self._changed:
            self._jobs.append(job)
            if self._idle >= len(self._jobs) or self._threads == MOST_THREADS:
                self._changed.notify()
                return
            self._threads += 1
        # A daemon: a job that never ends must not keep the process from ending.
        threading.Thread(target=self._run, name="vhostuser-reaper", daemon=True).start()

    def close(self, fds: Iterable[int]) -> None:
        """Closes fds of kinds that nobody has looked at yet."""
        for fd in fds:
            self.submit(lambda fd=fd: os.close(fd))  # type: ignore[misc]

    def wait(self, seconds: float) -> bool:
        """Until nothing is left to do; False when that took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs and self._idle == self._threads, seconds)

    def _run(self) -> None:
        while job := self._next():
            job()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            self._idle += 1
            self._changed.notify_all()
            there = self._changed.wait_for(lambda: bool(self._jobs), _LINGER_SECONDS)
            self._idle -= 1
            if there:
                return self._jobs.popleft()
            self._threads -= 1
            self._changed.notify_all()
            return None


reaper: Final = Reaper()
"""The process's."""
