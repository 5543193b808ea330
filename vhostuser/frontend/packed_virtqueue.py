"""Packed virtqueues as a driver sees them, in plain Python: the oracle for the packed rings in C.

The rules of `virtqueue.py` hold here, too: virtio 1.x, 2.8 line by line, no fence but the one handed in,
every word one aligned load or store. And one more:

3. Nothing is taken on trust: a used descriptor that the specification does not let a device write is a
   PeerError that names the slot and the values.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from vhostuser.errors import PeerError
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.ring_position import FIRST, RingPosition, build_base
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

_EVENT_SIZE = 4
_STATE = DescFlag.AVAIL | DescFlag.USED


class EventFlag(IntEnum):
    """When a side wants to be notified (virtio 1.x, 2.8.10)."""

    ENABLE = 0
    DISABLE = 1
    DESC = 2
    """When a given descriptor is reached; only with EVENT_IDX."""


@dataclass(frozen=True, slots=True)
class PackedDescriptor:
    """One descriptor as it lies in memory."""

    gpa: int
    length: int
    buffer_id: int
    flags: int


@dataclass(frozen=True, slots=True)
class _Head:
    """The first descriptor of a chain that is added and not yet published: its flags are still to come."""

    slot: int
    flags: int
    buffer_id: int


def available_flags(wrap: bool) -> DescFlag:
    """The two state bits of a descriptor made available with this wrap counter (virtio 1.x, 2.8.1)."""
    return DescFlag.AVAIL if wrap else DescFlag.USED


def used_flags(wrap: bool) -> DescFlag:
    """The two state bits of a descriptor given back with this wrap counter."""
    return _STATE if wrap else DescFlag(0)


class PackedVirtqueue(Virtqueue[Token]):
    """The driver's end of one packed ring, of any size.

    `start` is where both sides begin, and begin again after `reset`: the ring looks as if it had been used
    up to there, and SET_VRING_BASE has to say the same.
    """

    def __init__(
        self,
        memory: GuestMemory,
        size: int,
        *,
        event_idx: bool = False,
        in_order: bool = False,
        place: RingPlace | None = None,
        start: RingPosition = FIRST,
        fence: Callable[[], None] = no_fence,
    ) -> None:
        if not 1 <= size <= MAX_SIZE:
            raise ValueError(f"a packed ring has 1 to {MAX_SIZE} entries, not {size}")
        if not 0 <= start.slot < size:
            raise ValueError(f"a packed ring of {size} entries has no slot {start.slot} to start at")
        self._start = start
        super().__init__(memory, size, event_idx=event_idx, in_order=in_order, place=place, fence=fence)

    @staticmethod
    def part_sizes(size: int) -> tuple[int, int, int]:
        return DESC_SIZE * size, _EVENT_SIZE, _EVENT_SIZE

    def reset(self) -> None:
        self._forget_chains()
        before, after = (
            bytes(DESC_SIZE - 2) + used_flags(wrap).to_bytes(2, "little")
            for wrap in (self._start.wrap, not self._start.wrap)
        )
        slot = self._start.slot
        self.memory.write(self.place.desc, before * slot + after * (self.size - slot))
        self.memory.write(self.place.avail, bytes(_EVENT_SIZE))
        self.memory.write(self.place.used, bytes(_EVENT_SIZE))
        self._free = self.size
        self._free_ids: deque[int] = deque(range(self.size))
        self._order: deque[int] = deque()
        self._heads: list[_Head] = []
        self._lent: set[int] = set()
        self._added = 0
        self._unchecked = 0
        self._avail = self._published = self._used = self._start

    @property
    def free_descriptors(self) -> int:
        return self._free

    @property
    def used_position(self) -> RingPosition:
        """Where the next used descriptor is looked for."""
        return self._used

    @property
    def avail_position(self) -> RingPosition:
        """Where the next chain will begin."""
        return self._avail

    def device_base(self) -> int:
        position, lent, order = self._used, set(self._lent), deque(self._order)
        while lent and (descriptor := self.read_used(position)) is not None:
            for buffer_id in self._covered(descriptor.buffer_id, order, lent):
                lent.remove(buffer_id)
                position = position.moved(len(self._chains[buffer_id].descriptors), self.size)
        return build_base(position, position)

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
        if (1 if indirect else len(rows)) > self._free:
            return None
        buffer_id = self._free_ids.popleft()
        table = self._write_table(rows) if indirect else None
        if table is not None:
            taken = self._put([PackedDescriptor(table, DESC_SIZE * len(rows), buffer_id, DescFlag.INDIRECT)])
        else:
            last = len(rows) - 1
            taken = self._put(
                [
                    # The id counts in the last descriptor only (virtio 1.x, 2.8.6).
                    PackedDescriptor(segment.gpa, segment.length, buffer_id, flags)
                    if index == last
                    else PackedDescriptor(segment.gpa, segment.length, 0, flags | DescFlag.NEXT)
                    for index, (segment, flags) in enumerate(rows)
                ]
            )
        self._chains[buffer_id] = LentChain(taken, sum(s.length for s in writable), table, token)
        self._order.append(buffer_id)
        self._free -= len(taken)
        return buffer_id

    def _put(self, descriptors: Sequence[PackedDescriptor]) -> tuple[int, ...]:
        """Write one chain at the avail position, all of it but the flags of its head; the slots."""
        taken = []
        for index, descriptor in enumerate(descriptors):
            slot, flags = self._avail.slot, descriptor.flags | available_flags(self._avail.wrap)
            self._write_body(self._at(slot), descriptor.gpa, descriptor.length, descriptor.buffer_id)
            if index:
                self.write_flags(slot, flags)
            else:
                self._heads.append(_Head(slot, flags, descriptors[-1].buffer_id))
            self._avail = self._avail.moved(1, self.size)
            taken.append(slot)
        self._added += len(taken)
        return tuple(taken)

    def _write_table(self, rows: Sequence[tuple[Segment, DescFlag]]) -> int:
        """In an indirect table only WRITE counts, and the order of the entries (virtio 1.x, 2.8.7)."""
        table = self.memory.alloc(DESC_SIZE * len(rows), DESC_SIZE)
        for index, (segment, flags) in enumerate(rows):
            self.write_table_entry(table, index, segment.gpa, segment.length, 0, flags)
        return table

    def publish(self) -> None:
        self._fence()  # virtio 1.x, 2.8.14: all of a chain before its head's flags; pairs with their reader
        # Backwards, so that the device sees all of it or nothing: it goes no further than the first head.
        for head in reversed(self._heads):
            self.write_flags(head.slot, head.flags)
        self._lent.update(head.buffer_id for head in self._heads if head.buffer_id in self._chains)
        self._heads.clear()
        self._published = self._avail
        self._unchecked += self._added
        self._added = 0

    def needs_kick(self) -> bool:
        self._fence()  # virtio 1.x, 2.8.21.3: the descriptors before the device's wish is read
        moved, self._unchecked = self._unchecked, 0
        position, flags = self.read_device_event()
        if flags == EventFlag.DESC and self.event_idx and position.slot < self.size:
            new = self._published
            event = position.slot - (0 if position.wrap == new.wrap else self.size)
            return need_event(event, new.slot, new.slot - moved)
        if flags not in (EventFlag.ENABLE, EventFlag.DISABLE):
            raise PeerError(f"device event area: flags {flags} at {position} of {self.size} descriptors")
        return moved > 0 and flags == EventFlag.ENABLE

    def take_used(self) -> list[UsedChain[Token]]:
        done: list[UsedChain[Token]] = []
        while self._lent and (descriptor := self.read_used(self._used)) is not None:
            done += self._take_one(descriptor)
        return done

    def _take_one(self, descriptor: PackedDescriptor) -> list[UsedChain[Token]]:
        slot, buffer_id = self._used.slot, descriptor.buffer_id
        # Of the other flags only WRITE means something, and without it the length does not (virtio 1.x,
        # 2.8.4): DPDK's back-end leaves both as the driver wrote them.
        length = descriptor.length if descriptor.flags & DescFlag.WRITE else 0
        covered = self._covered(buffer_id, self._order, self._lent)
        self._check_length(self._chains[buffer_id], length, f"used descriptor {slot}")
        return [self._release(each, length if each == buffer_id else 0) for each in covered]

    def _covered(self, buffer_id: int, order: deque[int], lent: set[int]) -> list[int]:
        """Take out of `order` what one used descriptor gives back.

        An in-order device may write one for a whole batch: at the slot of the first, naming the last (virtio
        1.x, 2.8.9). What it skipped is used in full.
        """
        if buffer_id not in lent:
            raise PeerError(f"used descriptor names buffer {buffer_id}, not in flight")
        if not self.in_order:
            order.remove(buffer_id)
            return [buffer_id]
        covered = [order.popleft()]
        while covered[-1] != buffer_id:
            covered.append(order.popleft())
        return covered

    def _release(self, buffer_id: int, length: int) -> UsedChain[Token]:
        chain = self._chains.pop(buffer_id)
        self._free_table(chain)
        self._lent.remove(buffer_id)
        self._free_ids.append(buffer_id)
        self._free += len(chain.descriptors)
        self._used = self._used.moved(len(chain.descriptors), self.size)
        return UsedChain(buffer_id, length, chain.token)

    def enable_calls(self) -> bool:
        self.write_driver_event(self._used, EventFlag.DESC if self.event_idx else EventFlag.ENABLE)
        self._fence()  # the wish before the descriptor; pairs with the device's fence after its flags
        return bool(self._lent) and self.read_used(self._used) is not None

    def disable_calls(self) -> None:
        self.write_driver_event(self._used, EventFlag.DISABLE)

    # The device's words

    def read_used(self, position: RingPosition) -> PackedDescriptor | None:
        """The descriptor at `position` of those lent, if the device has given it back.

        PeerError when its flags fit neither side of this wrap counter.
        """
        state = self.read_flags(position.slot) & _STATE
        if state == available_flags(position.wrap):
            return None
        if state != used_flags(position.wrap):
            raise PeerError(
                f"descriptor {position.slot}: flags {state:#06x} with wrap counter {position.wrap:d}"
            )
        self._fence()  # the flags before the rest; pairs with the device's write of them
        return self.read_descriptor(position.slot)

    def read_device_event(self) -> tuple[RingPosition, int]:
        """Position and flags of the device event suppression area, from one load."""
        word = self.memory.load_u32(self.place.used)
        return RingPosition.parse(word), word >> 16

    # Raw: any descriptor or flags, right or wrong; no book is kept of it.

    def _at(self, slot: int) -> int:
        return self.place.desc + DESC_SIZE * slot

    def read_flags(self, slot: int) -> int:
        return self.memory.load_u16(self._at(slot) + 14)

    def write_flags(self, slot: int, flags: int) -> None:
        self.memory.store_u16(self._at(slot) + 14, flags)

    def read_descriptor(self, slot: int) -> PackedDescriptor:
        at = self._at(slot)
        return PackedDescriptor(
            gpa=self.memory.load_u64(at),
            length=self.memory.load_u32(at + 8),
            buffer_id=self.memory.load_u16(at + 12),
            flags=self.read_flags(slot),
        )

    def write_descriptor(self, slot: int, gpa: int, length: int, buffer_id: int, flags: int) -> None:
        """All of descriptor `slot`, state bits included."""
        self.write_table_entry(self.place.desc, slot, gpa, length, buffer_id, flags)

    def write_table_entry(
        self, table: int, index: int, gpa: int, length: int, buffer_id: int, flags: int
    ) -> None:
        """Write entry `index` of the descriptor table at guest address `table`."""
        at = table + DESC_SIZE * index
        self._write_body(at, gpa, length, buffer_id)
        self.memory.store_u16(at + 14, flags)

    def _write_body(self, at: int, gpa: int, length: int, buffer_id: int) -> None:
        self.memory.store_u64(at, gpa)
        self.memory.store_u32(at + 8, length)
        self.memory.store_u16(at + 12, buffer_id)

    def write_driver_event(self, position: RingPosition, flags: int) -> None:
        """Position and flags of the driver event suppression area, in one store."""
        self.memory.store_u32(self.place.avail, position.word | flags << 16)

    def offer_raw(self, *descriptors: PackedDescriptor) -> None:
        """Publish these as the next chain, whatever they are, and keep no book of it.

        The state bits are added: a descriptor's own flags are NEXT, WRITE and INDIRECT. What comes back is to
        be looked at with `read_used`: `take_used` knows chains of `add` only.
        """
        self._put(descriptors)
        self.publish()
