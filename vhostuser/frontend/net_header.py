"""The virtio-net header in front of every frame (virtio 1.x, 5.1.6)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from vhostuser.wire.features import VirtioFeature

_FIELDS = struct.Struct("<BBHHHHH")
_BIG_ENDIAN = struct.Struct(">BBHHHHH")
"""Of a legacy guest of that byte order."""
_LEGACY_SIZE = 10
_HASH_SIZE = 20


class HeaderFlag(IntFlag):
    NEEDS_CSUM = 1
    DATA_VALID = 2
    RSC_INFO = 4


class GsoType(IntEnum):
    NONE = 0
    TCPV4 = 1
    UDP = 3
    TCPV6 = 4
    UDP_L4 = 5
    ECN = 0x80
    """Added to one of the TCP types."""


@dataclass(frozen=True, slots=True)
class NetHeader:
    """The fields by their names in the specification."""

    flags: int = 0
    gso_type: int = 0
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0
    num_buffers: int = 0

    def build(self, size: int, *, big_endian: bool = False) -> bytes:
        """The header as `size` bytes: 10 without `num_buffers`, 12 with, more with zeroes behind."""
        layout = _BIG_ENDIAN if big_endian else _FIELDS
        fields = layout.pack(
            self.flags,
            self.gso_type,
            self.hdr_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
            self.num_buffers,
        )
        return fields[:size].ljust(size, b"\0")

    @classmethod
    def parse(cls, content: bytes, *, big_endian: bool = False) -> NetHeader:
        """Of 10 bytes or more; `num_buffers` is 0 where the header is too short to have it."""
        layout = _BIG_ENDIAN if big_endian else _FIELDS
        return cls(*layout.unpack(content[: _FIELDS.size].ljust(_FIELDS.size, b"\0")))


PLAIN = NetHeader()
"""For a frame that is complete as it stands."""


def header_size(features: VirtioFeature) -> int:
    """How long the header is with these features acknowledged."""
    if VirtioFeature.HASH_REPORT in features:
        return _HASH_SIZE
    if features & (VirtioFeature.VERSION_1 | VirtioFeature.MRG_RXBUF):
        return _FIELDS.size
    return _LEGACY_SIZE
