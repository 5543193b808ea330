"""Which frames the guest has said it wants (virtio 1.2, 5.1.6.5.1 to 5.1.6.5.3), and the filter that is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from vhostuser.datapath.rx_filter import MAX_MACS, Accept, RxFilter
from vhostuser.wire.features import VirtioFeature

MAX_OF_KIND: Final = MAX_MACS // 2
"""Addresses of one kind, unicast or multicast, that are told apart; with more, all of that kind pass, which
the specification allows: filtering is best effort."""


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
    unicast: frozenset[bytes] = frozenset()
    multicast: frozenset[bytes] = frozenset()
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
        own = self.unicast if mac is None else self.unicast | {mac}
        unicast = _accept(self.no_unicast, self.all_unicast or mac is None, own)
        multicast = _accept(self.no_multicast, self.all_multicast, self.multicast)
        listed = own if unicast is Accept.LISTED else frozenset()
        if multicast is Accept.LISTED:
            listed |= self.multicast
        broadcast = Accept.NONE if self.no_broadcast else Accept.ALL
        return RxFilter(unicast, multicast, broadcast, listed, vlans)


def _accept(none: bool, everything: bool, listed: frozenset[bytes]) -> Accept:
    """A mode that suppresses counts for more than one that opens."""
    if none:
        return Accept.NONE
    return Accept.ALL if everything or len(listed) > MAX_OF_KIND else Accept.LISTED
