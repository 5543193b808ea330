"""A learning switch between taps: the kernel's bridge, what it has learned, and what a tap's guest said."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.interop.netns import ETH_P_ALL, PACKET_OUTGOING, Namespace

ETH_P_ARP = 0x0806
ETH_P_RARP = 0x8035


class Bridge:
    """One network of taps that are there or about to be, with the host in it at `address`."""

    def __init__(self, namespace: Namespace, address: str, *taps: str, name: str = "br0") -> None:
        self.namespace = namespace
        self.address = address
        self._name = name
        namespace.run("ip", "link", "add", name, "type", "bridge")
        # Else the host speaks to its multicast groups whenever a port comes up.
        namespace.run("sh", "-c", f"echo 1 > /proc/sys/net/ipv6/conf/{name}/disable_ipv6")
        for tap in taps:
            namespace.wait_link(tap)
            namespace.run("ip", "link", "set", tap, "master", name, "up")
        namespace.run("ip", "addr", "add", f"{address}/24", "dev", name)
        namespace.run("ip", "link", "set", name, "up")

    def place_of(self, mac: str) -> str | None:
        """The tap behind which the bridge last saw a frame of this sender; None if it knows of none."""
        rows = json.loads(self.namespace.run("bridge", "-j", "fdb", "show", "br", self._name))
        places = [row["ifname"] for row in rows if row["mac"] == mac and row.get("state") != "permanent"]
        assert len(places) <= 1, f"{mac} is in {len(places)} places at once: {places}"
        return places[0] if places else None


@dataclass(slots=True)
class Heard:
    """Frames that came from the guest behind one tap, in order, up to 128 bytes of each."""

    frames: list[bytes] = field(default_factory=list)

    def of_type(self, ethertype: int) -> list[bytes]:
        return [frame for frame in self.frames if int.from_bytes(frame[12:14], "big") == ethertype]


@contextmanager
def listening(namespace: Namespace, tap: str) -> Iterator[Heard]:
    """Hear a guest that says little; what it said, within a socket's buffer, is there after the block."""

    def listen() -> socket.socket:
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        packets.bind((tap, ETH_P_ALL))
        return packets

    heard = Heard()
    with namespace.call(listen) as packets:
        yield heard
        packets.setblocking(False)
        while True:
            try:
                frame, address = packets.recvfrom(128)
            except BlockingIOError:
                return
            if address[2] != PACKET_OUTGOING:
                heard.frames.append(frame)
