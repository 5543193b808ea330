"""What virtqueues of both formats are to who uses them: segments in, chains back.

Here: the words of the interface, the interface, and what needs no ring: the rows of a chain, indirect tables
and memory given back. Not here: the rings. `virtqueue.py` is the split one, `packed_virtqueue.py` the packed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Generic, TypeVar

from vhostuser.errors import PeerError
from vhostuser.frontend.guest_memory import GuestMemory

Token = TypeVar("Token")

MAX_SIZE = 32768
DESC_SIZE = 16


class DescFlag(IntFlag):
    """Descriptor flags (virtio 1.x, 2.7.5 and 2.8)."""

    NEXT = 1
    WRITE = 2
    INDIRECT = 4
    AVAIL = 1 << 7
    """Packed rings only, as USED."""
    USED = 1 << 15


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece of guest memory."""

    gpa: int
    length: int


@dataclass(frozen=True, slots=True)
class RingPlace:
    """Addresses of the three parts of a ring, by the names that SET_VRING_ADDR has for them.

    Of a packed ring `avail` is the driver's event suppression area and `used` the device's.
    """

    desc: int
    avail: int
    used: int


@dataclass(frozen=True, slots=True)
class UsedChain(Generic[Token]):
    """A chain that the device has given back."""

    head: int
    """What `add` returned for it: the first descriptor's index, on a packed ring the buffer id."""
    length: int
    """Bytes written by the device; 0 for a chain that an in-order device skipped over."""
    token: Token


@dataclass(frozen=True, slots=True)
class LentChain(Generic[Token]):
    """A chain from `add` until the device has given it back."""

    descriptors: tuple[int, ...]
    """The descriptors of the ring that it takes."""
    room: int
    """Bytes that the device may write."""
    table: int | None
    token: Token


def need_event(event: int, new: int, old: int) -> bool:
    """Whether moving an index from `old` to `new` passed `event` (virtio 1.x, 2.7.10)."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


def no_fence() -> None:
    """The fence of lock-step use: none."""


def chain_rows(readable: Sequence[Segment], writable: Sequence[Segment]) -> list[tuple[Segment, DescFlag]]:
    """The segments of a chain in their order, each with WRITE or nothing; ValueError for none at all.

    Readable segments come before writable ones (virtio 1.x, 2.7.4.2).
    """
    if not readable and not writable:
        raise ValueError("a chain needs at least one segment")
    return [(s, DescFlag(0)) for s in readable] + [(s, DescFlag.WRITE) for s in writable]


def user_place(memory: GuestMemory, place: RingPlace) -> RingPlace:
    """A ring's guest addresses as SET_VRING_ADDR has to say them."""
    return RingPlace(
        desc=memory.user_address(place.desc),
        avail=memory.user_address(place.avail),
        used=memory.user_address(place.used),
    )


class Virtqueue(ABC, Generic[Token]):
    """The driver's end of one ring, whatever its format.

    A cycle is: `add` any number of chains, `publish`, and kick if `needs_kick`. Then `take_used`. The
    ring's memory comes from `memory` and goes back at `close`; buffers are the caller's.
    """

    def __init__(
        self,
        memory: GuestMemory,
        size: int,
        *,
        event_idx: bool,
        in_order: bool,
        place: RingPlace | None,
        fence: Callable[[], None],
    ) -> None:
        self.memory = memory
        self.size = size
        self.event_idx = event_idx
        self.in_order = in_order
        self._fence = fence
        self._owned = place is None
        self._chains: dict[int, LentChain[Token]] = {}
        self.place = place or RingPlace(*(memory.alloc(length) for length in self.part_sizes(size)))
        self.reset()

    @staticmethod
    @abstractmethod
    def part_sizes(size: int) -> tuple[int, int, int]:
        """Bytes of the parts that `RingPlace` names, for a ring of `size` descriptors."""

    @abstractmethod
    def reset(self) -> None:
        """Make the ring as new and forget every chain in flight, as a driver does after a device reset."""

    def close(self) -> list[Token]:
        """Give the ring's memory back; the device must have stopped. The tokens of chains still in flight."""
        tokens = [chain.token for chain in self._chains.values()]
        self._forget_chains()
        if self._owned:
            for gpa in (self.place.desc, self.place.avail, self.place.used):
                self.memory.free(gpa)
        self._owned = False
        return tokens

    @property
    def user_place(self) -> RingPlace:
        """The three addresses as SET_VRING_ADDR has to say them."""
        return user_place(self.memory, self.place)

    @property
    @abstractmethod
    def free_descriptors(self) -> int: ...

    @property
    def outstanding(self) -> int:
        """Chains that the device has, or that are added and not yet published."""
        return len(self._chains)

    @abstractmethod
    def device_base(self) -> int:
        """SET_VRING_BASE for a device that goes on where this ring shows that the last one stood."""

    @abstractmethod
    def add(
        self,
        readable: Sequence[Segment],
        writable: Sequence[Segment],
        token: Token,
        *,
        indirect: bool = False,
    ) -> int | None:
        """Queue one chain, not yet visible to the device; its head, or None when the ring has no room.

        With `indirect` the chain takes one descriptor and a table of its own; the feature must have been
        negotiated.
        """

    @abstractmethod
    def publish(self) -> None:
        """Make every added chain visible to the device."""

    @abstractmethod
    def needs_kick(self) -> bool:
        """Whether the device asked to hear of what was published since this was last asked."""

    @abstractmethod
    def take_used(self) -> list[UsedChain[Token]]:
        """Everything that the device has given back since the last call.

        PeerError when the device gives back what it never had: the ring is of no use afterwards.
        """

    @abstractmethod
    def enable_calls(self) -> bool:
        """Ask for a call at the next used chain; True when one is there already, so do not sleep."""

    @abstractmethod
    def disable_calls(self) -> None:
        """Ask for no calls; a hint, the device may call all the same."""

    # For the formats

    def _forget_chains(self) -> None:
        chains, self._chains = self._chains, {}
        for chain in chains.values():
            self._free_table(chain)

    def _check_length(self, chain: LentChain[Token], length: int, what: str) -> None:
        if length > chain.room:
            raise PeerError(f"{what}: {length} bytes written into {chain.room}")

    def _free_table(self, chain: LentChain[Token]) -> None:
        if chain.table is not None:
            self.memory.free(chain.table)
