"""A device in plain Python for the other end of a PackedVirtqueue, one move at a time.

As `lockstep.py`, it shares nothing with the driver's side but the memory: positions are counted here as
descriptors since the ring was new, and slots and wrap counters follow from that.
"""

from __future__ import annotations

from tests.frontend.lockstep import Fetched, Memory, RingDevice
from vhostuser.frontend.virtqueue_base import RingPlace

NEXT, WRITE, INDIRECT, AVAIL, USED = 1, 2, 4, 0x80, 0x8000


class PackedLockstepDevice(RingDevice):
    """The device's end of one packed ring, beginning where SET_VRING_BASE says."""

    def __init__(
        self, memory: Memory, size: int, place: RingPlace, *, event_idx: bool = False, base: int = 0x8000_8000
    ) -> None:
        self.memory = memory
        self.size = size
        self.place = place
        self.event_idx = event_idx
        self.avail = self.count_of(base & 0xFFFF)
        # What knows one position only, as DPDK does, leaves the other 0.
        self.used = self.count_of(base >> 16) if base >> 16 else self.avail
        self.called = self.used
        self.fetched: list[tuple[int, int]] = []
        """Id and number of descriptors of each chain in hand, in order."""
        self.held: tuple[int, int] | None = None
        """Address and flags of the first used descriptor that is not yet published."""

    def count_of(self, word: int) -> int:
        """The counter that has this slot and wrap counter; even laps have wrap counter 1."""
        assert word & 0x7FFF < self.size
        return (word & 0x7FFF) + (0 if word & 0x8000 else self.size)

    def word_of(self, count: int) -> int:
        lap, slot = divmod(count, self.size)
        return slot | (0x8000 if lap % 2 == 0 else 0)

    def wrap(self, count: int) -> bool:
        return count // self.size % 2 == 0

    def at(self, count: int) -> int:
        return self.place.desc + 16 * (count % self.size)

    def pending(self) -> int:
        flags = self.memory.load_u16(self.at(self.avail) + 14)
        wrap = self.wrap(self.avail)
        return int(bool(flags & AVAIL) == wrap and bool(flags & USED) != wrap)

    def fetch(self) -> Fetched | None:
        if not self.pending():
            return None
        first = self.avail
        chain = Fetched(-1, [], [])
        while True:
            at = self.at(self.avail)
            gpa, length = self.memory.load_u64(at), self.memory.load_u32(at + 8)
            buffer_id, flags = self.memory.load_u16(at + 12), self.memory.load_u16(at + 14)
            wrap = self.wrap(self.avail)
            # All of a chain carries the state bits, not only its head (virtio 1.x, 2.8.6).
            assert (bool(flags & AVAIL), bool(flags & USED)) == (wrap, not wrap)
            self.avail += 1
            if flags & INDIRECT:
                assert not flags & NEXT
                assert length
                assert length % 16 == 0
                for entry in range(gpa, gpa + length, 16):
                    self.take_row(chain, entry)
            else:
                self.take_row(chain, at)
            if not flags & NEXT:
                break
            assert self.avail - first < self.size, "a chain longer than the ring"
        self.fetched.append((buffer_id, self.avail - first))
        return Fetched(buffer_id, chain.readable, chain.writable)

    def take_row(self, chain: Fetched, at: int) -> None:
        row = self.memory.load_u64(at), self.memory.load_u32(at + 8)
        if self.memory.load_u16(at + 14) & WRITE:
            chain.writable.append(row)
        else:
            assert not chain.writable, "readable after writable"
            chain.readable.append(row)

    def push(self, head: int, length: int, covers: int = 1) -> None:
        at = self.at(self.used)
        flags = (AVAIL | USED if self.wrap(self.used) else 0) | (WRITE if length else 0)
        self.memory.store_u32(at + 8, length)
        self.memory.store_u16(at + 12, head)
        # The first of a batch becomes visible last, and with it all.
        if self.held is None:
            self.held = at + 14, flags
        else:
            self.memory.store_u16(at + 14, flags)
        self.used += self.forget(head, covers)

    def forget(self, head: int, covers: int) -> int:
        """Let go of a chain, or of as many as precede it in order; how many descriptors that frees."""
        last = next((index for index, (buffer_id, _) in enumerate(self.fetched) if buffer_id == head), None)
        if last is None:
            return 1
        gone = self.fetched[last + 1 - covers : last + 1]
        del self.fetched[last + 1 - covers : last + 1]
        return sum(count for _, count in gone)

    def publish(self) -> None:
        if self.held is not None:
            self.memory.store_u16(*self.held)
            self.held = None

    def wants_call(self) -> bool:
        old, self.called = self.called, self.used
        word = self.memory.load_u32(self.place.avail)
        flags = word >> 16
        assert flags in ((0, 1, 2) if self.event_idx else (0, 1))
        if flags == 2:
            # The driver's position is at or behind ours, less than a lap (virtio 1.x, 2.8.10).
            asked = next(
                c for c in range(self.used, self.used - 2 * self.size, -1) if self.word_of(c) == word & 0xFFFF
            )
            return old <= asked < self.used
        return flags == 0 and self.used != old

    def sleep(self) -> None:
        flags = 2 if self.event_idx else 0
        self.memory.store_u32(self.place.used, self.word_of(self.avail) | flags << 16)

    def poll(self) -> None:
        self.memory.store_u32(self.place.used, 1 << 16)

    def base(self) -> int:
        return self.word_of(self.avail) | self.word_of(self.used) << 16
