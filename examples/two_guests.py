"""Needs nothing; where it may have a network namespace (as root, say) the two guests meet.

.venv/bin/python examples/two_guests.py

Each has a tap, and a bridge of the kernel's joins the taps. Elsewhere each has port `echo` and hears itself.
A port that switches between guests comes in a later version.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import tempfile
from pathlib import Path

from vhostuser import DeviceConfig, EnvironmentLacksError, Server
from vhostuser.frontend import VirtioNetDriver
from vhostuser.frontend.world import unshare_network

NAMES, FRAMES = ("vm1", "vm2"), 100
MACS = (b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02")


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)


def has_bridge() -> bool:
    """Moves this process into a network namespace of its own, with a bridge in it, where that is possible."""
    try:
        unshare_network()
        ip("link add br0 up type bridge")
    except (EnvironmentLacksError, OSError, subprocess.CalledProcessError) as error:
        print(f"no bridge, each guest is echoed: {error}")
        return False
    return True


def ask(sender: VirtioNetDriver, receiver: VirtioNetDriver, frame: bytes) -> bool:
    """Sends a frame, again when it does not arrive: the bridge takes a moment to see that a guest is up."""
    for _ in range(10):
        sender.send(frame)
        with contextlib.suppress(TimeoutError):
            while receiver.recv(timeout=0.5).frame != frame:
                pass  # what the kernel says by itself on a bridge
            return True
    return False


def talk(paths: list[Path], meet: bool) -> int:
    """The guests' part; it blocks, so it runs beside the event loop. How many frames arrived."""
    with VirtioNetDriver.connect(paths[0]) as one, VirtioNetDriver.connect(paths[1]) as two:
        arrived = 0
        for number in range(FRAMES):
            content = b"\x88\xb5" + number.to_bytes(2, "big") + bytes(46)
            arrived += ask(one, two if meet else one, MACS[1] + MACS[0] + content)
            arrived += ask(two, one if meet else two, MACS[0] + MACS[1] + content)
        return arrived


async def main() -> None:
    meet = has_bridge()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.sock" for name in NAMES]
        ports = [f"tap:{name}" if meet else "echo" for name in NAMES]
        devices = [DeviceConfig(socket_path=str(paths[n]), port=ports[n]) for n in range(2)]
        async with Server(devices) as server:
            for name in NAMES if meet else ():
                ip(f"link set {name} master br0")
            arrived = await asyncio.to_thread(talk, paths, meet)
            counters = server.counters()
    print(f"{arrived} of {2 * FRAMES} frames arrived at {'the other guest' if meet else 'their sender'}")
    for name, rings in counters.items():
        print(f"{name}: {rings[1].packets} frames from the guest, {rings[0].packets} to it")


if __name__ == "__main__":
    asyncio.run(main())
