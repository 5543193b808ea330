"""The kernel's tun driver and interface ioctls: the numbers, and one function for each call.

Everything raises OSError as the kernel gives it; which sentence a user reads is `tap`'s business. The
numbers are written out because the headers of older systems lack some of them (Debian 12: TUN_F_USO4).
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from array import array
from fcntl import ioctl

TUN_DEVICE = "/dev/net/tun"

IFF_TUN = 0x0001
IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_ATTACH_QUEUE = 0x0200
IFF_DETACH_QUEUE = 0x0400
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFF_TUN_EXCL = 0x8000

TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
TUN_F_TSO6 = 0x04
TUN_F_TSO_ECN = 0x08
TUN_F_UFO = 0x10
TUN_F_USO4 = 0x20
TUN_F_USO6 = 0x40

MAX_QUEUES = 256
MAX_NAME = 15
"""IFNAMSIZ less the final zero."""

# Some architectures put the direction of an ioctl into three bits instead of two (<asm/ioctl.h>).
_WIDE = os.uname().machine.startswith(("ppc", "mips", "sparc", "alpha"))
_WRITE, _READ = (4 << 29, 2 << 29) if _WIDE else (1 << 30, 2 << 30)
_TUN = 4 << 16 | ord("T") << 8

# <linux/if_tun.h>: each is declared with an int, whatever it points to.
_TUNSETIFF = _WRITE | _TUN | 202
_TUNSETPERSIST = _WRITE | _TUN | 203
_TUNSETOFFLOAD = _WRITE | _TUN | 208
_TUNGETIFF = _READ | _TUN | 210
_TUNSETVNETHDRSZ = _WRITE | _TUN | 216
_TUNSETQUEUE = _WRITE | _TUN | 217
_TUNSETVNETLE = _WRITE | _TUN | 220
_TUNSETCARRIER = _WRITE | _TUN | 226

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_SIOCGIFMTU = 0x8921
_SIOCSIFMTU = 0x8922
_SIOCGIFHWADDR = 0x8927
_SIOCGIFTXQLEN = 0x8942
_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 3
_IFF_UP = 1

# struct ifreq: 16 bytes of name and 24 bytes of a union.
_IFREQ_FLAGS = struct.Struct("16sH22x")
_IFREQ_INT = struct.Struct("16si20x")
_IFREQ_HWADDR = struct.Struct("16sH6s16x")
_IFREQ_POINTER = struct.Struct("16sP16x" if struct.calcsize("P") == 8 else "16sP20x")
_DRVINFO_SIZE = 196


def set_interface(fd: int, name: str, flags: int) -> str:
    """TUNSETIFF: makes or attaches the interface; returns its name."""
    request = ioctl(fd, _TUNSETIFF, _IFREQ_FLAGS.pack(name.encode(), flags))
    return _text(_IFREQ_FLAGS.unpack(request)[0])


def get_interface(fd: int) -> tuple[str, int]:
    """TUNGETIFF: name and IFF_* flags, IFF_DETACH_QUEUE among them for a queue that is detached."""
    name, flags = _IFREQ_FLAGS.unpack(ioctl(fd, _TUNGETIFF, bytes(_IFREQ_FLAGS.size)))
    return _text(name), flags


def get_hardware_address(fd: int) -> bytes:
    """The MAC of the interface behind a tun fd, in whatever network namespace that is."""
    address: bytes = _IFREQ_HWADDR.unpack(ioctl(fd, _SIOCGIFHWADDR, bytes(_IFREQ_HWADDR.size)))[2]
    return address


def set_persist(fd: int, persist: bool) -> None:
    ioctl(fd, _TUNSETPERSIST, int(persist))


def set_offload(fd: int, flags: int) -> None:
    """TUNSETOFFLOAD: what may be read from the interface, for all of its queues."""
    ioctl(fd, _TUNSETOFFLOAD, flags)


def set_header_size(fd: int, size: int) -> None:
    """TUNSETVNETHDRSZ: the virtio-net header in front of each frame, for all queues of the interface."""
    ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", size))


def set_little_endian(fd: int) -> None:
    """TUNSETVNETLE: header fields are little-endian, as they are anyway on most machines."""
    ioctl(fd, _TUNSETVNETLE, struct.pack("i", 1))


def set_carrier(fd: int, carrier: bool) -> None:
    """TUNSETCARRIER: whether the host sees a link."""
    ioctl(fd, _TUNSETCARRIER, struct.pack("i", int(carrier)))


def set_queue(fd: int, attached: bool) -> None:
    """TUNSETQUEUE: EINVAL when the queue is so already."""
    ioctl(fd, _TUNSETQUEUE, _IFREQ_FLAGS.pack(b"", IFF_ATTACH_QUEUE if attached else IFF_DETACH_QUEUE))


class Interface:
    """One network interface by name, in the network namespace in which this object was made."""

    def __init__(self, name: str) -> None:
        self.name = name
        # Any socket takes interface ioctls; AF_UNIX is there also in a sandbox without AF_INET.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def close(self) -> None:
        self._socket.close()

    def bring_up(self) -> None:
        flags = self._get_flags() | _IFF_UP
        ioctl(self._socket, _SIOCSIFFLAGS, _IFREQ_FLAGS.pack(self.name.encode(), flags))

    def get_mtu(self) -> int:
        return self._get_int(_SIOCGIFMTU)

    def set_mtu(self, mtu: int) -> None:
        ioctl(self._socket, _SIOCSIFMTU, _IFREQ_INT.pack(self.name.encode(), mtu))

    def get_queue_length(self) -> int:
        """How many frames wait at most on each queue of a tun interface."""
        return self._get_int(_SIOCGIFTXQLEN)

    def get_hardware_address(self) -> bytes:
        request = ioctl(self._socket, _SIOCGIFHWADDR, _IFREQ_HWADDR.pack(self.name.encode(), 0, b""))
        address: bytes = _IFREQ_HWADDR.unpack(request)[2]
        return address

    def get_driver(self) -> tuple[str, str]:
        """Driver and bus as `ethtool -i` has them: ("tun", "tap") for a tap."""
        info = array("B", _ETHTOOL_GDRVINFO.to_bytes(4, sys.byteorder))
        info.frombytes(bytes(_DRVINFO_SIZE - 4))
        ioctl(self._socket, _SIOCETHTOOL, _IFREQ_POINTER.pack(self.name.encode(), info.buffer_info()[0]))
        answer = info.tobytes()
        return _text(answer[4:36]), _text(answer[100:132])

    def _get_flags(self) -> int:
        request = ioctl(self._socket, _SIOCGIFFLAGS, _IFREQ_FLAGS.pack(self.name.encode(), 0))
        flags: int = _IFREQ_FLAGS.unpack(request)[1]
        return flags

    def _get_int(self, number: int) -> int:
        value: int = _IFREQ_INT.unpack(ioctl(self._socket, number, _IFREQ_INT.pack(self.name.encode(), 0)))[1]
        return value


def _text(zero_ended: bytes) -> str:
    return zero_ended.split(b"\0", 1)[0].decode(errors="replace")
