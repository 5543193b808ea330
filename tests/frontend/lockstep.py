"""A device in plain Python for the other end of a SplitVirtqueue, one move at a time.

`packed_lockstep.py` is the one for packed rings.

It shares no code with the driver's side but the memory: every offset is written out again here, so that a
mistake in one is not repeated in the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vhostuser.frontend.virtqueue_base import RingPlace


class Memory(Protocol):
    """What a device does with guest memory."""

    def read(self, gpa: int, length: int) -> bytes: ...
    def write(self, gpa: int, content: bytes) -> None: ...
    def load_u16(self, gpa: int) -> int: ...
    def store_u16(self, gpa: int, value: int) -> None: ...
    def load_u32(self, gpa: int) -> int: ...
    def store_u32(self, gpa: int, value: int) -> None: ...
    def load_u64(self, gpa: int) -> int: ...


@dataclass(frozen=True)
class Fetched:
    """A chain as the device walked it."""

    head: int
    readable: list[tuple[int, int]]
    writable: list[tuple[int, int]]


class RingDevice:
    """The device's end of one ring: what does not depend on its format."""

    memory: Memory

    def pending(self) -> int:
        """Whether a chain is there to be fetched; on a split ring, how many."""
        raise NotImplementedError

    def fetch(self) -> Fetched | None:
        """Walk the next chain, or None when there is none."""
        raise NotImplementedError

    def push(self, head: int, length: int, covers: int = 1) -> None:
        """Write one used entry; `covers` more than 1 is the in-order shortcut."""
        raise NotImplementedError

    def publish(self) -> None:
        """Make what was pushed visible to the driver."""
        raise NotImplementedError

    def wants_call(self) -> bool:
        """Whether the driver asked for a call since this was last asked."""
        raise NotImplementedError

    def sleep(self) -> None:
        """Ask for a kick at the next chain."""
        raise NotImplementedError

    def poll(self) -> None:
        """Ask for no kicks."""
        raise NotImplementedError

    def base(self) -> int:
        """What GET_VRING_BASE answers."""
        raise NotImplementedError

    def fetch_all(self) -> list[Fetched]:
        chains = []
        while (chain := self.fetch()) is not None:
            chains.append(chain)
        return chains

    def read(self, chain: Fetched) -> bytes:
        return b"".join(self.memory.read(gpa, length) for gpa, length in chain.readable)

    def fill(self, chain: Fetched, content: bytes) -> int:
        """Write as much of `content` as fits into the chain; how many bytes that was."""
        done = 0
        for gpa, length in chain.writable:
            piece = content[done : done + length]
            self.memory.write(gpa, piece)
            done += len(piece)
        return done


class LockstepDevice(RingDevice):
    """The device's end of one split ring."""

    def __init__(self, memory: Memory, size: int, place: RingPlace, *, event_idx: bool = False) -> None:
        self.memory = memory
        self.size = size
        self.place = place
        self.event_idx = event_idx
        self.avail_index = 0
        self.used_index = 0
        self.call_checked = 0

    def pending(self) -> int:
        return (self.memory.load_u16(self.place.avail + 2) - self.avail_index) & 0xFFFF

    def fetch(self) -> Fetched | None:
        if not self.pending():
            return None
        slot = self.avail_index % self.size
        self.avail_index = (self.avail_index + 1) & 0xFFFF
        head = self.memory.load_u16(self.place.avail + 4 + slot * 2)
        chain = Fetched(head, [], [])
        table, count, index = self.place.desc, self.size, head
        for _ in range(1024):
            at = table + index * 16
            gpa, length = self.memory.load_u64(at), self.memory.load_u32(at + 8)
            flags, following = self.memory.load_u16(at + 12), self.memory.load_u16(at + 14)
            assert index < count
            if flags & 4:
                assert not flags & 1
                assert length % 16 == 0
                table, count, index = gpa, length // 16, 0
                continue
            (chain.writable if flags & 2 else chain.readable).append((gpa, length))
            if not flags & 1:
                return chain
            index = following
        raise AssertionError(f"chain at head {head} has no end")

    def push(self, head: int, length: int, covers: int = 1) -> None:
        at = self.place.used + 4 + 8 * (self.used_index % self.size)
        self.memory.store_u32(at, head)
        self.memory.store_u32(at + 4, length)
        self.used_index = (self.used_index + covers) & 0xFFFF

    def publish(self) -> None:
        self.memory.store_u16(self.place.used + 2, self.used_index)

    def wants_call(self) -> bool:
        # virtio 1.x, 2.7.7.2
        old, self.call_checked = self.call_checked, self.used_index
        if not self.event_idx:
            return not self.memory.load_u16(self.place.avail) & 1
        event = self.memory.load_u16(self.place.avail + 4 + 2 * self.size)
        return (self.used_index - event - 1) % 65536 < (self.used_index - old) % 65536

    def sleep(self) -> None:
        if self.event_idx:
            self.memory.store_u16(self.place.used + 4 + 8 * self.size, self.avail_index)
        else:
            self.memory.store_u16(self.place.used, 0)

    def poll(self) -> None:
        if self.event_idx:
            self.memory.store_u16(self.place.used + 4 + 8 * self.size, (self.avail_index - 1) & 0xFFFF)
        else:
            self.memory.store_u16(self.place.used, 1)

    def base(self) -> int:
        return self.avail_index
