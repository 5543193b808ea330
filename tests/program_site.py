"""The same two devices as `site` has, in a `vhostuser serve` that goes on from test to test."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.interop.server_process import Server
from tests.site import RING_SIZE, Site, echo, wait
from vhostuser.frontend.driver import VirtioNetDriver

FIRST, SECOND = "a.sock", "b.sock"


@dataclass
class ProgramSite(Site):
    """What is left of a front-end is seen from outside: fds, and mappings of guests' memory."""

    program: Server

    def assert_nothing_left(self) -> None:
        wait(lambda: fds_of(self.program) <= self.fds)
        wait(lambda: guest_mappings(self.program) == len(self.neighbour.memory.regions))


@contextmanager
def serving_program() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="vhu-") as name:
        folder = Path(name)
        words = [
            word
            for path in (FIRST, SECOND)
            for word in ("--device", f"name={path[0]},socket-path={folder / path},port=echo")
        ]
        with Server(folder, *words) as server:
            for path in (FIRST, SECOND):
                server.wait_listening(folder / path)
                # What is opened once, with the first front-end, is nobody's leftover.
                with VirtioNetDriver.connect(folder / path) as driver:
                    echo(driver)
            yield server
            server.stop()
            assert "Traceback" not in server.log
            assert "our own bug" not in server.log


@contextmanager
def program_site(program: Server) -> Iterator[Site]:
    folder = program.log_path.parent
    with VirtioNetDriver.connect(folder / SECOND, queue_size=RING_SIZE) as neighbour:
        echo(neighbour)
        site = ProgramSite(folder / FIRST, neighbour, frozenset(fds_of(program)), program)
        yield site
        site.assert_neighbour_unharmed()
        site.assert_serves()
        site.assert_nothing_left()
        program.assert_alive()


def fds_of(program: Server) -> set[int]:
    return {int(name) for name in os.listdir(f"/proc/{program.pid}/fd")}


def guest_mappings(program: Server) -> int:
    return Path(f"/proc/{program.pid}/maps").read_text().count("/memfd:guest-ram")
