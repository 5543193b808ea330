"""Feature bits of virtio, virtio-net and vhost-user, and their names in both directions.

Which of them a device offers is decided in `vhostuser.net`; here are only the numbers. Bits that no
specification names stay in the flags as they are: a front-end that acks one has to be told its number.
"""

from __future__ import annotations

import difflib
from enum import IntFlag
from typing import Final

from vhostuser.errors import UsageError


class VirtioFeature(IntFlag):
    """GET/SET_FEATURES: virtio-net (0-23, 50-63), virtio transport (24-41); 26 and 30 are vhost's own."""

    CSUM = 1 << 0
    GUEST_CSUM = 1 << 1
    CTRL_GUEST_OFFLOADS = 1 << 2
    MTU = 1 << 3
    MAC = 1 << 5
    GSO = 1 << 6
    GUEST_TSO4 = 1 << 7
    GUEST_TSO6 = 1 << 8
    GUEST_ECN = 1 << 9
    GUEST_UFO = 1 << 10
    HOST_TSO4 = 1 << 11
    HOST_TSO6 = 1 << 12
    HOST_ECN = 1 << 13
    HOST_UFO = 1 << 14
    MRG_RXBUF = 1 << 15
    STATUS = 1 << 16
    CTRL_VQ = 1 << 17
    CTRL_RX = 1 << 18
    CTRL_VLAN = 1 << 19
    CTRL_RX_EXTRA = 1 << 20
    GUEST_ANNOUNCE = 1 << 21
    MQ = 1 << 22
    CTRL_MAC_ADDR = 1 << 23
    NOTIFY_ON_EMPTY = 1 << 24
    LOG_ALL = 1 << 26
    ANY_LAYOUT = 1 << 27
    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    PROTOCOL_FEATURES = 1 << 30
    VERSION_1 = 1 << 32
    ACCESS_PLATFORM = 1 << 33
    RING_PACKED = 1 << 34
    IN_ORDER = 1 << 35
    ORDER_PLATFORM = 1 << 36
    SR_IOV = 1 << 37
    NOTIFICATION_DATA = 1 << 38
    NOTIF_CONFIG_DATA = 1 << 39
    RING_RESET = 1 << 40
    ADMIN_VQ = 1 << 41
    DEVICE_STATS = 1 << 50
    HASH_TUNNEL = 1 << 51
    VQ_NOTF_COAL = 1 << 52
    NOTF_COAL = 1 << 53
    GUEST_USO4 = 1 << 54
    GUEST_USO6 = 1 << 55
    HOST_USO = 1 << 56
    HASH_REPORT = 1 << 57
    GUEST_HDRLEN = 1 << 59
    RSS = 1 << 60
    RSC_EXT = 1 << 61
    STANDBY = 1 << 62
    SPEED_DUPLEX = 1 << 63


class ProtocolFeature(IntFlag):
    """GET/SET_PROTOCOL_FEATURES: which vhost-user messages the two sides use."""

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    RARP = 1 << 2
    REPLY_ACK = 1 << 3
    MTU = 1 << 4
    BACKEND_REQ = 1 << 5
    CROSS_ENDIAN = 1 << 6
    CRYPTO_SESSION = 1 << 7
    PAGEFAULT = 1 << 8
    CONFIG = 1 << 9
    BACKEND_SEND_FD = 1 << 10
    HOST_NOTIFIER = 1 << 11
    INFLIGHT_SHMFD = 1 << 12
    RESET_DEVICE = 1 << 13
    INBAND_NOTIFICATIONS = 1 << 14
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16
    XEN_MMAP = 1 << 17
    SHARED_OBJECT = 1 << 18
    DEVICE_STATE = 1 << 19
    GET_VRING_BASE_INFLIGHT = 1 << 20
    GPA_ADDRESSES = 1 << 21
    SHMEM = 1 << 22
    GET_VRING_BASE_SKIP_DRAIN = 1 << 23


