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
from enum import IntFlag
from typing import Generic, TypeVar

from vhostuser.errors import PeerError
from vhostuser.frontend.guest_memory import GuestMemory

Token = TypeVar("Token")

MAX_SIZE = 32768
AVAIL_NO_INTERRUPT = 1
USED_NO_NOTIFY = 1
_DESC_SIZE = 16


class DescFlag(IntFlag):
    """Descriptor flags (virtio 1.x, 2.7.5)."""

    NEXT = 1
    WRITE = 2
    INDIRECT = 4


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece of guest memory."""

    gpa: int
    length: int


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One descriptor as it lies in memory."""

    gpa: int
    length: int
    flags: int
    next: int


@dataclass(frozen=True, slots=True)
class RingPlace:
    """Guest addresses of the three parts of a split ring."""

    desc: int
    avail: int
    used: int


@dataclass(frozen=True, slots=True)
class UsedChain(Generic[Token]):
    """A chain that the device has given back."""

    head: int
    length: int
    """Bytes written by the device; 0 for a chain that an in-order device skipped over."""
    token: Token


@dataclass(frozen=True, slots=True)
class _Chain(Generic[Token]):
    descriptors: tuple[int, ...]
    table: int | None
    token: Token


def need_event(event: int, new: int, old: int) -> bool:
    """Whether moving an index from `old` to `new` passed `event` (virtio 1.x, 2.7.10)."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


def no_fence() -> None:
    """The fence of lock-step use: none."""


class SplitVirtqueue(Generic[Token]):
    """The driver's end of one split ring.

    A cycle is: `add` any number of chains, `publish`, and kick if `needs_kick`. Then `take_used`. The
    ring's memory comes from `memory` and goes back at `close`; buffers are the caller's.
    """

    def __init__(
        self,
        memory: GuestMemory,
        size: int,
        *,
        event_idx: bool = False,
        in_order: bool = False,
        place: RingPlace | None = None,
        fence: Callable[[], None] = no_fence,
    ) -> None:
        if not 1 <= size <= MAX_SIZE or size & (size - 1):
            raise ValueError(f"a split ring has a power of two up to {MAX_SIZE} entries, not {size}")
        self.memory = memory
        self.size = size
        self.event_idx = event_idx
        self.in_order = in_order
        self._fence = fence
        self._owned = place is None
        self.place = place or RingPlace(
            desc=memory.alloc(_DESC_SIZE * size),
            avail=memory.alloc(6 + 2 * size),
            used=memory.alloc(6 + 8 * size),
        )
        self.reset()

    def reset(self) -> None:
        """Zero the ring and forget every chain in flight, as a driver does after a device reset."""
        for chain in getattr(self, "_chains", {}).values():
            self._free_table(chain)
        self.memory.write(self.place.desc, bytes(_DESC_SIZE * self.size))
        self.memory.write(self.place.avail, bytes(6 + 2 * self.size))
        self.memory.write(self.place.used, bytes(6 + 8 * self.size))
        # First in, first out: with IN_ORDER the descriptors must be used in table order (virtio 1.x,
        # 2.7.14), and chains then come back in the order in which they were lent.
        self._free: deque[int] = deque(range(self.size))
        self._chains: dict[int, _Chain[Token]] = {}
        self._order: deque[int] = deque()
        self._avail_index = 0
        self._published = 0
        self._kick_checked = 0
        self._used_index = 0

    def close(self) -> list[Token]:
        """Give the ring's memory back; the device must have stopped. The tokens of chains still in flight."""
        chains, self._chains = self._chains, {}
        for chain in chains.values():
            self._free_table(chain)
        if self._owned:
            for gpa in (self.place.desc, self.place.avail, self.place.used):
                self.memory.free(gpa)
        self._owned = False
        return [chain.token for chain in chains.values()]

    @property
    def user_place(self) -> RingPlace:
        """The three addresses as SET_VRING_ADDR has to say them."""
        return RingPlace(
            desc=self.memory.user_address(self.place.desc),
            avail=self.memory.user_address(self.place.avail),
            used=self.memory.user_address(self.place.used),
        )

    @property
    def free_descriptors(self) -> int:
        return len(self._free)

    @property
    def outstanding(self) -> int:
        """Chains that the device has, or that are added and not yet published."""
        return len(self._chains)

    @property
    def used_index(self) -> int:
        """Where the next used entry is looked for; SET_VRING_BASE after a clean stop."""
        return self._used_index

    # The driver's cycle

    def add(
        self,
        readable: Sequence[Segment],
        writable: Sequence[Segment],
        token: Token,
        *,
        indirect: bool = False,
    ) -> int | None:
        """Queue one chain, not yet visible to the device; its head, or None when the ring has no room.

        Readable segments come before writable ones (virtio 1.x, 2.7.4.2). With `indirect` the chain
        takes one descriptor and a table of its own; the feature must have been negotiated.
        """
        if not readable and not writable:
            raise ValueError("a chain needs at least one segment")
        rows = [(s, DescFlag(0)) for s in readable] + [(s, DescFlag.WRITE) for s in writable]
        needed = 1 if indirect else len(rows)
        if needed > len(self._free):
            return None
        taken = tuple(self._free.popleft() for _ in range(needed))
        table = None
        if indirect:
            table = self._write_table(rows)
            self.write_descriptor(taken[0], table, _DESC_SIZE * len(rows), DescFlag.INDIRECT, 0)
        else:
            for (segment, flags), index, following in zip(rows, taken, (*taken[1:], None), strict=True):
                chained = DescFlag(0) if following is None else DescFlag.NEXT
                self.write_descriptor(index, segment.gpa, segment.length, flags | chained, following or 0)
        head = taken[0]
        self._chains[head] = _Chain(taken, table, token)
        self._order.append(head)
        self.write_avail_entry(self._avail_index, head)
        self._avail_index = (self._avail_index + 1) & 0xFFFF
        return head

    def _write_table(self, rows: Sequence[tuple[Segment, DescFlag]]) -> int:
        table = self.memory.alloc(_DESC_SIZE * len(rows), _DESC_SIZE)
        for index, (segment, flags) in enumerate(rows):
            last = index == len(rows) - 1
            chained = DescFlag(0) if last else DescFlag.NEXT
            self.write_table_entry(
                table, index, segment.gpa, segment.length, flags | chained, 0 if last else index + 1
            )
        return table

    def publish(self) -> None:
        """Make every added chain visible to the device."""
        self._fence()  # virtio 1.x, 2.7.13.3: entries before the index; pairs with the device's read of it
        self.write_avail_index(self._avail_index)
        self._published = self._avail_index

    def needs_kick(self) -> bool:
        """Whether the device asked to hear of what was published since this was last asked."""
        self._fence()  # virtio 1.x, 2.7.13.4: the index before the device's wish is read
        old, new = self._kick_checked, self._published
        self._kick_checked = new
        if self.event_idx:
            return need_event(self.read_avail_event(), new, old)
        return new != old and not self.read_used_flags() & USED_NO_NOTIFY

    def take_used(self) -> list[UsedChain[Token]]:
        """Everything that the device has given back since the last call.

        PeerError when the device gives back what it never had: the ring is of no use afterwards.
        """
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

    def _free_table(self, chain: _Chain[Token]) -> None:
        if chain.table is not None:
            self.memory.free(chain.table)

    def enable_calls(self) -> bool:
        """Ask for a call at the next used chain; True when one is there already, so do not sleep."""
        if self.event_idx:
            self.write_used_event(self._used_index)
        self.write_avail_flags(0)
        self._fence()  # the wish before the index; pairs with the device's fence after its index
        return self.read_used_index() != self._used_index

    def disable_calls(self) -> None:
        """Ask for no calls; a hint, the device may call all the same."""
        if self.event_idx:
            self.write_used_event(self._used_index - 1)  # one behind: 65535 chains away
        self.write_avail_flags(AVAIL_NO_INTERRUPT)

    # The device's words

    def read_used_index(self) -> int:
        return self.memory.load_u16(self.place.used + 2)

    def read_used_flags(self) -> int:
        return self.memory.load_u16(self.place.used)

    def read_used_entry(self, slot: int) -> tuple[int, int]:
        """Head and length at `slot` modulo the ring's size."""
        at = self.place.used + 4 + 8 * (slot % self.size)
        return self.memory.load_u32(at), self.memory.load_u32(at + 4)

    def read_avail_event(self) -> int:
        return self.memory.load_u16(self.place.used + 4 + 8 * self.size)

    # Raw: any descriptor, entry or index, right or wrong; no book is kept of it.

    def read_descriptor(self, index: int) -> Descriptor:
        at = self.place.desc + _DESC_SIZE * index
        return Descriptor(
            gpa=self.memory.load_u64(at),
            length=self.memory.load_u32(at + 8),
            flags=self.memory.load_u16(at + 12),
            next=self.memory.load_u16(at + 14),
        )

    def write_descriptor(self, index: int, gpa: int, length: int, flags: int, following: int) -> None:
        self.write_table_entry(self.place.desc, index, gpa, length, flags, following)

    def write_table_entry(
        self, table: int, index: int, gpa: int, length: int, flags: int, following: int
    ) -> None:
        """Write entry `index` of the descriptor table at guest address `table`."""
        at = table + _DESC_SIZE * index
        self.memory.store_u64(at, gpa)
        self.memory.store_u32(at + 8, length)
        self.memory.store_u16(at + 12, flags)
        self.memory.store_u16(at + 14, following)

    def read_avail_index(self) -> int:
        return self.memory.load_u16(self.place.avail + 2)

    def write_avail_index(self, value: int) -> None:
        self.memory.store_u16(self.place.avail + 2, value & 0xFFFF)

    def write_avail_flags(self, value: int) -> None:
        self.memory.store_u16(self.place.avail, value)

    def write_avail_entry(self, slot: int, head: int) -> None:
        """Write avail entry `slot` modulo the ring's size."""
        self.memory.store_u16(self.place.avail + 4 + 2 * (slot % self.size), head)

    def write_used_event(self, value: int) -> None:
        self.memory.store_u16(self.place.avail + 4 + 2 * self.size, value & 0xFFFF)

    def offer_raw(self, head: int) -> None:
        """Publish `head` as the next chain, whatever it is, and keep no book of it."""
        self.write_avail_entry(self._avail_index, head)
        self._avail_index = (self._avail_index + 1) & 0xFFFF
        self.publish()
