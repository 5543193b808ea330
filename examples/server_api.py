"""Needs nothing for `echo`, the right to make a tap for `tap:NAME`. A server written with the Python API.

.venv/bin/python examples/server_api.py --socket-path /tmp/vm1.sock --port echo [--seconds N]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys

from vhostuser import DeviceConfig, Server, VhostUserError


async def report(server: Server) -> None:
    """One line a second: what went through each device."""
    while True:
        await asyncio.sleep(1)
        for name, rings in server.counters().items():
            sent = sum(ring.packets for index, ring in rings.items() if index % 2)
            received = sum(ring.packets for index, ring in rings.items() if index % 2 == 0)
            print(f"{name}: {sent} frames from the guest, {received} to it", flush=True)


async def main(device: DeviceConfig, seconds: float | None) -> None:
    async with Server([device]) as server:
        print(f"listening on {device.socket_path}", flush=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(report(server), seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--socket-path", default="/tmp/vm1.sock")
    parser.add_argument("--port", default="echo")
    parser.add_argument("--seconds", type=float)
    words = parser.parse_args()
    try:
        config = DeviceConfig(name="vm1", socket_path=words.socket_path, port=words.port)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(main(config, words.seconds))
    except VhostUserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
