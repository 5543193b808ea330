"""The portable record of a virtio-net device: what DEVICE_STATE takes from one host to another.

::

    8 bytes   "VHOSTNET"
    u16       version
    u16       0
    u32       length of the body
    body      msgpack: a map by the names of `NetRecord`

All little-endian. Positions of rings are not in it, for the front-end has them, nor anything that only means
something on one host. What the guest has set by commands is: only we know it. A record comes from a
front-end, which may have made it up: `decode` believes nothing. A change of what is in it, however small, is
a new version.
"""

from __future__ import annotations

import struct
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from vhostuser.errors import RequestError
from vhostuser.net.control_queue import GUEST_OFFLOADS, GuestSettings
from vhostuser.net.receive_modes import MAX_OF_KIND, VLANS, ReceiveModes
from vhostuser.session.checks import check_mac, check_mtu
from vhostuser.wire.constants import MAX_VRINGS
from vhostuser.wire.features import VirtioFeature

VERSION: Final = 2
MAX_RECORD: Final = 1 << 18
"""Bytes; one of 256 rings with every counter at its largest has half of it."""
MAX_MACS: Final = 16

_MAGIC = b"VHOSTNET"
_HEAD = struct.Struct("<8sHHI")

# As far as msgspec can compare; a counter of frames reaches it after 10,000 years.
_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Index = Annotated[int, Meta(ge=0, lt=MAX_VRINGS)]
_Reason = Annotated[str, Meta(min_length=1, max_length=64)]
_Mac = Annotated[bytes, Meta(min_length=6, max_length=6)]
_Features = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Macs = Annotated[frozenset[_Mac], Meta(max_length=MAX_OF_KIND)] | None
_Vlan = Annotated[int, Meta(ge=0, lt=VLANS)]


class RingRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one ring has done; the fields are those of `datapath.vring.VringCounters`."""

    packets: _Count
    bytes: _Count
    chains: _Count
    bursts: _Count
    kicks: _Count
    calls: _Count
    calls_suppressed: _Count
    offloads: _Count
    linearised: _Count
    bases_corrected: _Count
    drops: Annotated[dict[_Reason, _Count], Meta(max_length=64)]


class ModesRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which frames the guest wants; the fields are those of `receive_modes.ReceiveModes`."""

    promiscuous: bool
    all_multicast: bool
    all_unicast: bool
    no_multicast: bool
    no_unicast: bool
    no_broadcast: bool
    unicast: _Macs
    multicast: _Macs
    vlans: Annotated[frozenset[_Vlan], Meta(max_length=VLANS)]


class ControlRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the guest has set on its control ring; the fields are those of `control_queue.GuestSettings`."""

    pairs: Annotated[int, Meta(ge=1, le=MAX_VRINGS // 2)]
    offloads: _Features
    receive: ModesRecord
    mac: _Mac | None

    def settings(self) -> GuestSettings:
        modes = {**msgspec.structs.asdict(self.receive), "vlans": set(self.receive.vlans)}
        return GuestSettings(
            self.pairs, VirtioFeature(self.offloads), ReceiveModes(**modes), self.mac, has_moved=True
        )


class NetRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rings: dict[_Index, RingRecord]
    features: _Features
    """Virtio features in force, which decide what the port does for the guest."""
    mtu: _Count
    """What the front-end has set with NET_SET_MTU; 0 for nothing."""
    macs: Annotated[tuple[_Mac, ...], Meta(max_length=MAX_MACS)]
    """Addresses of the guest that were announced with SEND_RARP, the latest last."""
    control: ControlRecord


def control_record(settings: GuestSettings) -> ControlRecord:
    return msgspec.convert(settings, ControlRecord, from_attributes=True)


def encode(record: NetRecord) -> bytes:
    body = msgspec.msgpack.encode(record)
    return _HEAD.pack(_MAGIC, VERSION, 0, len(body)) + body


def decode(content: bytes) -> NetRecord:
    """Raises RequestError with what is wrong. Every value of what is returned is in its range."""
    if len(content) < _HEAD.size:
        raise RequestError(f"a state of {len(content)} bytes is shorter than its head of {_HEAD.size}")
    magic, version, _, length = _HEAD.unpack_from(content)
    if magic != _MAGIC:
        raise RequestError(f"a state that begins with {magic.hex()} is not one of a vhostuser network device")
    if version != VERSION:
        age = "a newer" if version > VERSION else "an older"
        raise RequestError(f"the state was saved by {age} version: {version}, where {VERSION} is known")
    body = content[_HEAD.size :]
    if len(body) != length:
        raise RequestError(f"a state of {len(body)} bytes behind its head, which says {length}")
    try:
        record = msgspec.msgpack.decode(body, type=NetRecord)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RequestError(f"the state cannot be read: {error}") from error
    if record.mtu:
        check_mtu(record.mtu)
    if record.control.offloads & ~int(GUEST_OFFLOADS):
        raise RequestError(f"offloads {record.control.offloads:#x} are not only such that a guest can set")
    for mac in (*record.macs, *([record.control.mac] if record.control.mac else [])):
        check_mac(mac)
    return record
