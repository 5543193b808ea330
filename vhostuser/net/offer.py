"""What a device offers: a function of the port's kind and the configuration, and of nothing else.

A front-end that comes back after a restart refuses a smaller offer and retries for ever, so neither the
kernel nor the moment may have a say in it. What the kernel lacks then is made up for or reported by the port.
"""

from __future__ import annotations

from vhostuser.datapath.port_ops import PortCaps
from vhostuser.wire.features import ProtocolFeature, VirtioFeature

_RINGS = (
    VirtioFeature.VERSION_1
    | VirtioFeature.ANY_LAYOUT
    | VirtioFeature.INDIRECT_DESC
    | VirtioFeature.EVENT_IDX
    | VirtioFeature.IN_ORDER
    | VirtioFeature.RING_PACKED
    | VirtioFeature.LOG_ALL
)
_NET = VirtioFeature.MRG_RXBUF | VirtioFeature.MTU | VirtioFeature.MQ | VirtioFeature.GUEST_ANNOUNCE
_USO = VirtioFeature.GUEST_USO4 | VirtioFeature.GUEST_USO6 | VirtioFeature.HOST_USO
_CONFIG_SPACE = VirtioFeature.MAC | VirtioFeature.STATUS
"""Bits whose fields a driver reads from the config space: offered only where that space is ours."""

_PROTOCOL = (
    ProtocolFeature.MQ
    | ProtocolFeature.LOG_SHMFD
    | ProtocolFeature.RARP
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.MTU
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.CROSS_ENDIAN
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.STATUS
    | ProtocolFeature.DEVICE_STATE
    | ProtocolFeature.GPA_ADDRESSES
)

_NEEDS = (
    (VirtioFeature.GUEST_TSO4 | VirtioFeature.GUEST_TSO6, VirtioFeature.GUEST_CSUM),
    (VirtioFeature.GUEST_UFO | VirtioFeature.GUEST_USO4 | VirtioFeature.GUEST_USO6, VirtioFeature.GUEST_CSUM),
    (VirtioFeature.GUEST_ECN, VirtioFeature.GUEST_TSO4 | VirtioFeature.GUEST_TSO6),
    (VirtioFeature.HOST_TSO4 | VirtioFeature.HOST_TSO6, VirtioFeature.CSUM),
    (VirtioFeature.HOST_UFO | VirtioFeature.HOST_USO | VirtioFeature.GSO, VirtioFeature.CSUM),
    (VirtioFeature.HOST_ECN, VirtioFeature.HOST_TSO4 | VirtioFeature.HOST_TSO6),
)
"""Bits, and those of which at least one must be there too (virtio 1.2, 5.1.3.1); in order of dependence."""


def virtio_offer(
    caps: PortCaps, *, disabled: VirtioFeature, uso: bool, config_space: bool, has_mac: bool, has_mtu: bool
) -> VirtioFeature:
    """The offer without PROTOCOL_FEATURES. Bits that depend on a disabled one go with it.

    With a config space of ours MTU means that its field holds one (virtio 1.2, 5.1.4.1); where the space is
    the front-end's it means that NET_SET_MTU is taken.
    """
    offer = _RINGS | _NET | caps.offloads
    if not uso:
        offer &= ~_USO
    if config_space:
        offer |= _CONFIG_SPACE if has_mac else VirtioFeature.STATUS
        if not has_mtu:
            offer &= ~VirtioFeature.MTU
    return closed(offer & ~disabled)


def protocol_offer(*, disabled: ProtocolFeature, config_space: bool) -> ProtocolFeature:
    offer = _PROTOCOL | (ProtocolFeature.CONFIG if config_space else ProtocolFeature(0))
    return offer & ~disabled


def closed(offer: VirtioFeature) -> VirtioFeature:
    """`offer` without the bits that need one which is missing."""
    for dependent, needed in _NEEDS:
        if not offer & needed:
            offer &= ~dependent
    return offer
