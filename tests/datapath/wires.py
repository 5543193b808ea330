"""A pair of unix sockets in the place of a tap.

It keeps the borders of frames, blocks when it is full, and says what a tap says in the same words.
"""

from __future__ import annotations

import socket

from tests.datapath.rig import MODERN, Bench, Ring
from vhostuser.datapath.port_ops import PortKind
from vhostuser.frontend.net_header import PLAIN, NetHeader
from vhostuser.wire.features import VirtioFeature

HEADER = 12


class Wire:
    """The network's end of a port fd. ``header``: bytes of the virtio-net header there."""

    def __init__(self, kind: socket.SocketKind = socket.SOCK_DGRAM, header: int = HEADER) -> None:
        self.header = header
        self.port, self._network = socket.socketpair(socket.AF_UNIX, kind)
        self.port.setblocking(False)
        self._network.setblocking(False)
        # The kernel grants twice of what anybody may ask for, and that is twice of what comes unasked.
        self._network.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

    @property
    def fd(self) -> int:
        return self.port.fileno()

    def put(self, content: bytes, header: NetHeader = PLAIN) -> None:
        self._network.send(header.build(self.header) + content)

    def put_raw(self, content: bytes) -> None:
        self._network.send(content)

    def get(self) -> list[tuple[NetHeader, bytes]]:
        """All that has come out."""
        found: list[tuple[NetHeader, bytes]] = []
        while True:
            try:
                raw = self._network.recv(1 << 17)
            except BlockingIOError:
                return found
            found.append((NetHeader.parse(raw[: self.header]), raw[self.header :]))

    def close_network(self) -> None:
        self._network.close()

    def close(self) -> None:
        self.port.close()
        self._network.close()


def started(
    bench: Bench,
    wire: Wire,
    features: VirtioFeature = MODERN,
    size: int = 256,
    rx_size: int = 0,
    kind: PortKind = PortKind.FD,
) -> tuple[Ring, Ring]:
    rx, tx = bench.guest(features).pair(kind, size, rx_size=rx_size, fd=wire.fd, header_size=wire.header)
    rx.start()
    tx.start()
    bench.settle()
    return rx, tx
