"""A network namespace of the test's own, and what the kernel saw on an interface in it.

The namespace belongs to a process that sleeps and vanishes with its last process, so that nothing (no
/run/netns, no tap) stays behind whatever happens. No mount namespace beside it: in a plain chroot, whose
root is no mount point, none can be made without its mounts showing outside.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.interop.process import Program, wait_until

CLONE_NEWNET = 0x40000000
ETH_P_ALL = 0x0003
PACKET_OUTGOING = 4
ETHERNET_FRAME = 1514

_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


class Namespace:
    """A network namespace with `lo` up. Leaving it ends the process that holds it."""

    def __init__(self, folder: Path) -> None:
        script = "echo ready && exec sleep 3600"
        self._holder = Program(["unshare", "--net", "sh", "-c", script], folder / "netns.log")
        self._holder.wait_log("ready")
        self.run("ip", "link", "set", "lo", "up")

    def enter(self, *argv: str) -> list[str]:
        """The command line that runs `argv` in the namespace; the process id stays the same."""
        return ["nsenter", "-t", str(self._holder.pid), "-n", "--", *argv]

    def run(self, *argv: str, timeout: float = 60, check: bool = True) -> str:
        """Run a program in the namespace to its end and return its output.

        AssertionError if it fails, unless `check` is off.
        """
        done = subprocess.run(self.enter(*argv), capture_output=True, text=True, timeout=timeout)
        assert not (check and done.returncode), f"{' '.join(argv)}: {done.stdout}{done.stderr}"
        return done.stdout

    def call(self, work: Callable[[], T]) -> T:
        """Run `work` on a thread that is in the namespace; a socket made there stays in it."""
        answer: list[T] = []
        failure: list[OSError] = []

        def enter_and_work() -> None:
            try:
                handle = os.open(f"/proc/{self._holder.pid}/ns/net", os.O_RDONLY)
                try:
                    if _libc.setns(handle, CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                finally:
                    os.close(handle)
                answer.append(work())
            except OSError as error:
                failure.append(error)

        thread = threading.Thread(target=enter_and_work)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return answer[0]

    def add_tap(self, name: str, queues: int = 1) -> None:
        """Make a persistent tap for a program that attaches to one (QEMU's own netdev)."""
        multi = ["multi_queue"] if queues > 1 else []
        self.run("ip", "tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr", *multi)

    def wait_link(self, name: str, timeout: float = 10) -> None:
        """Wait until an interface is there."""
        wait_until(f"interface {name}", lambda: name in self.links(), timeout, lambda: str(self.links()))

    def wait_no_link(self, name: str, timeout: float = 10) -> None:
        """Wait until an interface is gone: a tap of one name cannot be made again before."""
        wait_until(f"no interface {name}", lambda: name not in self.links(), timeout)

    def links(self) -> dict[str, dict[str, Any]]:
        """What `ip -s link` knows, by interface."""
        return {link["ifname"]: link for link in json.loads(self.run("ip", "-j", "-s", "link"))}

    def carrier(self, name: str) -> bool:
        return "LOWER_UP" in self.links()[name]["flags"]

    def received(self, name: str) -> int:
        """Frames that the kernel received from the interface: for a tap, what the guest sent."""
        return int(self.links()[name]["stats64"]["rx"]["packets"])

    def transmitted(self, name: str) -> int:
        """Frames that the kernel sent out of the interface: for a tap, what is for the guest."""
        return int(self.links()[name]["stats64"]["tx"]["packets"])

    def up(self, name: str, address: str) -> None:
        """Wait for an interface, give it an address and bring it up."""
        self.wait_link(name)
        self.run("ip", "address", "replace", address, "dev", name)
        self.run("ip", "link", "set", name, "up")

    def close(self) -> None:
        self._holder.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(slots=True)
class Seen:
    """What went past in one direction."""

    frames: int = 0
    octets: int = 0
    longest: int = 0
    over_ethernet: int = field(default=0)

    def add(self, length: int) -> None:
        self.frames += 1
        self.octets += length
        self.longest = max(self.longest, length)
        self.over_ethernet += length > ETHERNET_FRAME


class Capture:
    """Watches an interface with a packet socket while the `with` block runs; it may miss frames.

    `to_guest` is what the kernel sends into the tap, `from_guest` what comes out of it.
    """

    def __init__(self, namespace: Namespace, interface: str) -> None:
        self.to_guest = Seen()
        self.from_guest = Seen()
        self._socket = namespace.call(lambda: self._open(interface))
        self._ending = False
        self._thread = threading.Thread(target=self._watch)

    @staticmethod
    def _open(interface: str) -> socket.socket:
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        packets.bind((interface, ETH_P_ALL))
        packets.settimeout(0.1)
        return packets

    def _watch(self) -> None:
        head = bytearray(64)
        while not self._ending:
            try:
                # MSG_TRUNC: the frame's real length comes back, however little of it is copied.
                length, address = self._socket.recvfrom_into(head, 0, socket.MSG_TRUNC)
            except TimeoutError:
                continue
            (self.to_guest if address[2] == PACKET_OUTGOING else self.from_guest).add(length)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True
        self._thread.join()
        self._socket.close()
