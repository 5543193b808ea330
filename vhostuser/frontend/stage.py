"""What the demo plays on: a server with a tap in a namespace of its own, or else with echo."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vhostuser.errors import EnvironmentLacksError, PeerError
from vhostuser.frontend.server_process import ServerProcess
from vhostuser.frontend.timeouts import Deadline

_READY_WITHIN = 20.0
_ANSWER_WITHIN = 5.0


@dataclass(frozen=True, slots=True)
class Stage:
    """A server that listens on `path`."""

    path: Path
    log: Path
    world: World | None
    """The namespace, or None with an echo port."""
    lacking: str = ""
    """Why there is no namespace."""


class World:
    """The namespace's program as a child (`world.py`). Owns it; `close` leaves nothing of it."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vhostuser.frontend.world", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Out of reach of Ctrl-C, so that we can end it in order.
            start_new_session=True,
        )
        try:
            answer = self._read(_READY_WITHIN)
            if "lacks" in answer:
                raise EnvironmentLacksError(answer["lacks"])
        except BaseException:
            self.close()
            raise

    def counts(self) -> dict[str, int]:
        """What arrived in the namespace so far."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"counts\n")
        self._process.stdin.flush()
        return {name: int(value) for name, value in self._read(_ANSWER_WITHIN).items()}

    def _read(self, timeout: float) -> dict[str, str]:
        pipe = self._process.stdout
        assert pipe is not None
        deadline = Deadline(timeout)
        line = b""
        while not line.endswith(b"\n"):
            poller = select.poll()
            poller.register(pipe, select.POLLIN)
            if not poller.poll(deadline.left_ms):
                raise PeerError(f"the namespace did not answer within {deadline.seconds:g} s")
            piece = os.read(pipe.fileno(), 4096)
            if not piece:
                raise PeerError(f"the namespace's process ended with status {self._process.wait()}")
            line += piece
        answer: dict[str, str | int] = json.loads(line)
        return {name: str(value) for name, value in answer.items()}

    def close(self) -> None:
        """Closing its input ends it, and the server and the tap with it."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        try:
            self._process.wait(Deadline(5.0).left)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def set_up(port: str = "auto") -> Iterator[Stage]:
    """A server for as long as the block runs; `port` is "tap", "echo", or "auto" for the first that works.

    EnvironmentLacksError when a tap is asked for and cannot be had. PeerError when the server fails.
    """
    with tempfile.TemporaryDirectory(prefix="vhostuser-demo-") as folder:
        path = Path(folder) / "vm.sock"
        log = path.with_suffix(".log")
        lacking = ""
        if port != "echo":
            try:
                world = World(path)
            except EnvironmentLacksError as error:
                if port == "tap":
                    raise
                lacking = str(error)
            else:
                with contextlib.closing(world):
                    yield Stage(path, log, world)
                return
        server = ServerProcess(["-s", str(path), "--port", "echo"], log)
        try:
            server.await_socket()
            yield Stage(path, log, None, lacking)
        finally:
            server.stop()
