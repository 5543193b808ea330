"""Needs nothing. A server with port `echo` and a driver in one process: every frame comes back unchanged.

.venv/bin/python examples/echo.py
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from vhostuser import DeviceConfig, Server
from vhostuser.frontend.driver import VirtioNetDriver

FRAMES = 5


def talk(socket_path: Path) -> int:
    """The guest's part; it blocks, so it runs beside the event loop."""
    same = 0
    with VirtioNetDriver.connect(socket_path) as driver:
        for number in range(FRAMES):
            frame = (
                b"\xff" * 6 + b"\x02\0\0\0\0\x01" + b"\x88\xb5" + f"frame {number}".encode().ljust(46, b".")
            )
            driver.send(frame)
            received = driver.recv()
            same += received.frame == frame
            print(
                f"sent {len(frame)} bytes, got back {len(received.frame)}: {received.frame[14:21].decode()}"
            )
    return same


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vm1.sock"
        async with Server([DeviceConfig(name="vm1", socket_path=str(path), port="echo")]):
            same = await asyncio.to_thread(talk, path)
    print(f"{same} of {FRAMES} frames came back unchanged")


if __name__ == "__main__":
    asyncio.run(main())
