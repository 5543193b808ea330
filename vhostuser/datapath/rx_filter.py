"""Which frames a guest wants, as C compares them (`struct vu_filter`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from vhostuser.datapath._datapath import ffi, lib

MAX_MACS: Final = lib.VU_FILTER_MACS
"""Of both kinds together."""


class Accept(IntEnum):
    """What is let through of one kind of frame (`enum vu_accept`)."""

    NONE = 0
    LISTED = 1
    ALL = 2


@dataclass(frozen=True, slots=True)
class RxFilter:
    """A frame has to pass by its destination, and then by its tag if it has one."""

    unicast: Accept
    multicast: Accept
    """Broadcast frames are a kind of their own."""
    broadcast: Accept
    """NONE or ALL."""
    macs: frozenset[bytes] = frozenset()
    """6 bytes each, of both kinds, at most `MAX_MACS`; used where a kind is LISTED."""
    vlans: frozenset[int] | None = None
    """The 802.1Q tags let through; None: all."""

    def build(self) -> Any:
        """A `struct vu_filter`; the caller's to keep until C has copied it."""
        macs = [int.from_bytes(mac, "little") for mac in sorted(self.macs)]
        words = [0] * 64
        for vlan in self.vlans or ():
            words[vlan // 64] |= 1 << vlan % 64
        return ffi.new(
            "struct vu_filter *",
            {
                "unicast": self.unicast,
                "multicast": self.multicast,
                "broadcast": self.broadcast,
                "tagged": Accept.ALL if self.vlans is None else Accept.LISTED,
                "mac_count": len(macs),
                "mac": macs,
                "vlan": words,
            },
        )
