"""Guests without a front-end: guest memory, rings and device in one process, moved one side at a time.

The driver's side is `SplitVirtqueue`, the oracle in plain Python; the device's side is the C under test. A
test lets the driver act, calls `Bench.settle`, and compares.
"""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, cast

from vhostuser.datapath.mapping import MappedMemory
from vhostuser.datapath.port_ops import NET_HEADER_SIZE, PortKind
from vhostuser.datapath.vring import PacketDevice, RingEnabled, RingPair, VringCounters, VringSetup
from vhostuser.datapath.worker import EventKind, Worker, WorkerEvent
from vhostuser.frontend.guest_memory import GuestMemory, Region
from vhostuser.frontend.iova_memory import IovaMemory
from vhostuser.frontend.net_header import PLAIN, NetHeader, header_size
from vhostuser.frontend.packed_virtqueue import PackedVirtqueue
from vhostuser.frontend.virtqueue import Segment, SplitVirtqueue, UsedChain
from vhostuser.wire.constants import MAX_REGIONS
from vhostuser.wire.features import VirtioFeature
from vhostuser.wire.payloads import MemoryRegion

V = VirtioFeature
MODERN = V.VERSION_1
RX, TX = 0, 1
MOST_TURNS = 5000
"""Far more than any test needs; a worker that says MORE for ever is a failure, not a hang."""


@dataclass(frozen=True)
class Chain:
    """What a test remembers of a chain: where its bytes lie."""

    segments: tuple[Segment, ...]


Queue = SplitVirtqueue[Chain]


def frame(number: int, length: int = 60) -> bytes:
    """An Ethernet frame that says which one it is."""
    start = b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x88\xb5" + number.to_bytes(8, "little")
    body = bytes((number + i) & 0xFF for i in range(max(length - len(start), 0)))
    return (start + body)[:length]


def regions_of(memory: GuestMemory) -> tuple[MemoryRegion, ...]:
    """The memory table as SET_MEM_TABLE would bring it."""
    rows = []
    for region in memory.regions:
        assert region.uva is not None
        rows.append(
            MemoryRegion(gpa=region.gpa, size=region.size, uva=region.uva, mmap_offset=region.mmap_offset)
        )
    return tuple(rows)


def mapped(memory: GuestMemory) -> MappedMemory:
    """In one table as far as one message carries it; the others region by region."""
    regions, fds = regions_of(memory), [os.dup(fd) for fd in memory.fds()]
    table = MappedMemory(regions[:MAX_REGIONS], fds[:MAX_REGIONS])
    for region, fd in zip(regions[MAX_REGIONS:], fds[MAX_REGIONS:], strict=True):
        larger = table.plus(region, fd)
        table.close()
        table = larger
    return table


def start_at(queue: Queue, index: int) -> None:
    """Winds both ends of an unused ring on, as after `index` chains."""
    queue._avail_index = queue._published = queue._kick_checked = queue._used_index = index
    queue.write_avail_index(index)
    queue._words.store_u16(queue.place.used + 2, index)


