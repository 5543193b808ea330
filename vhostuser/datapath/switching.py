"""A switch's Python face: devices join it, and frames go from guest to guest in C.

What changes a device on a switch pauses the workers of all that are on it: `vring.PacketDevice` sees to that.
"""

from __future__ import annotations

import errno
import secrets
from typing import TYPE_CHECKING, Final

from vhostuser.datapath._datapath import ffi, lib
from vhostuser.datapath.worker import Worker, paused
from vhostuser.errors import EnvironmentLacksError

if TYPE_CHECKING:
    from vhostuser.datapath.vring import PacketDevice

AGE: Final = 300
"""Seconds after which an address that sends nothing is forgotten (IEEE 802.1Q, 8.8.3, the default)."""


class Switch:
    """Members come and go; `close` when there is none left. Lives where its devices live."""

    def __init__(self, age: int = AGE) -> None:
        self.handle = lib.vu_switch_new(age, secrets.randbits(64))
        if self.handle == ffi.NULL:
            raise MemoryError
        self.workers: set[Worker] = set()
        """Those that any member's pairs were ever on: who may be filling a member's ring."""

    @property
    def addresses(self) -> int:
        """How many are known."""
        return lib.vu_switch_addresses(self.handle)

    def close(self) -> None:
        if self.handle != ffi.NULL:
            lib.vu_switch_free(self.handle)
            self.handle = ffi.NULL


class Member:
    """The place of one device on ``switch``, from `join` to `leave`. An MTU that is set before holds then."""

    def __init__(self, switch: Switch) -> None:
        self.switch = switch
        self._handle = ffi.NULL
        self._mtu = 0

    def join(self, device: PacketDevice) -> None:
        """To be called by `PacketDevice.join` alone. Raises EnvironmentLacksError when the switch is full."""
        self.switch.workers.update(device.workers)
        with paused(self.switch.workers):
            self._handle = lib.vu_switch_join(self.switch.handle, device.handle)
            if self._handle == ffi.NULL:
                if ffi.errno != errno.ENOSPC:
                    raise MemoryError
                raise EnvironmentLacksError("a switch has no more than 1024 devices")
        self.set_mtu(self._mtu)

    def leave(self) -> None:
        """By `PacketDevice.close` alone, while all are paused."""
        if self._handle != ffi.NULL:
            lib.vu_switch_leave(self._handle)
            self._handle = ffi.NULL

    def forget(self) -> None:
        """Addresses behind it are unknown from now on. Any thread."""
        if self._handle != ffi.NULL:
            lib.vu_member_forget(self._handle)

    def set_mtu(self, mtu: int) -> None:
        """Longer packets are not for it, unless its guest takes segments; 0: any. Any thread."""
        self._mtu = mtu
        if self._handle != ffi.NULL:
            lib.vu_member_set_mtu(self._handle, mtu)

    def inject(self, frame: bytes) -> None:
        """One frame as if its guest had sent it; nothing before the first pair is there."""
        if self._handle != ffi.NULL:
            with paused(self.switch.workers):
                lib.vu_member_inject(self._handle, frame, len(frame))
