"""The host's side of a tap, for tests: what ethtool and ip would say, and frames in and out."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import sys
from array import array
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

from vhostuser.ports import tun

ETHTOOL_GLINK = 0x0A
ETHTOOL_GTXCSUM = 0x16
ETHTOOL_GTSO = 0x1E

PLAIN = tun.IFF_TAP | tun.IFF_NO_PI | tun.IFF_VNET_HDR
MULTI_QUEUE = PLAIN | tun.IFF_MULTI_QUEUE

FRAME = bytes.fromhex("ffffffffffff 020000000001 88b5") + bytes(range(46))
"""A broadcast of the local experimental EtherType: nothing on the host answers or drops it."""


_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def network_namespace() -> Iterator[None]:
    """This thread is in an empty network namespace, whose interfaces say nothing of their own accord."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("unshare", _CLONE_NEWNET)
        ipv6 = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
        if ipv6.exists():
            ipv6.write_text("1")
        yield
    finally:
        _call("setns", before, _CLONE_NEWNET)
        os.close(before)


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without privileges. Meanwhile the tun device is everybody's, as it is wherever udev made it."""
    mode = os.stat(tun.TUN_DEVICE).st_mode & 0o777
    os.chmod(tun.TUN_DEVICE, 0o666)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.chmod(tun.TUN_DEVICE, mode)


def make_tap(name: str, flags: int = MULTI_QUEUE) -> int:
    """An fd of a new tap, or of one more queue, opened as another program would."""
    fd = os.open(tun.TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    tun.set_interface(fd, name, flags)
    return fd


def give_to(fd: int, user: int) -> None:
    """TUNSETOWNER: only this user may attach without privileges."""
    ioctl(fd, 0x400454CC, user)


def exists(name: str) -> bool:
    return name in {interface for _, interface in socket.if_nameindex()}


def ethtool(name: str, command: int) -> int:
    """The answer to one of the ethtool calls that return a single number."""
    value = array("I", [command, 0])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
        ioctl(control, 0x8946, struct.pack("16sP16x", name.encode(), value.buffer_info()[0]))
    return value[1]


def has_carrier(name: str) -> bool:
    return bool(ethtool(name, ETHTOOL_GLINK))


def is_up(name: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
        request = ioctl(control, 0x8913, struct.pack("16sH22x", name.encode(), 0))
    flags = int.from_bytes(request[16:18], sys.byteorder)
    return bool(flags & 1)


def listen(name: str) -> socket.socket:
    """A packet socket that sends to the tap's guest side and hears what comes from there."""
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
    packets.bind((name, 0x88B5))
    packets.settimeout(5)
    return packets
