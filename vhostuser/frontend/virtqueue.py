"""Split virtqueues as a driver sees them, in plain Python: the oracle for the rings in C.

Two rules keep this file the oracle:

1. It follows virtio 1.x, 2.7 line by line and trades no clarity for speed.
2. Python has no memory fence. By itself this is right in lock-step only, where one side moves at a time;
   with a back-end that runs beside it, a real fence has to be handed in (`driver.py` does).

Every word of a ring is one aligned load or store. The raw accessors at the end let a test write what no
driver would.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vhostuser.errors import PeerError
from vhostuser.frontend.big_endian import BigEndianWords, Words
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.virtqueue_base import (
    DESC_SIZE,
    MAX_SIZE,
    DescFlag,
    LentChain,
    RingPlace,
    Segment,
    Token,
    UsedChain,
    Virtqueue,
    chain_rows,
    need_event,
    no_fence,
)

__all__ = ["DescFlag", "Descriptor", "RingPlace", "Segment", "SplitVirtqueue", "UsedChain", "need_event"]

AVAIL_NO_INTERRUPT = 1
USED_NO_NOTIFY = 1


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One descriptor as it lies in memory."""

    gpa: int
    length: int
    flags: int
    next: int


class SplitVirtqueue(Virtqueue[Token]):
    """The driver's end of one split ring."""

    def __init__(
        self,
        memory: GuestMemory,
        size: int,
        *,
        event_idx: bool = False,
        in_order: bool = False,
        place: RingPlace | None = None,
        fence: Callable[[], None] = no_fence,
        big_endian: bool = False,
    ) -> None:
        """``big_endian`` is for a legacy driver of a big-endian guest: every word of the ring is so."""
        if not 1 <= size <= MAX_SIZE or size & (size - 1):
            raise ValueError(f"a split ring has a power of two up to {MAX_SIZE} entries, not {size}")
        self._big_endian = big_endian
        super().__init__(memory, size, event_idx=event_idx, in_order=in_order, place=place, fence=fence)

    @property
    def _words(self) -> Words:
        return BigEndianWords(self.memory) if self._big_endian else self.memory

    @staticmethod
    def part_sizes(size: int) -> tuple[int, int, int]:
        return DESC_SIZE * size, 6 + 2 * size, 6 + 8 * size

    def reset(self) -> None:
        self._forget_chains()
        parts = (self.place.desc, self.place.avail, self.place.used)
        for gpa, length in zip(parts, self.part_sizes(self.size), strict=True):
            self.memory.write(gpa, bytes(length))
        # First in, first out: with IN_ORDER the descriptors must be used in table order (virtio 1.x,
        # 2.7.14), and chains then come back in the order in which they were lent.
        self._free: deque[int] = deque(range(self.size))
        self._order: deque[int] = deque()
        self._avail_index = 0
        self._published = 0
        self._kick_checked = 0
        self._used_index = 0

    @property
    def free_descriptors(self) -> int:
        return len(self._free)

    @property
    def used_index(self) -> int:
        """Where the next used entry is looked for; SET_VRING_BASE after a clean stop."""
        return self._used_index

    def device_base(self) -> int:
        return self.read_used_index()

    # The driver's cycle

    def add(
        self,
        readable: Sequence[Segment],
        writable: Sequence[Segment],
        token: Token,
        *,
        indirect: bool = False,
    ) -> int | None:
        rows = chain_rows(readable, writable)
        needed = 1 if indirect else len(rows)
        if needed > len(self._free):
            return None
        taken = tuple(self._free.popleft() for _ in range(needed))
        table = None
        if indirect:
            table = self._write_table(rows)
            self.write_descriptor(taken[0], table, DESC_SIZE * len(rows), DescFlag.INDIRECT, 0)
        else:
            for (segment, flags), index, following in zip(rows, taken, (*taken[1:], None), strict=True):
                chained = DescFlag(0) if following is None else DescFlag.NEXT
                self.write_descriptor(index, segment.gpa, segment.length, flags | chained, following or 0)
        head = taken[0]
        self._chains[head] = LentChain(taken, sum(s.length for s in writable), table, token)
        self._order.append(head)
        self.write_avail_entry(self._avail_index, head)
        self._avail_index = (self._avail_index + 1) & 0xFFFF
        return head

    def _write_table(self, rows: Sequence[tuple[Segment, DescFlag]]) -> int:
        table = self.memory.alloc(DESC_SIZE * len(rows), DESC_SIZE)
        for index, (segment, flags) in enumerate(rows):
            last = index == len(rows) - 1
            chained = DescFlag(0) if last else DescFlag.NEXT
            self.write_table_entry(
                table, index, segment.gpa, segment.length, flags | chained, 0 if last else index + 1
            )
        return table

    def publish(self) -> None:
        self._fence()  # virtio 1.x, 2.7.13.3: entries before the index; pairs with the device's read of it
        self.write_avail_index(self._avail_index)
        self._published = self._avail_index

    def needs_kick(self) -> bool:
        self._fence()  # virtio 1.x, 2.7.13.4: the index before the device's wish is read
        old, new = self._kick_checked, self._published
        self._kick_checked = new
        if self.event_idx:
            return need_event(self.read_avail_event(), new, old)
        return new != old and not self.read_used_flags() & USED_NO_NOTIFY

    def take_used(self) -> list[UsedChain[Token]]:
        index = self.read_used_index()
        self._fence()  # the index before the entries; pairs with the device's write of it
        pending = (index - self._used_index) & 0xFFFF
        if pending > len(self._chains):
            raise PeerError(f"used index jumped by {pending} with {len(self._chains)} chains in flight")
        done: list[UsedChain[Token]] = []
        while len(done) < pending:
            done += self._take_one(pending - len(done))
        return done

    def _take_one(self, limit: int) -> list[UsedChain[Token]]:
        head, length = self.read_used_entry(self._used_index)
        if head not in self._chains:
            raise PeerError(f"used entry {self._used_index % self.size} names head {head}, not in flight")
        self._check_length(self._chains[head], length, f"used entry {self._used_index % self.size}")
        if not self.in_order:
            self._order.remove(head)
            return [self._release(head, length)]
        # An in-order device may write one entry for a whole batch: at the slot of the first, naming the
        # last (virtio 1.x, 2.7.9). What it skipped is used in full.
        done = []
        while (first := self._order.popleft()) != head:
            done.append(self._release(first, 0))
        done.append(self._release(head, length))
        if len(done) > limit:
            raise PeerError(f"in-order used entry for head {head} covers {len(done)} chains of {limit}")
        return done

    def _release(self, head: int, length: int) -> UsedChain[Token]:
        chain = self._chains.pop(head)
        self._free_table(chain)
        self._free.extend(chain.descriptors)
        self._used_index = (self._used_index + 1) & 0xFFFF
        return UsedChain(head, length, chain.token)

    def enable_calls(self) -> bool:
        if self.event_idx:
            self.write_used_event(self._used_index)
        self.write_avail_flags(0)
        self._fence()  # the wish before the index; pairs with the device's fence after its index
        return self.read_used_index() != self._used_index

    def disable_calls(self) -> None:
        if self.event_idx:
            self.write_used_event(self._used_index - 1)  # one behind: 65535 chains away
        self.write_avail_flags(AVAIL_NO_INTERRUPT)

    # The device's words

    def read_used_index(self) -> int:
        return self._words.load_u16(self.place.used + 2)

    def read_used_flags(self) -> int:
        return self._words.load_u16(self.place.used)

    def read_used_entry(self, slot: int) -> tuple[int, int]:
        """Head and length at `slot` modulo the ring's size."""
        at = self.place.used + 4 + 8 * (slot % self.size)
        return self._words.load_u32(at), self._words.load_u32(at + 4)

    def read_avail_event(self) -> int:
        return self._words.load_u16(self.place.used + 4 + 8 * self.size)

    # Raw: any descriptor, entry or index, right or wrong; no book is kept of it.

    def read_descriptor(self, index: int) -> Descriptor:
        at = self.place.desc + DESC_SIZE * index
        return Descriptor(
            gpa=self._words.load_u64(at),
            length=self._words.load_u32(at + 8),
            flags=self._words.load_u16(at + 12),
            next=self._words.load_u16(at + 14),
        )

    def write_descriptor(self, index: int, gpa: int, length: int, flags: int, following: int) -> None:
        self.write_table_entry(self.place.desc, index, gpa, length, flags, following)

    def write_table_entry(
        self, table: int, index: int, gpa: int, length: int, flags: int, following: int
    ) -> None:
        """Write entry `index` of the descriptor table at guest address `table`."""
        at = table + DESC_SIZE * index
        self._words.store_u64(at, gpa)
        self._words.store_u32(at + 8, length)
        self._words.store_u16(at + 12, flags)
        self._words.store_u16(at + 14, following)

    def read_avail_index(self) -> int:
        return self._words.load_u16(self.place.avail + 2)

    def write_avail_index(self, value: int) -> None:
        self._words.store_u16(self.place.avail + 2, value & 0xFFFF)

    def write_avail_flags(self, value: int) -> None:
        self._words.store_u16(self.place.avail, value)

    def write_avail_entry(self, slot: int, head: int) -> None:
        """Write avail entry `slot` modulo the ring's size."""
        self._words.store_u16(self.place.avail + 4 + 2 * (slot % self.size), head)

    def write_used_event(self, value: int) -> None:
        self._words.store_u16(self.place.avail + 4 + 2 * self.size, value & 0xFFFF)

    def offer_raw(self, head: int) -> None:
        """Publish `head` as the next chain, whatever it is, and keep no book of it."""
        self.write_avail_entry(self._avail_index, head)
        self._avail_index = (self._avail_index + 1) & 0xFFFF
        self.publish()
