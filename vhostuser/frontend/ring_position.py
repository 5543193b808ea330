"""Positions in a packed ring: a slot and a wrap counter, and the two of them that SET_VRING_BASE carries.

A split ring's position is its 16-bit index and needs no type.
"""

from __future__ import annotations

from dataclasses import dataclass

from vhostuser.errors import PeerError

_WRAP = 1 << 15


@dataclass(frozen=True, slots=True)
class RingPosition:
    """A slot, and the wrap counter with which it is reached (virtio 1.x, 2.8.1)."""

    slot: int
    wrap: bool

    @classmethod
    def parse(cls, word: int) -> RingPosition:
        """Bits 0-14 slot, bit 15 wrap counter: as in event suppression areas and halves of a base."""
        return cls(word & (_WRAP - 1), bool(word & _WRAP))

    @property
    def word(self) -> int:
        """What `parse` takes."""
        return self.slot | (_WRAP if self.wrap else 0)

    def moved(self, count: int, size: int) -> RingPosition:
        """`count` descriptors on in a ring of `size`, at most once around."""
        slot = self.slot + count
        if slot < size:
            return RingPosition(slot, self.wrap)
        return RingPosition(slot - size, not self.wrap)


FIRST = RingPosition(0, True)
"""Where both sides of a new ring are."""


def build_base(avail: RingPosition, used: RingPosition) -> int:
    """The number of SET_VRING_BASE: the next available descriptor below, the next used one above."""
    return avail.word | used.word << 16


def parse_base(number: int, size: int) -> tuple[RingPosition, RingPosition]:
    """The next available and the next used position out of an answer to GET_VRING_BASE.

    Back-ends that know one position only, as DPDK's, leave the upper half 0: it is then both. PeerError for
    a slot that a ring of `size` does not have.
    """
    avail = RingPosition.parse(number)
    used = RingPosition.parse(number >> 16) if number >> 16 else avail
    if max(avail.slot, used.slot) >= size:
        raise PeerError(f"base {number:#010x} lies outside a packed ring of {size} descriptors")
    return avail, used


FIRST_BASE = build_base(FIRST, FIRST)
