"""What is legal in an argument, as far as it can be said without a device. Numbers in, RequestError out.

Each text holds the value that is wrong; the session puts the request and the ring in front of it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from vhostuser.errors import RequestError
from vhostuser.session.replies import EndsConnection
from vhostuser.wire import constants as c
from vhostuser.wire.features import (
    HEADER_SIZE_FEATURES,
    PROTOCOL_NEEDS,
    RING_LAYOUT_FEATURES,
    ProtocolFeature,
    VirtioFeature,
    feature_names,
)
from vhostuser.wire.payloads import Iotlb, VringAddr

MIN_MTU: Final = 68
MAX_MTU: Final = 65535
"""VIRTIO_NET_F_MTU: virtio specification, "Device configuration layout" of the network device."""

_SPLIT_ALIGNMENT: Final = (("desc", 16), ("avail", 2), ("used", 4))
_PACKED_ALIGNMENT: Final = (("desc", 16), ("avail", 4), ("used", 4))
"""Virtio specification, "Split Virtqueues" and "Packed Virtqueues": descriptors, driver area, device area."""

_MULTICAST: Final = 0x01
_ADDRESS_END: Final = 1 << 64


def check_vring_index(index: int, vring_count: int) -> None:
    if index >= vring_count:
        raise RequestError(f"index out of range, this device serves {vring_count} rings")


def check_vring_num(num: int, is_packed: bool) -> None:
    if not 1 <= num <= c.MAX_VRING_SIZE:
        raise RequestError(f"size {num}, expected 1 to {c.MAX_VRING_SIZE}")
    if not is_packed and num & (num - 1):
        raise RequestError(f"size {num} is not a power of two, as a split ring needs")


def check_vring_base(base: int, is_packed: bool) -> None:
    """A packed ring's base fills the 32 bits of its field: two slots and two wrap bits."""
    if not is_packed and base > 0xFFFF:
        raise RequestError(f"base {base:#x}, a split ring's is 16 bits")


def check_vring_addr(addr: VringAddr, is_packed: bool) -> None:
    if addr.flags & ~c.VRING_F_LOG:
        raise RequestError(f"flags {addr.flags:#x}, only {c.VRING_F_LOG:#x} is defined")
    for part, alignment in _PACKED_ALIGNMENT if is_packed else _SPLIT_ALIGNMENT:
        address: int = getattr(addr, part)
        if address % alignment:
            raise RequestError(f"{part} at {address:#x} is not aligned to {alignment}")
    if len({addr.desc, addr.avail, addr.used}) < 3:
        raise RequestError(f"desc {addr.desc:#x}, avail {addr.avail:#x}, used {addr.used:#x}: two are one")


def check_vring_unmoved(old: VringAddr, new: VringAddr) -> None:
    """A started ring stays where it is; only the log flag and the log address may change."""
    for part, _ in _SPLIT_ALIGNMENT:
        if getattr(old, part) != getattr(new, part):
            before, after = getattr(old, part), getattr(new, part)
            raise RequestError(f"{part} moves from {before:#x} to {after:#x} while the ring is started")


def check_vring_endian(num: int, features: VirtioFeature) -> None:
    if num not in (0, 1):
        raise RequestError(f"{num} is neither 0 (little-endian) nor 1 (big-endian)")
    modern = features & (VirtioFeature.VERSION_1 | VirtioFeature.RING_PACKED)
    if num and modern:
        raise RequestError(
            f"big-endian with {', '.join(feature_names(modern))}: only a legacy guest's rings are"
        )


def check_vring_enable(num: int) -> None:
    if num not in (0, 1):
        raise RequestError(f"{num} is neither 0 (disable) nor 1 (enable)")


def check_vring_kick(num: int) -> None:
    if num:
        raise RequestError(f"num is {num}, which is reserved and has to be 0")


