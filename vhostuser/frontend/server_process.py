"""`vhostuser serve` as a child of this process; its log goes into a file."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence, Set
from pathlib import Path

from vhostuser.errors import EnvironmentLacksError, PeerError, UsageError
from vhostuser.frontend.timeouts import Deadline

_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


class ServerProcess:
    """Owns the process: `stop` ends it, and it ends with this process in any case.

    `words` are those of `vhostuser serve`. With `cpus` the whole process stays on those.
    """

    def __init__(self, words: Sequence[str], log: Path, cpus: Set[int] | None = None) -> None:
        self.log = log

        def prepare() -> None:
            # If this process is killed without a chance to clean up, the server goes too.
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if cpus is not None:
                os.sched_setaffinity(0, cpus)

        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "vhostuser", "serve", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Out of reach of Ctrl-C, so that it is ended in order.
                start_new_session=True,
                preexec_fn=prepare,
            )

    def await_socket(self, timeout: float = 10.0, sockets: int = 1) -> None:
        """Wait until it listens on so many; if it ends before, what its exit status says it was, in its
        last words: UsageError, EnvironmentLacksError or PeerError.
        """
        deadline = Deadline(timeout)
        while self.log.read_text(errors="replace").count("listening on") < sockets:
            status = self.process.poll()
            for kind in (UsageError, EnvironmentLacksError):
                if status == kind.exit_status:
                    raise kind(self.last_words())
            if status is not None:
                raise PeerError(f"vhostuser serve ended with status {status}: {self.last_words()}")
            if not deadline.left:
                raise PeerError(f"vhostuser serve does not listen: {self.last_words()}")
            time.sleep(0.01)

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return lines[-1].removeprefix("vhostuser: ") if lines else "it said nothing"

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(Deadline(3.0).left)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
