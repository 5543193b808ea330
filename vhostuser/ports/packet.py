"""The `packet` port: a device's packets go out of an interface of the host, and what comes in there is its.

    packet:eth1           a network card, a veth, a VLAN, a bond: anything that is Ethernet

It is done with packet sockets, so the interface stays the host's: with its addresses, its name, and all who
listen there. CAP_NET_RAW is needed. A socket with virtio-net headers cannot be told which offloads are
wanted: frames have them as they came, and C finishes those that a guest does not take.
"""

from __future__ import annotations

import errno
import logging
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Self

from vhostuser.datapath.port_ops import NET_HEADER_SIZE, PortCaps, PortKind, PortOps
from vhostuser.errors import EnvironmentLacksError, UsageError
from vhostuser.options import split_pairs
from vhostuser.ports import classic_bpf, packet_socket
from vhostuser.ports.base import ALL_OFFLOADS, MAX_FRAME
from vhostuser.ports.interface import Interface, check_name
from vhostuser.wire.features import VirtioFeature

MAX_QUEUES = 256
"""So many sockets a group had before Linux 5.16 (PACKET_FANOUT_MAX)."""

BUFFER_SIZE = 4 << 20
"""Of SO_RCVBUF and SO_SNDBUF, which the kernel doubles: 10000 short frames, or 120 of 64 KiB."""

_log = logging.getLogger(__name__)


class PacketPort:
    """An interface by name, which must be there and be Ethernet.

    As long as the device is stopped nothing is taken from the interface, and it is not promiscuous for us.
    """

    kind: ClassVar[str] = "packet"

    def __init__(self, name: str) -> None:
        check_name(name)
        self.name = name
        self.caps = PortCaps(ALL_OFFLOADS, queues=MAX_QUEUES, max_frame=MAX_FRAME)
        self._interface: Interface | None = None
        self._sockets: list[socket.socket] = []
        self._index = 0
        self._header_size = NET_HEADER_SIZE
        self._queues: frozenset[int] = frozenset()
        self._runs = False

    @classmethod
    def from_options(cls, options: str) -> Self:
        what = f"port packet:{options}"
        if "=" in options:
            options = dict(split_pairs(what, options, ("ifname",))).get("ifname", "")
        if not options:
            raise UsageError(f"{what} names no interface: write packet:eth1")
        return cls(options)

    def open(self, queues: int) -> PortOps:
        assert not self._sockets, "a port is opened once"
        try:
            self._interface = Interface(self.name)
            self._index = self._look_at(self._interface)
            group: int | None = None
            for _ in range(queues):
                self._sockets.append(packet_socket.make())
                self._header_size = self._set_up(self._sockets[-1])
                if queues > 1:
                    group = packet_socket.join(self._sockets[-1], group)
            self._queues = frozenset(range(queues))
            self._steer()
        except OSError as error:
            refusal = self._not_opened(error)
            self.close()
            raise refusal from None
        except BaseException:
            self.close()
            raise
        fds = tuple(sock.fileno() for sock in self._sockets)
        return PortOps(PortKind.PACKET, fds, header_size=self._header_size)

    def start(self, features: VirtioFeature) -> None:
        del features  # there is nobody to be told
        self._runs = True
        self._follow("heard", classic_bpf.incoming())

    def stop(self) -> None:
        self._runs = False
        self._follow("left alone", classic_bpf.nothing())
        lost = 0
        for sock in self._sockets:
            packet_socket.drain(sock)
            lost += packet_socket.take_statistics(sock)[1]
        if lost:
            _log.info("packet %s: %d frames came while there was no room for them", self.name, lost)

    def attach(self, queues: frozenset[int]) -> None:
        for queue in queues - self._queues:
            packet_socket.drain(self._sockets[queue])  # nothing has come since the program left it out
        self._queues = queues
        self._steer()

    def set_mtu(self, mtu: int) -> None:
        """Looked at and not set: the interface has others who live by it."""
        assert self._interface is not None
        try:
            there = self._interface.get_mtu()
        except OSError as error:
            raise self._not_opened(error) from None
        if there < mtu:
            raise EnvironmentLacksError(
                f"the MTU of {self.name} is {there} and the guest is told {mtu}: "
                f"run 'ip link set {self.name} mtu {mtu}', or use mtu={there}"
            )

    def inject(self, frame: bytes) -> None:
        try:
            self._sockets[0].send(bytes(self._header_size) + frame)
        except OSError as error:
            _log.debug("packet %s: a frame was not sent: %s", self.name, error.strerror)

    def close(self) -> None:
        # Each waits for a grace period of the kernel's (12 ms): all of them for the same ones.
        if self._sockets:
            with ThreadPoolExecutor(min(len(self._sockets), 32)) as threads:
                list(threads.map(socket.socket.close, self._sockets))
            self._sockets.clear()
        if self._interface is not None:
            self._interface.close()
            self._interface = None

    def _look_at(self, interface: Interface) -> int:
        if not interface.is_ethernet():
            raise EnvironmentLacksError(f"{self.name} is no Ethernet interface: choose one that is")
        if sys.byteorder == "big":
            raise EnvironmentLacksError(
                "packet sockets have their headers in the byte order of this machine, which is not virtio's: "
                "use a tap"
            )
        if not interface.is_up():
            _log.warning("packet %s is down: run 'ip link set %s up'", self.name, self.name)
        return socket.if_nametoindex(self.name)

    def _set_up(self, sock: socket.socket) -> int:
        # Before it is bound, so that no frame is without.
        packet_socket.set_filter(sock, classic_bpf.nothing())
        packet_socket.set_auxdata(sock)
        size = packet_socket.set_header(sock)
        packet_socket.set_buffers(sock, BUFFER_SIZE)
        packet_socket.bind(sock, self.name)
        return size

    def _follow(self, what: str, program: bytes) -> None:
        try:
            for sock in self._sockets:
                packet_socket.set_filter(sock, program)
            packet_socket.set_promiscuous(self._sockets[0], self._index, self._runs)
        except OSError as error:
            # The interface has gone. The worker says that it is down, or has gone.
            _log.debug("packet %s cannot be %s: %s", self.name, what, error.strerror)

    def _steer(self) -> None:
        if len(self._sockets) > 1 and self._queues:
            packet_socket.steer(self._sockets[0], classic_bpf.steering(sorted(self._queues)))

    def _is_up(self) -> bool:
        try:
            return self._interface is not None and self._interface.is_up()
        except OSError:
            return False

    def _not_opened(self, error: OSError) -> EnvironmentLacksError:
        name = self.name
        if error.errno == errno.ENODEV:
            text = f"there is no interface {name}: 'ip link' lists those that there are"
        elif error.errno in (errno.EPERM, errno.EACCES):
            text = (
                f"packets of {name} are not for this process: "
                f"give it CAP_NET_RAW (setpriv, or --cap-add=NET_RAW)"
            )
        elif error.errno == errno.EAFNOSUPPORT:
            text = "this kernel or sandbox has no packet sockets: allow AF_PACKET (RestrictAddressFamilies=)"
        elif error.errno in (errno.EMFILE, errno.ENFILE):
            text = f"no more sockets can be opened for {name} ({error.strerror}): raise the limit (ulimit -n)"
        elif error.errno == errno.EINVAL and self._sockets and not self._is_up():
            text = (
                f"{name} is down, and this kernel has several queues only where it is up: "
                f"run 'ip link set {name} up' first, or use queues=1"
            )
        else:
            text = f"packets of {name} cannot be had ({error.strerror}): see what 'ip link show {name}' says"
        return EnvironmentLacksError(text)