def check_features_offered(
    acked: VirtioFeature | ProtocolFeature, offered: VirtioFeature | ProtocolFeature
) -> None:
    surplus = type(acked)(int(acked) & ~int(offered))
    if surplus:
        raise RequestError(f"{int(acked):#x} has what was not offered: {', '.join(feature_names(surplus))}")


def check_protocol_needs(acked: ProtocolFeature) -> None:
    """A mistake that can be told in no other way than by the end of the connection (specification, "In-band
    notifications"): whoever makes it may not have REPLY_ACK."""
    for dependent, needed in PROTOCOL_NEEDS:
        if dependent in acked and needed not in acked:
            lacking = ", ".join(feature_names(needed & ~acked))
            raise EndsConnection(f"{int(acked):#x} has {dependent.name} without {lacking}")


def check_features_while_started(old: VirtioFeature, new: VirtioFeature) -> None:
    """With a ring started, what its words and headers mean stays; LOG_ALL and offloads may change."""
    changed = (old ^ new) & (HEADER_SIZE_FEATURES | RING_LAYOUT_FEATURES)
    if changed:
        names = ", ".join(feature_names(changed))
        raise RequestError(f"{names} can change only while every ring is stopped")


def check_status(status: int) -> None:
    if status > 0xFF:
        raise RequestError(f"status {status:#x}, a device status has 8 bits")


def check_mtu(mtu: int) -> None:
    if not MIN_MTU <= mtu <= MAX_MTU:
        raise RequestError(f"MTU {mtu}, expected {MIN_MTU} to {MAX_MTU}")


def check_mac(mac: bytes) -> None:
    if mac[0] & _MULTICAST:
        raise RequestError(f"{mac.hex(':')} is a multicast address")


def check_transfer(direction: int, phase: int) -> None:
    if direction not in (c.TRANSFER_SAVE, c.TRANSFER_LOAD):
        raise RequestError(
            f"direction {direction}, expected {c.TRANSFER_SAVE} (save) or {c.TRANSFER_LOAD} (load)"
        )
    if phase != c.TRANSFER_PHASE_STOPPED:
        raise RequestError(f"phase {phase}, only {c.TRANSFER_PHASE_STOPPED} (all rings stopped) is defined")


def check_suspended(started: Collection[int]) -> None:
    """``started``: the rings that are."""
    if started:
        rings = ", ".join(map(str, sorted(started)))
        raise RequestError(f"rings {rings} are started; stop them with GET_VRING_BASE first")


def check_iotlb(message: Iotlb) -> None:
    """Of an invalidation every range is legal: to forget too much is never wrong."""
    if message.type not in (c.IotlbType.UPDATE, c.IotlbType.INVALIDATE):
        raise RequestError(f"type {message.type}, expected 2 (update) or 3 (invalidate)")
    if message.type == c.IotlbType.INVALIDATE:
        return
    if message.perm not in (1, 2, 3):
        raise RequestError(f"access {message.perm}, expected 1 (read), 2 (write) or 3 (both)")
    for what, start in (("I/O", message.iova), ("user", message.uva)):
        if message.size == 0 or start + message.size > _ADDRESS_END:
            raise RequestError(f"{message.size:#x} bytes at {what} address {start:#x} are no range")


def check_config_window(offset: int, size: int) -> None:
    if offset + size > c.CONFIG_SPACE_SIZE:
        raise RequestError(
            f"{size} bytes at offset {offset} reach beyond the {c.CONFIG_SPACE_SIZE} of the config space"
        )


def check_config_write(offset: int, size: int, content: bytes, flags: int) -> None:
    check_config_window(offset, size)
    if len(content) != size:
        raise RequestError(f"{len(content)} bytes came, the size field says {size}")
    if flags not in (c.CONFIG_WRITABLE, c.CONFIG_MIGRATION):
        raise RequestError(f"flags {flags:#x}, expected {c.CONFIG_WRITABLE} or {c.CONFIG_MIGRATION}")
