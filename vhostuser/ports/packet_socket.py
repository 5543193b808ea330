"""Packet sockets: the numbers of their options (packet(7)), and one function for each.

Everything raises OSError as the kernel gives it; which sentence a user reads is `packet`'s business. The
numbers are written out because the socket module lacks them, and older headers some of them.
"""

from __future__ import annotations

import errno
import socket
import struct
from array import array

from vhostuser.ports.classic_bpf import INSTRUCTION

SOL_PACKET = 263
ETH_P_ALL = 0x0003

_ADD_MEMBERSHIP, _DROP_MEMBERSHIP = 1, 2
_STATISTICS = 6
_AUXDATA = 8
_VNET_HDR = 15
_FANOUT, _FANOUT_DATA = 18, 22
_VNET_HDR_SZ = 24
_MR_PROMISC = 1
_FANOUT_CBPF = 6
_FANOUT_FLAG_UNIQUEID = 0x2000
_SO_ATTACH_FILTER, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 26, 32, 33

# struct packet_mreq, sock_fprog and tpacket_stats.
_MREQ = struct.Struct("iHH8s")
_PROGRAM = struct.Struct("HP")
_STATS = struct.Struct("II")


def make() -> socket.socket:
    """One that is bound to nothing and does not block."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    return socket.socket(socket.AF_PACKET, kind, 0)


def bind(sock: socket.socket, name: str) -> None:
    """Every protocol of the interface. One that is down is bound to as well."""
    sock.bind((name, ETH_P_ALL))


def set_header(sock: socket.socket) -> int:
    """A virtio-net header in front of each frame, in the host's byte order; returns its size.

    12 bytes, or, before Linux 6.6, the 10 of a legacy one.
    """
    try:
        sock.setsockopt(SOL_PACKET, _VNET_HDR_SZ, 12)
        return 12
    except OSError:
        sock.setsockopt(SOL_PACKET, _VNET_HDR, 1)
        return 10


def set_auxdata(sock: socket.socket) -> None:
    """What `recvmsg` gives beside each frame: the VLAN tag, which the kernel takes out of it."""
    sock.setsockopt(SOL_PACKET, _AUXDATA, 1)


def set_buffers(sock: socket.socket, size: int) -> None:
    """How many bytes may wait in each direction, with what the kernel needs for them beside.

    Without CAP_NET_ADMIN no more than net.core.rmem_max and wmem_max.
    """
    for force, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, size)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, size)


def set_filter(sock: socket.socket, program: bytes) -> None:
    """Frames that come from now on are given to the socket as the program says, which replaces another."""
    _set_program(sock, socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def set_promiscuous(sock: socket.socket, index: int, promiscuous: bool) -> None:
    """As long as one socket wants it, the interface takes frames for any address."""
    option = _ADD_MEMBERSHIP if promiscuous else _DROP_MEMBERSHIP
    sock.setsockopt(SOL_PACKET, option, _MREQ.pack(index, _MR_PROMISC, 0, b""))


def join(sock: socket.socket, group: int | None) -> int:
    """Of the sockets of a group each frame is for one; returns the group, a new one when None was given."""
    flags = _FANOUT_FLAG_UNIQUEID if group is None else 0
    sock.setsockopt(SOL_PACKET, _FANOUT, (group or 0) | (_FANOUT_CBPF | flags) << 16)
    return sock.getsockopt(SOL_PACKET, _FANOUT) & 0xFFFF


def steer(sock: socket.socket, program: bytes) -> None:
    """The program returns the place of a socket among those of its group, in the order of their joining."""
    _set_program(sock, SOL_PACKET, _FANOUT_DATA, program)


def take_statistics(sock: socket.socket) -> tuple[int, int]:
    """Frames for this socket, and those of them for which it had no room, since the last time."""
    packets, drops = _STATS.unpack(sock.getsockopt(SOL_PACKET, _STATISTICS, _STATS.size))
    return packets, drops


def drain(sock: socket.socket) -> None:
    """What waits is gone. Call it when nothing more can come."""
    while True:
        try:
            sock.recv(1)
        except OSError as error:
            # A frame that has no such header, and the news that the interface is down: others wait behind.
            if error.errno not in (errno.EINVAL, errno.ENETDOWN):
                return


def _set_program(sock: socket.socket, level: int, option: int, program: bytes) -> None:
    content = array("B", program)
    sock.setsockopt(level, option, _PROGRAM.pack(len(program) // INSTRUCTION.size, content.buffer_info()[0]))