def read_eventfd(fd: int) -> int:
    """How often it was written since last time."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def make_queue(memory: GuestMemory, size: int, features: VirtioFeature, big_endian: bool = False) -> Queue:
    """Of the format that was negotiated. Packed ones lack raw words that tests of split rings use."""
    event_idx, in_order = V.EVENT_IDX in features, V.IN_ORDER in features
    if V.RING_PACKED in features:
        packed = PackedVirtqueue[Chain](memory, size, event_idx=event_idx, in_order=in_order)
        return cast(Queue, packed)
    return SplitVirtqueue[Chain](memory, size, event_idx=event_idx, in_order=in_order, big_endian=big_endian)


class Ring:
    """One ring: the driver's queue, its eventfds, and its place in the device."""

    def __init__(self, guest: Guest, pair: RingPair, which: int, size: int) -> None:
        self.guest = guest
        self.pair = pair
        self.which = which
        self.queue: Queue = make_queue(guest.memory, size, guest.features, guest.big_endian)
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        self.kick_fd, self.call_fd, self.err_fd = (os.eventfd(0, flags) for _ in range(3))
        self._owned = [self.kick_fd, self.call_fd, self.err_fd]

    def setup(
        self, *, base: int | None = None, kick_fd: int | None = None, call_fd: int | None = None
    ) -> VringSetup:
        place = self.queue.user_place
        return VringSetup(
            desc=place.desc,
            avail=place.avail,
            used=place.used,
            size=self.queue.size,
            base=self.queue.device_base() if base is None else base,
            kick_fd=self.kick_fd if kick_fd is None else kick_fd,
            kick_is_drained=False,
            call_fd=self.call_fd if call_fd is None else call_fd,
            err_fd=self.err_fd,
            is_big_endian=self.guest.big_endian,
        )

    def start(
        self,
        enabled: RingEnabled = RingEnabled.ENABLED,
        *,
        base: int | None = None,
        kick_fd: int | None = None,
        call_fd: int | None = None,
    ) -> None:
        self.pair.set_enabled(self.which, enabled)
        self.pair.start(self.which, self.setup(base=base, kick_fd=kick_fd, call_fd=call_fd))

    def stop(self) -> int:
        return self.pair.stop(self.which)

    def close(self) -> None:
        self.pair.stop(self.which)
        for fd in self._owned:
            os.close(fd)

    @property
    def counters(self) -> VringCounters:
        return self.pair.counters(self.which)

    @property
    def used_index(self) -> int:
        return self.queue.read_used_index()

    def kick(self) -> None:
        os.eventfd_write(self.kick_fd, 1)

    def calls(self) -> int:
        return read_eventfd(self.call_fd)

    def errors(self) -> int:
        return read_eventfd(self.err_fd)

    def publish(self) -> bool:
        """Shows what was added and kicks when the device asked for it."""
        self.queue.publish()
        kicked = self.queue.needs_kick()
        if kicked:
            self.kick()
        return kicked

    # Chains

    def segments(self, lengths: Sequence[int], *, gap: int = 0) -> tuple[Segment, ...]:
        """Buffers of these lengths, adjacent in one allocation but for `gap` bytes between two."""
        at = self.guest.memory.alloc(max(sum(lengths) + gap * len(lengths), 1), 1)
        found = []
        for length in lengths:
            found.append(Segment(at, length))
            at += length + gap
        return tuple(found)

    def add_readable(self, content: bytes, lengths: Sequence[int], *, indirect: bool = False) -> int | None:
        assert sum(lengths) == len(content)
        segments = self.segments(lengths)
        if content:
            self.guest.memory.write(segments[0].gpa, content)
        head = self.queue.add(segments, (), Chain(segments), indirect=indirect)
        if head is None:
            self.guest.memory.free(segments[0].gpa)
        return head

    def add_writable(self, lengths: Sequence[int], *, indirect: bool = False) -> int | None:
        segments = self.segments(lengths)
        self.guest.memory.write(segments[0].gpa, b"\xee" * sum(lengths))
        head = self.queue.add((), segments, Chain(segments), indirect=indirect)
        if head is None:
            self.guest.memory.free(segments[0].gpa)
        return head

    def send(
        self,
        content: bytes,
        *,
        header: NetHeader = PLAIN,
        pieces: Sequence[int] | None = None,
        indirect: bool = False,
    ) -> int:
        """Adds a transmit chain with header and frame, not yet published; in one piece unless told."""
        whole = header.build(self.guest.header_size, big_endian=self.guest.big_endian) + content
        head = self.add_readable(whole, [len(whole)] if pieces is None else pieces, indirect=indirect)
        assert head is not None
        return head

    def take(self) -> list[UsedChain[Chain]]:
        """What came back; its memory is free again."""
        chains = self.queue.take_used()
        for chain in chains:
            self.guest.memory.free(chain.token.segments[0].gpa)
        return chains

    def receive(self, *, exact: bool = True) -> list[tuple[NetHeader, bytes]]:
        """Every frame that came, put together from `num_buffers` chains.

        ``exact``: nothing was written behind it, which a device may do (virtio 1.2, 2.7.8.2) and ours does
        only where frames are read several at once.
        """
        chains = self.queue.take_used()
        contents = []
        for chain in chains:
            parts = [self.guest.memory.read(s.gpa, s.length) for s in chain.token.segments if s.length]
            contents.append(b"".join(parts)[: chain.length])
            untouched = b"".join(parts)[chain.length :]
            assert not exact or untouched == b"\xee" * len(untouched), (
                "written beyond what the used entry says"
            )
            self.guest.memory.free(chain.token.segments[0].gpa)
        frames = []
        while contents:
            first = contents.pop(0)
            header = NetHeader.parse(first[: self.guest.header_size], big_endian=self.guest.big_endian)
            buffers = header.num_buffers if self.guest.header_size == 12 else 1
            assert 1 <= buffers <= len(contents) + 1
            rest, contents = contents[: buffers - 1], contents[buffers - 1 :]
            frames.append((header, b"".join([first[self.guest.header_size :], *rest])))
        return frames


