"""The virtio-net config space (virtio 1.2, 5.1.4), little-endian, for front-ends that ask us for it.

QEMU never does: it owns the MAC and the link state. Cloud Hypervisor does.
"""

from __future__ import annotations

from dataclasses import dataclass

LINK_UP = 1
ANNOUNCE = 2


@dataclass(frozen=True, slots=True)
class ConfigSpace:
    mac: bytes
    """6 bytes; zeros when the front-end keeps its own."""
    max_pairs: int
    mtu: int
    """0 when none is set."""
    status: int = LINK_UP

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`; zeros behind the fields that we have."""
        fields = (
            self.mac
            + self.status.to_bytes(2, "little")
            + self.max_pairs.to_bytes(2, "little")
            + self.mtu.to_bytes(2, "little")
        )
        return fields[offset : offset + size].ljust(size, b"\0")
