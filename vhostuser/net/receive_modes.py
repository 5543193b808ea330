"""Which frames the guest has said it wants (virtio 1.2, 5.1.6.5.1 to 5.1.6.5.3), and the filter that is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from vhostuser.datapath.rx_filter import MAX_MACS, Accept, RxFilter
from vhostuser.wire.features import VirtioFeature

MAX_OF_KIND: Final = MAX_MACS // 2
"""Addresses of one kind, unicast or multicast, that are told apart; with more, all of that kind pass, which
the specification allows: filtering is best effort."""
VLANS: Final = 4096

MacTable = frozenset[bytes] | None
"""Addresses of one kind; None: more than are told apart."""


@dataclass(slots=True)
class ReceiveModes:
    """As after a reset: no address, no VLAN, and promiscuous.

    The specification leaves that mode open. QEMU's devices begin with it on and drivers turn it off (FreeBSD
    says that it has to); one that never says so, though it acknowledged CTRL_RX, is not cut off.
    """

    promiscuous: bool = True
    all_multicast: bool = False
    all_unicast: bool = False
    no_multicast: bool = False
    no_unicast: bool = False
    no_broadcast: bool = False
    unicast: MacTable = frozenset()
    multicast: MacTable = frozenset()
    vlans: set[int] = field(default_factory=set)

    def as_filter(self, features: VirtioFeature, mac: bytes | None) -> RxFilter | None:
        """What of it holds with these features acknowledged; None when every frame passes.

        ``mac`` is the guest's own address; None when we do not know it, and any unicast frame may be its.
        """
        by_mac = VirtioFeature.CTRL_RX in features
        if by_mac and self.promiscuous:
            # "All incoming packets": tagged ones, too. Linux asks for it when somebody captures.
            return None
        vlans = frozenset(self.vlans) if VirtioFeature.CTRL_VLAN in features else None
        if not by_mac:
            everything = RxFilter(Accept.ALL, Accept.ALL, Accept.ALL, vlans=vlans)
            return None if vlans is None else everything
        own = None if mac is None or self.unicast is None else self.unicast | {mac}
        unicast, ones = _accept(self.no_unicast, self.all_unicast, own)
        multicast, many = _accept(self.no_multicast, self.all_multicast, self.multicast)
        broadcast = Accept.NONE if self.no_broadcast else Accept.ALL
        return RxFilter(unicast, multicast, broadcast, ones | many, vlans)


def _accept(none: bool, everything: bool, table: MacTable) -> tuple[Accept, frozenset[bytes]]:
    """What passes of one kind, and the addresses that do; a mode that suppresses counts for more."""
    if none:
        return Accept.NONE, frozenset()
    if everything or table is None or len(table) > MAX_OF_KIND:
        return Accept.ALL, frozenset()
    return Accept.LISTED, table
