"""Needs nothing: two guests on a switch in this process, ring to ring.

.venv/bin/python examples/two_guests.py
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from vhostuser import DeviceConfig, Server
from vhostuser.frontend import VirtioNetDriver

NAMES, FRAMES = ("vm1", "vm2"), 100
MACS = (b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02")


def talk(paths: list[Path]) -> int:
    """The guests' part; it blocks, so it runs beside the event loop. How many frames arrived."""
    with VirtioNetDriver.connect(paths[0]) as one, VirtioNetDriver.connect(paths[1]) as two:
        arrived = 0
        for number in range(FRAMES):
            content = b"\x88\xb5" + number.to_bytes(2, "big") + bytes(46)
            for sender, receiver, addresses in (
                (one, two, MACS[1] + MACS[0]),
                (two, one, MACS[0] + MACS[1]),
            ):
                sender.send(addresses + content)
                arrived += receiver.recv().frame == addresses + content
        return arrived


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.sock" for name in NAMES]
        devices = [
            DeviceConfig(name=name, socket_path=str(path), port="switch:lan")
            for name, path in zip(NAMES, paths, strict=True)
        ]
        async with Server(devices) as server:
            arrived = await asyncio.to_thread(talk, paths)
            counters = server.counters()
    print(f"{arrived} of {2 * FRAMES} frames arrived at the other guest")
    for name, rings in counters.items():
        print(f"{name}: {rings[1].packets} frames from the guest, {rings[0].packets} to it")


if __name__ == "__main__":
    asyncio.run(main())