PROTOCOL_NEEDS: Final = (
    (ProtocolFeature.INBAND_NOTIFICATIONS, ProtocolFeature.BACKEND_REQ | ProtocolFeature.REPLY_ACK),
    (ProtocolFeature.GET_VRING_BASE_INFLIGHT, ProtocolFeature.INFLIGHT_SHMFD),
    (ProtocolFeature.GET_VRING_BASE_SKIP_DRAIN, ProtocolFeature.GET_VRING_BASE_INFLIGHT),
)
"""A bit, and those that it must not come without; in order of dependence."""

HEADER_SIZE_FEATURES = VirtioFeature.VERSION_1 | VirtioFeature.MRG_RXBUF | VirtioFeature.HASH_REPORT
"""The bits that decide how long the header in front of each frame is: 10, 12 or 20 bytes."""

RING_LAYOUT_FEATURES = (
    VirtioFeature.RING_PACKED
    | VirtioFeature.INDIRECT_DESC
    | VirtioFeature.EVENT_IDX
    | VirtioFeature.IN_ORDER
    | VirtioFeature.ACCESS_PLATFORM
)
"""The bits that decide what the words of a ring, and the addresses in it, mean."""

_PREFIXES_OF_VIRTIO = ("VIRTIO_NET_F_", "VIRTIO_RING_F_", "VIRTIO_F_", "VHOST_USER_F_", "VHOST_F_")
_PREFIXES_OF_PROTOCOL = ("VHOST_USER_PROTOCOL_F_", "PROTOCOL_F_")

_OTHER_NAMES: dict[str, VirtioFeature | ProtocolFeature] = {
    "RING_INDIRECT_DESC": VirtioFeature.INDIRECT_DESC,
    "INDIRECT": VirtioFeature.INDIRECT_DESC,
    "RING_EVENT_IDX": VirtioFeature.EVENT_IDX,
    "PACKED": VirtioFeature.RING_PACKED,
    "IOMMU_PLATFORM": VirtioFeature.ACCESS_PLATFORM,
    "NET_MTU": VirtioFeature.MTU,
    "SLAVE_REQ": ProtocolFeature.BACKEND_REQ,
    "SLAVE_SEND_FD": ProtocolFeature.BACKEND_SEND_FD,
}
"""What Linux, QEMU's properties and older texts call some of the bits."""


def feature_names(features: VirtioFeature | ProtocolFeature) -> list[str]:
    """The names of the set bits, lowest first; ``bit 45`` for one that has no name."""
    kind = type(features)
    value = int(features)
    bits = (1 << position for position in range(value.bit_length()) if value >> position & 1)
    return [kind(bit).name or f"bit {bit.bit_length() - 1}" for bit in bits]


def parse_feature(name: str) -> VirtioFeature | ProtocolFeature:
    """The bit that ``name`` means: any case, ``-`` or ``_``, with or without the prefix of its header file.

    A name that both sets have (MQ, MTU, STATUS) is the virtio bit; with ``PROTOCOL_F_`` before it, the other
    one. Raises UsageError with the nearest name.
    """
    wanted = name.strip().upper().replace("-", "_")
    sets: tuple[type[VirtioFeature] | type[ProtocolFeature], ...] = (VirtioFeature, ProtocolFeature)
    for kind, prefixes in ((ProtocolFeature, _PREFIXES_OF_PROTOCOL), (VirtioFeature, _PREFIXES_OF_VIRTIO)):
        for prefix in prefixes:
            if wanted.startswith(prefix):
                wanted, sets = wanted.removeprefix(prefix), (kind,)
    known = dict(_OTHER_NAMES)
    for kind in reversed(sets):
        known.update(kind.__members__)
    feature = known.get(wanted)
    if feature is None or not isinstance(feature, sets):
        raise UsageError(_unknown_feature(name, wanted, known))
    return feature


def _unknown_feature(name: str, wanted: str, known: dict[str, VirtioFeature | ProtocolFeature]) -> str:
    nearest = difflib.get_close_matches(wanted, known, n=1)
    hint = f"; did you mean {nearest[0].lower()}?" if nearest else "; `vhostuser features` lists them"
    return f"unknown feature {name!r}{hint}"
