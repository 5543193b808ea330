"""The driver in C: floods, drains, echo loops and latencies over a running device.

The rings, the messages and the eventfds are `Link`'s as ever; only what happens on the rings is C. A run goes
on in slices of a tenth of a second, so that Ctrl-C works and two runs can share two threads.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Unpack

from vhostuser.errors import PeerError
from vhostuser.frontend.core import CData, ffi, lib
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.link import Link, LinkOptions
from vhostuser.frontend.net_header import PLAIN, NetHeader
from vhostuser.frontend.packed_virtqueue import PackedVirtqueue
from vhostuser.frontend.ring_position import FIRST
from vhostuser.frontend.timeouts import scaled
from vhostuser.frontend.virtqueue import SplitVirtqueue
from vhostuser.frontend.virtqueue_base import RingPlace
from vhostuser.wire.features import VirtioFeature

ETHERTYPE = 0x88B5
"""IEEE 802 local experimental 1: what frames are when nobody says otherwise."""
_SLICE_NS = 100_000_000
_BIG_FRAMES = (
    VirtioFeature.HOST_TSO4 | VirtioFeature.HOST_TSO6 | VirtioFeature.HOST_UFO | VirtioFeature.HOST_USO
)
_FAILURES = {
    lib.VU_DRIVER_USED_JUMPED: "gave back more chains than it has",
    lib.VU_DRIVER_USED_UNKNOWN: "gave back a chain that it does not have",
    lib.VU_DRIVER_USED_LENGTH: "wrote more than a buffer holds, or less than a header",
    lib.VU_DRIVER_USED_FLAGS: "left a descriptor that is neither available nor used",
    lib.VU_DRIVER_MERGE_BROKEN: "did not give all buffers of a frame back together",
}
_runs = itertools.count(1)


def ethernet(
    destination: bytes = b"\xff" * 6, source: bytes = b"\x02\0\0\0\0\x01", ethertype: int = ETHERTYPE
) -> bytes:
    """The 14 bytes that a frame begins with."""
    return destination + source + ethertype.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class Load:
    """What to send, how much of it, and how closely to look at what arrives."""

    packets: int = 0
    """Frames to send, or to receive where nothing is sent; 0 is no limit."""
    seconds: float = 0.0
    """How long at most; 0 is no limit, but then `packets` has to be one."""
    frame_size: int = 64
    template: bytes = field(default_factory=ethernet)
    """What every frame begins with."""
    header: NetHeader = PLAIN
    window: int = 0
    """Frames sent and not yet received; 0 is as many as the rings hold."""
    rate: int = 0
    """Frames a second, by a schedule that is caught up with after a pause; 0 is as fast as they are taken.
    Up to 2^32, and such a run polls, also with `sleep`."""
    burst: int = 32
    stamp: bool = False
    """Sequence number, pattern and checksum in every frame, looked at in every frame that arrives."""
    sleep: bool = False
    """Sleep on the call eventfds when nothing moves, in place of polling."""
    settle: bool = True
    """In the end, wait until what was sent is back."""
    lost_after: float = 0.5
    """Seconds without any movement after which what is on its way counts as lost."""
    run: int = field(default_factory=lambda: next(_runs) & 0xFFFF)
    """Tells the stamps of one run from those of another; sender and receiver need the same."""


@dataclass(frozen=True, slots=True)
class Report:
    """Counts of one run. See csrc/driver.h for what each means exactly."""

    sent: int
    returned: int
    received: int
    received_bytes: int
    received_chains: int
    foreign: int
    corrupt: int
    skipped: int
    late: int
    lost: int
    full: int
    sleeps: int
    seconds: float

    @property
    def sent_rate(self) -> float:
        """Frames a second that the device took."""
        return self.returned / self.seconds if self.seconds else 0.0

    @property
    def received_rate(self) -> float:
        return self.received / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Latency:
    """How long single frames were away, in nanoseconds; each bucket is 3 % wide."""

    buckets: tuple[int, ...]

    @property
    def count(self) -> int:
        return sum(self.buckets)

    def percentile(self, percent: float) -> int:
        """The lower edge of the bucket that holds it; 0 without samples."""
        rank = self.count * percent / 100
        seen = 0
        for bucket, samples in enumerate(self.buckets):
            seen += samples
            if samples and seen >= rank:
                return int(lib.vu_histogram_floor(bucket))
        return 0


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """Notifications on one ring."""

    kicks: int
    kicks_saved: int
    calls: int
    in_flight: int


class Flood(Link):
    """A virtio-net driver for load. Options as for `Link`."""

    def __init__(self, frontend: Frontend, **options: Unpack[LinkOptions]) -> None:
        if options.get("big_endian"):
            raise ValueError("the driver in C knows no big-endian rings")
        super().__init__(frontend, **options)
        self._queues: list[CData] = []
        self._ring_places: list[RingPlace] = []
        self._pools: list[int] = []

    def run(
        self,
        load: Load,
        *,
        transmit: Iterable[int] | None = None,
        receive: Iterable[int] | None = None,
        receiver: Flood | None = None,
    ) -> Report:
        """Send on the pairs `transmit` and take in on the pairs `receive`, all pairs where None is given.

        `receiver` is whose pairs take in, this driver's own by default. PeerError when the device breaks a
        rule of the rings. One run at a time on each ring; runs on different rings may share threads.
        """
        sending = self._select(transmit, 1)
        taking = (receiver or self)._select(receive, 0)
        result = ffi.new("struct vu_load_result *")
        with_template = ffi.from_buffer("uint8_t[]", load.template)
        options = _options(load, with_template)
        queues = ffi.new("struct vu_virtqueue *[]", sending), ffi.new("struct vu_virtqueue *[]", taking)

        def turn() -> None:
            _check(lib.vu_load_run(queues[0], len(sending), queues[1], len(taking), options, result))
            self.serve_iommu()

        _in_slices(load, options, result, turn, bool(sending))
        return _report(result)

    def flood(self, load: Load) -> Report:
        """Send only."""
        return self.run(load, receive=())

    def drain(self, load: Load) -> Report:
        """Receive only."""
        return self.run(load, transmit=())

    def ping(self, load: Load, *, pair: int = 0, receiver: Flood | None = None) -> tuple[Report, Latency]:
        """One frame in flight at a time: how long each is away."""
        (sending,) = self._select([pair], 1)
        (taking,) = (receiver or self)._select([pair], 0)
        result = ffi.new("struct vu_load_result *")
        with_template = ffi.from_buffer("uint8_t[]", load.template)
        options = _options(load, with_template)
        histogram = ffi.new("uint64_t[]", lib.VU_HISTOGRAM_BUCKETS)

        def turn() -> None:
            _check(lib.vu_ping_run(sending, taking, options, result, histogram))
            self.serve_iommu()

        _in_slices(load, options, result, turn, True)
        return _report(result), Latency(tuple(histogram))

    def counts(self, index: int) -> QueueCounts:
        """Notifications of ring `index` since it was made."""
        counts = ffi.new("struct vu_virtqueue_counts *")
        lib.vu_virtqueue_count(self._queues[index], counts)
        return QueueCounts(counts.kicks, counts.kicks_saved, counts.calls, counts.in_flight)

    def _select(self, pairs: Iterable[int] | None, offset: int) -> list[CData]:
        chosen = range(self.queue_pairs) if pairs is None else pairs
        return [self._queues[2 * pair + offset] for pair in chosen]

    # What `Link` asks for

    def _prepare(self) -> None:
        if not self._queues:
            for ring in self.nic.rings:
                self._make_queue(ring.index)
        for ring, place in zip(self.nic.rings, self._ring_places, strict=True):
            ring.place = self._said(place)
        for queue in self._queues[::2]:
            lib.vu_virtqueue_fill(queue)

    def _make_queue(self, index: int) -> None:
        ring = self.nic.rings[index]
        sizes = (PackedVirtqueue if self.packed else SplitVirtqueue).part_sizes(ring.size)
        place = RingPlace(*(self.memory.alloc(size) for size in sizes))
        self._ring_places.append(place)
        for gpa, size in zip((place.desc, place.avail, place.used), sizes, strict=True):
            self.memory.write(gpa, bytes(size))
        config = ffi.new("struct vu_virtqueue_config *")
        config.desc = self.memory.host_pointer(place.desc)
        config.avail = self.memory.host_pointer(place.avail)
        config.used = self.memory.host_pointer(place.used)
        config.buffer_size = self._transmit_buffer_size() if index % 2 else self.buffer_size
        config.header_size = self.header_size
        config.flags = self._flags(index)
        config.size = ring.size
        config.position = FIRST.word
        config.segments = self.segments
        config.kick_fd = -1 if ring.kick_fd is None else ring.kick_fd
        config.call_fd = -1 if ring.call_fd is None else ring.call_fd
        pool_size = lib.vu_virtqueue_pool_size(config)
        if not pool_size:
            raise ValueError(
                f"ring {index}: no driver for {ring.size} entries, {self.segments} segments, "
                f"buffers of {config.buffer_size} and {self.features!r}"
            )
        self._pools.append(self.memory.alloc(pool_size, 4096))
        config.pool_gpa = self._pools[-1]
        config.pool = self.memory.host_pointer(self._pools[-1], pool_size)
        queue = lib.vu_virtqueue_new(config)
        if queue == ffi.NULL:
            raise MemoryError(f"ring {index}: no memory for its book-keeping")
        self._queues.append(queue)

    def _transmit_buffer_size(self) -> int:
        """What a guest may send: a whole segment where the device segments, else one frame."""
        return 65600 if self.features & _BIG_FRAMES else max(2048, self._buffer_size or 0)

    def _flags(self, index: int) -> int:
        flags = 0 if index % 2 else lib.VU_VIRTQUEUE_RECEIVE
        if VirtioFeature.EVENT_IDX in self.features:
            flags |= lib.VU_VIRTQUEUE_EVENT_IDX
        if VirtioFeature.IN_ORDER in self.features:
            flags |= lib.VU_VIRTQUEUE_IN_ORDER
        if VirtioFeature.MRG_RXBUF in self.features and index % 2 == 0:
            flags |= lib.VU_VIRTQUEUE_MRG_RXBUF
        if self.indirect:
            flags |= lib.VU_VIRTQUEUE_INDIRECT
        if self.packed:
            flags |= lib.VU_VIRTQUEUE_PACKED
        return int(flags)

    def _places(self) -> Sequence[RingPlace]:
        return self._ring_places

    def _device_base(self, index: int) -> int:
        return int(lib.vu_virtqueue_base(self._queues[index]))

    def _forget(self) -> None:
        queues, self._queues = self._queues, []
        for queue in queues:
            lib.vu_virtqueue_free(queue)
        places, self._ring_places = self._ring_places, []
        pools, self._pools = self._pools, []
        for place in places:
            for gpa in (place.desc, place.avail, place.used):
                self.memory.free(gpa)
        for gpa in pools:
            self.memory.free(gpa)


def _options(load: Load, template: CData) -> CData:
    if not load.packets and not load.seconds:
        raise ValueError("a load needs a number of packets or of seconds")
    if not 0 <= load.rate < 1 << 32:
        raise ValueError(f"a rate of {load.rate} frames a second is out of range")
    options = ffi.new("struct vu_load_options *")
    options.packets = load.packets
    options.rate = load.rate
    options.lost_after_ns = int(scaled(load.lost_after) * 1e9)
    options.template_bytes = template
    options.template_size = len(load.template)
    options.frame_size = load.frame_size
    options.window = load.window
    options.burst = load.burst
    options.flags = (lib.VU_LOAD_STAMP if load.stamp else 0) | (lib.VU_LOAD_SLEEP if load.sleep else 0)
    options.run = load.run
    ffi.memmove(options.header, load.header.build(ffi.sizeof(options.header)), ffi.sizeof(options.header))
    return options


def _in_slices(load: Load, options: CData, result: CData, turn: Callable[[], None], sends: bool) -> None:
    """Call `turn` until a limit of the load is reached, then once more to settle.

    Gives up without an error when there is no limit in time and nothing moves: the report shows it.
    """
    end = int(load.seconds * 1e9)
    moved: tuple[int, ...] = ()
    moved_at = 0
    while not _is_done(load, result, sends):
        options.duration_ns = min(_SLICE_NS, end - result.elapsed_ns) if end else _SLICE_NS
        turn()
        now = time.monotonic_ns()
        progress = (result.sent, result.returned, result.received, result.foreign)
        if progress != moved:
            moved, moved_at = progress, now
        elif not end and now - moved_at > options.lost_after_ns:
            return
    if load.settle and sends and result.sent:
        options.packets = result.sent
        options.duration_ns = 0
        options.flags |= lib.VU_LOAD_SETTLE
        turn()


def _is_done(load: Load, result: CData, sends: bool) -> bool:
    done = result.sent if sends else result.received
    in_time = load.seconds and result.elapsed_ns >= load.seconds * 1e9
    return bool(in_time or (load.packets and done >= load.packets))


def _check(outcome: int) -> None:
    if outcome == lib.VU_DRIVER_BAD_CONFIG:
        raise ValueError("frame, template or burst do not fit the buffers of these rings")
    if outcome < 0:
        raise PeerError(f"the device {_FAILURES[outcome]}")


def _report(result: CData) -> Report:
    return Report(
        sent=result.sent,
        returned=result.returned,
        received=result.received,
        received_bytes=result.received_bytes,
        received_chains=result.received_chains,
        foreign=result.foreign,
        corrupt=result.corrupt,
        skipped=result.skipped,
        late=result.late,
        lost=result.lost,
        full=result.full,
        sleeps=result.sleeps,
        seconds=result.elapsed_ns / 1e9,
    )