class Guest:
    """One device with its memory and rings."""

    def __init__(
        self,
        bench: Bench,
        number: int,
        features: VirtioFeature,
        regions: Sequence[Region] | None,
        size: int,
        huge_page: int,
        big_endian: bool,
        in_one_piece: bool,
    ) -> None:
        self.bench = bench
        self.number = number
        self.features = features
        self.big_endian = big_endian
        self.header_size = header_size(features)
        self.memory = (
            IovaMemory(size, regions=regions, in_one_piece=in_one_piece)
            if V.ACCESS_PLATFORM in features
            else GuestMemory(size, regions=regions, huge_page=huge_page)
        )
        self.device = PacketDevice(number, bench.workers)
        self.rings: list[Ring] = []
        self.is_closed = False
        self._tables: list[MappedMemory] = []
        self.device.set_features(features)
        self.swap(mapped(self.memory))

    def swap(self, table: MappedMemory) -> None:
        """A new memory table under whatever runs."""
        self.device.set_memory(table)
        while self._tables:
            self._tables.pop().close()
        self._tables.append(table)

    def pair(
        self,
        port: PortKind | None,
        size: int = 256,
        *,
        rx_size: int = 0,
        fd: int = -1,
        frame_size: int = 60,
        header_size: int = NET_HEADER_SIZE,
    ) -> tuple[Ring, Ring]:
        """The next pair, not started: its RX and its TX ring."""
        pair = self.device.pair(len(self.rings) // 2)
        pair.set_port(port, fd, frame_size=frame_size, header_size=header_size)
        rings = Ring(self, pair, RX, rx_size or size), Ring(self, pair, TX, size)
        self.rings += rings
        return rings

    def close(self) -> None:
        """As when its front-end goes. Once more does nothing."""
        if self.is_closed:
            return
        self.is_closed = True
        for ring in self.rings:
            ring.close()
        self.rings.clear()
        self.device.set_memory(None)
        self.device.close()
        for table in self._tables:
            table.close()
        self.memory.close()


@dataclass
class Bench:
    """Workers and the guests on them. A context manager."""

    workers: list[Worker] = field(default_factory=lambda: [Worker()])
    events: list[WorkerEvent] = field(default_factory=list)
    """All that was reported, in order."""

    def __post_init__(self) -> None:
        self._stack = ExitStack()
        self.guests: list[Guest] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        for worker in self.workers:
            worker.close()

    @property
    def worker(self) -> Worker:
        """The first, and the only one unless a test makes more."""
        return self.workers[0]

    def guest(
        self,
        features: VirtioFeature = MODERN,
        *,
        regions: Sequence[Region] | None = None,
        size: int = 16 << 20,
        huge_page: int = 0,
        big_endian: bool = False,
        in_one_piece: bool = False,
    ) -> Guest:
        """`in_one_piece` is IovaMemory's."""
        number = len(self.guests)
        guest = Guest(self, number, features, regions, size, huge_page, big_endian, in_one_piece)
        self.guests.append(guest)
        self._stack.callback(guest.close)
        return guest

    @property
    def rings(self) -> list[Ring]:
        """Of all guests."""
        return [ring for guest in self.guests for ring in guest.rings]

    def turn(self) -> bool:
        """One turn of each; whether work is left."""
        left = False
        for worker in self.workers:
            more, events = worker.turn()
            left |= more
            if events:
                self.events += worker.events()
        return left

    def wakes(self) -> bool:
        """Whether who watches the workers' epoll fds would be woken now."""
        return bool(select.select([worker.epoll_fd for worker in self.workers], [], [], 0)[0])

    def settle(self) -> int:
        """Turns as the loop would until nothing is left to do; how many turns that took."""
        for count in range(1, MOST_TURNS):
            if not self.turn() and not self.wakes():
                return count
        raise AssertionError(f"the worker still has work after {MOST_TURNS} turns")

    def reported(self, kind: EventKind) -> list[WorkerEvent]:
        return [event for event in self.events if event.kind is kind]
