"""What a device offers: a function of the port's kind and the configuration, and of nothing else.

A front-end that comes back after a restart refuses a smaller offer and retries for ever, so neither the
kernel nor the moment may have a say in it. What the kernel lacks then is made up for or reported by the port.
"""

from __future__ import annotations

from vhostuser.datapath.port_ops import PortCaps
from vhostuser.wire.features import PROTOCOL_NEEDS, ProtocolFeature, VirtioFeature

_RINGS = (
    VirtioFeature.VERSION_1
    | VirtioFeature.ANY_LAYOUT
    | VirtioFeature.INDIRECT_DESC
    | VirtioFeature.EVENT_IDX
    | VirtioFeature.IN_ORDER
    | VirtioFeature.RING_PACKED
    | VirtioFeature.LOG_ALL
    | VirtioFeature.ACCESS_PLATFORM
)
_CONTROL = VirtioFeature.CTRL_VQ
"""Cloud Hypervisor gives its guests a control queue, and so several pairs, only if we offer one, though it
runs that queue itself. QEMU takes no notice, DPDK's virtio-user strips it."""
_NET = VirtioFeature.MRG_RXBUF | VirtioFeature.MTU | VirtioFeature.MQ | VirtioFeature.GUEST_ANNOUNCE
_USO = VirtioFeature.GUEST_USO4 | VirtioFeature.GUEST_USO6 | VirtioFeature.HOST_USO
_CONFIG_SPACE = VirtioFeature.MAC | VirtioFeature.STATUS
"""Bits whose fields a driver reads from the config space: offered only where that space is ours."""
_COMMANDS = (
    VirtioFeature.CTRL_RX
    | VirtioFeature.CTRL_RX_EXTRA
    | VirtioFeature.CTRL_VLAN
    | VirtioFeature.CTRL_MAC_ADDR
    | VirtioFeature.CTRL_GUEST_OFFLOADS
)
"""What can be said in a control queue. Also offered only where the config space is ours, for a front-end that
keeps that keeps the control queue, too: virtio-user, where it is offered CTRL_RX, CTRL_VLAN or CTRL_MAC_ADDR,
acknowledges them without CTRL_VQ and tells its driver OK for commands that it throws away."""

_PROTOCOL = (
    ProtocolFeature.MQ
    | ProtocolFeature.LOG_SHMFD
    | ProtocolFeature.RARP
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.MTU
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.CROSS_ENDIAN
    | ProtocolFeature.INFLIGHT_SHMFD
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.INBAND_NOTIFICATIONS
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.STATUS
    | ProtocolFeature.DEVICE_STATE
    | ProtocolFeature.GET_VRING_BASE_INFLIGHT
    | ProtocolFeature.GPA_ADDRESSES
    | ProtocolFeature.GET_VRING_BASE_SKIP_DRAIN
)

_ASKING = ProtocolFeature.BACKEND_REQ | ProtocolFeature.REPLY_ACK
"""How a back-end learns of translations; without both QEMU refuses ACCESS_PLATFORM."""

_NEEDS = (
    (VirtioFeature.GUEST_TSO4 | VirtioFeature.GUEST_TSO6, VirtioFeature.GUEST_CSUM),
    (VirtioFeature.GUEST_UFO | VirtioFeature.GUEST_USO4 | VirtioFeature.GUEST_USO6, VirtioFeature.GUEST_CSUM),
    (VirtioFeature.GUEST_ECN, VirtioFeature.GUEST_TSO4 | VirtioFeature.GUEST_TSO6),
    (VirtioFeature.HOST_TSO4 | VirtioFeature.HOST_TSO6, VirtioFeature.CSUM),
    (VirtioFeature.HOST_UFO | VirtioFeature.HOST_USO | VirtioFeature.GSO, VirtioFeature.CSUM),
    (VirtioFeature.HOST_ECN, VirtioFeature.HOST_TSO4 | VirtioFeature.HOST_TSO6),
    (_COMMANDS, VirtioFeature.CTRL_VQ),
)
"""Bits, and those of which at least one must be there too (virtio 1.2, 5.1.3.1); in order of dependence.

Not MQ and GUEST_ANNOUNCE, which need CTRL_VQ as well: QEMU acknowledges them to us without it."""


def virtio_offer(
    caps: PortCaps,
    *,
    disabled: VirtioFeature,
    protocol: ProtocolFeature,
    uso: bool,
    config_space: bool,
    has_mac: bool,
    has_mtu: bool,
) -> VirtioFeature:
    """The offer beside ``protocol``, without PROTOCOL_FEATURES. Bits that need a disabled one go with it.

    With a config space of ours MTU means that its field holds one (virtio 1.2, 5.1.4.1); where the space is
    the front-end's it means that NET_SET_MTU is taken.
    """
    offer = _RINGS | _NET | _CONTROL | caps.offloads
    if not uso:
        offer &= ~_USO
    if _ASKING not in protocol:
        offer &= ~VirtioFeature.ACCESS_PLATFORM
    if config_space:
        offer |= _COMMANDS | (_CONFIG_SPACE if has_mac else VirtioFeature.STATUS)
        if not has_mtu:
            offer &= ~VirtioFeature.MTU
    return closed(offer & ~disabled)


def protocol_offer(
    *, disabled: ProtocolFeature, config_space: bool, postcopy: bool = False
) -> ProtocolFeature:
    """With `postcopy` memory comes in tables only: the specification lets nobody acknowledge both."""
    offer = _PROTOCOL | (ProtocolFeature.CONFIG if config_space else ProtocolFeature(0))
    if postcopy:
        offer = (offer | ProtocolFeature.PAGEFAULT) & ~ProtocolFeature.CONFIGURE_MEM_SLOTS
    offer &= ~disabled
    for dependent, needed in PROTOCOL_NEEDS:
        if needed not in offer:
            offer &= ~dependent
    return offer


def closed(offer: VirtioFeature) -> VirtioFeature:
    """`offer` without the bits that need one which is missing."""
    for dependent, needed in _NEEDS:
        if not offer & needed:
            offer &= ~dependent
    return offer
