"""The kernel's tun driver: the numbers, and one function for each call.

Everything raises OSError as the kernel gives it; which sentence a user reads is `tap`'s business. The
numbers are written out because the headers of older systems lack some of them (Debian 12: TUN_F_USO4).
"""

from __future__ import annotations

import os
import struct
from fcntl import ioctl

from vhostuser.ports.interface import IFREQ_FLAGS, IFREQ_HWADDR, SIOCGIFHWADDR, zero_ended

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


def set_interface(fd: int, name: str, flags: int) -> str:
    """TUNSETIFF: makes or attaches the interface; returns its name."""
    request = ioctl(fd, _TUNSETIFF, IFREQ_FLAGS.pack(name.encode(), flags))
    return zero_ended(IFREQ_FLAGS.unpack(request)[0])


def get_interface(fd: int) -> tuple[str, int]:
    """TUNGETIFF: name and IFF_* flags, IFF_DETACH_QUEUE among them for a queue that is detached."""
    name, flags = IFREQ_FLAGS.unpack(ioctl(fd, _TUNGETIFF, bytes(IFREQ_FLAGS.size)))
    return zero_ended(name), flags


def get_hardware_address(fd: int) -> bytes:
    """The MAC of the interface behind a tun fd, in whatever network namespace that is."""
    address: bytes = IFREQ_HWADDR.unpack(ioctl(fd, SIOCGIFHWADDR, bytes(IFREQ_HWADDR.size)))[2]
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
    ioctl(fd, _TUNSETQUEUE, IFREQ_FLAGS.pack(b"", IFF_ATTACH_QUEUE if attached else IFF_DETACH_QUEUE))
