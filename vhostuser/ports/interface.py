"""Interfaces of the host by name: what may be one, and the ioctls that every kind of interface knows.

Everything but `check_name` raises OSError as the kernel gives it.
"""

from __future__ import annotations

import socket
import struct
import sys
from array import array
from fcntl import ioctl

from vhostuser.errors import EnvironmentLacksError, UsageError

MAX_NAME = 15
"""IFNAMSIZ less the final zero."""

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_SIOCGIFMTU = 0x8921
_SIOCSIFMTU = 0x8922
SIOCGIFHWADDR = 0x8927
_SIOCGIFTXQLEN = 0x8942
_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 3
_IFF_UP = 1
_ARPHRD_ETHER = 1

# struct ifreq: 16 bytes of name and 24 bytes of a union.
IFREQ_FLAGS = struct.Struct("16sH22x")
_IFREQ_INT = struct.Struct("16si20x")
IFREQ_HWADDR = struct.Struct("16sH6s16x")
_IFREQ_POINTER = struct.Struct("16sP16x" if struct.calcsize("P") == 8 else "16sP20x")
_DRVINFO_SIZE = 196


def check_name(name: str) -> None:
    """UsageError for what is no name, EnvironmentLacksError for one that the kernel has no room for."""
    # The kernel's dev_valid_name(), and no '%': TUNSETIFF would take that as a pattern for a free name.
    if len(name.encode()) > MAX_NAME:
        raise EnvironmentLacksError(
            f"the interface name '{name}' has {len(name.encode())} bytes and may have at most {MAX_NAME}: "
            f"choose a shorter one"
        )
    if name in (".", "..") or not name.isprintable() or any(letter in "/:% " for letter in name):
        raise UsageError(
            f"'{name}' is no interface name: it may not have '/', ':', '%', blanks, or be '.' or '..'"
        )


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
        ioctl(self._socket, _SIOCSIFFLAGS, IFREQ_FLAGS.pack(self.name.encode(), flags))

    def is_up(self) -> bool:
        return bool(self._get_flags() & _IFF_UP)

    def is_ethernet(self) -> bool:
        return self._get_hardware()[0] == _ARPHRD_ETHER

    def get_mtu(self) -> int:
        return self._get_int(_SIOCGIFMTU)

    def set_mtu(self, mtu: int) -> None:
        ioctl(self._socket, _SIOCSIFMTU, _IFREQ_INT.pack(self.name.encode(), mtu))

    def get_queue_length(self) -> int:
        """How many frames wait at most on each queue of a tun interface."""
        return self._get_int(_SIOCGIFTXQLEN)

    def get_hardware_address(self) -> bytes:
        return self._get_hardware()[1]

    def get_driver(self) -> tuple[str, str]:
        """Driver and bus as `ethtool -i` has them: ("tun", "tap") for a tap."""
        info = array("B", _ETHTOOL_GDRVINFO.to_bytes(4, sys.byteorder))
        info.frombytes(bytes(_DRVINFO_SIZE - 4))
        ioctl(self._socket, _SIOCETHTOOL, _IFREQ_POINTER.pack(self.name.encode(), info.buffer_info()[0]))
        answer = info.tobytes()
        return zero_ended(answer[4:36]), zero_ended(answer[100:132])

    def _get_hardware(self) -> tuple[int, bytes]:
        request = ioctl(self._socket, SIOCGIFHWADDR, IFREQ_HWADDR.pack(self.name.encode(), 0, b""))
        _, kind, address = IFREQ_HWADDR.unpack(request)
        return kind, address

    def _get_flags(self) -> int:
        request = ioctl(self._socket, _SIOCGIFFLAGS, IFREQ_FLAGS.pack(self.name.encode(), 0))
        flags: int = IFREQ_FLAGS.unpack(request)[1]
        return flags

    def _get_int(self, number: int) -> int:
        value: int = _IFREQ_INT.unpack(ioctl(self._socket, number, _IFREQ_INT.pack(self.name.encode(), 0)))[1]
        return value


def zero_ended(text: bytes) -> str:
    return text.split(b"\0", 1)[0].decode(errors="replace")
