"""A server of two devices on a loop of its own thread, so that a test can be a front-end's plain script.

The second device is the neighbour: whatever is done to the first, the neighbour's frames keep coming back.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop

from vhostuser.config import DeviceConfig
from vhostuser.datapath.mapping import live_regions
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.server.server import Server

FRAME = b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x88\xb5" + bytes(range(46))


@dataclass
class Site:
    path: Path
    neighbour: VirtioNetDriver

    def assert_neighbour_unharmed(self) -> None:
        self.neighbour.send(FRAME)
        assert self.neighbour.recv().frame == FRAME

    def assert_serves(self) -> None:
        """A new front-end finds the device as if nothing had been."""
        with VirtioNetDriver.connect(self.path) as driver:
            driver.send(FRAME)
            assert driver.recv().frame == FRAME


def wait(probe: Callable[[], bool]) -> None:
    while not probe():
        time.sleep(0.002)


@pytest.fixture
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="vhu-") as folder:
        paths = [Path(folder) / f"{name}.sock" for name in ("a", "b")]
        configs = [DeviceConfig(name=path.stem, socket_path=str(path), port="echo") for path in paths]
        started, stop = threading.Event(), asyncio.Event()
        loops: list[asyncio.AbstractEventLoop] = []

        async def serve() -> None:
            async with Server(configs):
                loops.append(asyncio.get_running_loop())
                started.set()
                await stop.wait()

        def run() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve())

        thread = threading.Thread(target=run)
        thread.start()
        started.wait()
        try:
            with VirtioNetDriver.connect(paths[1]) as neighbour:
                site = Site(paths[0], neighbour)
                yield site
                site.assert_neighbour_unharmed()
                site.assert_serves()
                mine = len(neighbour.memory.regions)
                wait(lambda: live_regions() == mine)
        finally:
            loops[0].call_soon_threadsafe(stop.set)
            thread.join()
        assert live_regions() == 0
