"""Needs nothing. Two guests of one server, each with its own device; one floods, the other does not notice.

.venv/bin/python examples/two_guests.py

In this version the two are not connected to each other: a port that switches between guests comes later.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from vhostuser import DeviceConfig, Server
from vhostuser.frontend.flood import Flood, Load


def flood(path: Path) -> str:
    with Flood.connect(path) as guest:
        report = guest.flood(Load(seconds=1.0, frame_size=64))
    return f"{report.returned} frames taken, {report.sent_rate / 1e6:.2f} million a second"


def ping(path: Path) -> str:
    with Flood.connect(path) as guest:
        report, latency = guest.ping(Load(packets=200, stamp=True, sleep=True))
    median = latency.percentile(50) / 1000
    return f"{report.received} of {report.sent} came back whole, median {median:.0f} us"


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.sock" for name in ("vm1", "vm2")}
        devices = [
            DeviceConfig(name="vm1", socket_path=str(paths["vm1"]), port="sink"),
            DeviceConfig(name="vm2", socket_path=str(paths["vm2"]), port="echo"),
        ]
        async with Server(devices) as server:
            flooded, pinged = await asyncio.gather(
                asyncio.to_thread(flood, paths["vm1"]), asyncio.to_thread(ping, paths["vm2"])
            )
            counters = server.counters()
    print(f"vm1, port sink: {flooded}")
    print(f"vm2, port echo: {pinged}")
    for name, rings in counters.items():
        print(f"{name}: {rings[1].packets} frames from the guest, {rings[0].packets} to it")


if __name__ == "__main__":
    asyncio.run(main())
