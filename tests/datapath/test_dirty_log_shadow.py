"""The dirty log beside a shadow of guest memory, over millions of writes: none is missed and none is foreign.

The driver is the one in C, so that the numbers are those of a migration under load. Before each move of the
device, what it may write to is filled with other bytes: whatever it writes then changes memory, and the pages
that changed must be those that are marked. Behind an IOMMU translations are asked for and go all the while.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.datapath.rig import RX, Bench, Guest, Ring, V
from tests.datapath.test_dirty_log import Log, start_logged
from vhostuser.datapath.iotlb import DeviceIotlb
from vhostuser.datapath.port_ops import PortKind
from vhostuser.frontend.core import CData, ffi, lib
from vhostuser.frontend.guest_memory import GuestMemory, Region
from vhostuser.frontend.iova_memory import IovaMemory

WRITES = 1_500_000
PAGE = 4096
START = 1 << 20
MEMORY = Region(gpa=START, size=640 << 10)
LOG_BYTES = MEMORY.end // PAGE // 8
RING = 256
HEADER = 12
# Multiples of 64 bytes, and 32 more: at least 32 bytes of a write are on a page, too many to be as they were.
BUFFER, LARGE_BUFFER = 704, 1408
FRAMES = [32 + 64 * n - HEADER for n in (1, 5, 10, 20)]
CHAINS_PER_FRAME = 2
POISON = b"\xee"
MODERN = V.VERSION_1 | V.MRG_RXBUF | V.LOG_ALL
FORMATS = [
    pytest.param(MODERN, 1, id="split-flags"),
    pytest.param(MODERN | V.EVENT_IDX | V.INDIRECT_DESC, 3, id="split-events-indirect"),
    pytest.param(MODERN | V.RING_PACKED | V.INDIRECT_DESC, 3, id="packed-flags-indirect"),
    pytest.param(MODERN | V.RING_PACKED | V.EVENT_IDX, 1, id="packed-events"),
]


class Driver:
    """The driver in C on the rings of a pair, one move at a time; the test kicks for it."""

    def __init__(self, guest: Guest, rings: tuple[Ring, Ring], segments: int) -> None:
        self._memory = guest.memory
        self._features = guest.features
        self._rings = rings
        self._pools: list[tuple[int, int]] = []
        self._queues = [self._make(ring, segments) for ring in rings]
        self._template = ffi.from_buffer("uint8_t[]", bytes(14))
        self.result = ffi.new("struct vu_load_result *")
        lib.vu_virtqueue_fill(self._queues[RX])

    def _make(self, ring: Ring, segments: int) -> CData:
        place = ring.queue.place
        config = ffi.new("struct vu_virtqueue_config *")
        parts = (place.desc, place.avail, place.used)
        config.desc, config.avail, config.used = map(self._memory.host_pointer, parts)
        config.buffer_size = BUFFER if ring.which == RX else LARGE_BUFFER
        config.header_size, config.size, config.segments = HEADER, RING, segments
        config.position = 0x8000
        config.kick_fd = config.call_fd = -1
        config.flags = lib.VU_VIRTQUEUE_RECEIVE | lib.VU_VIRTQUEUE_MRG_RXBUF if ring.which == RX else 0
        for feature, flag in (
            (V.RING_PACKED, lib.VU_VIRTQUEUE_PACKED),
            (V.EVENT_IDX, lib.VU_VIRTQUEUE_EVENT_IDX),
            (V.INDIRECT_DESC, lib.VU_VIRTQUEUE_INDIRECT),
        ):
            config.flags |= flag if feature in self._features else 0
        size = lib.vu_virtqueue_pool_size(config)
        config.pool_gpa = self._memory.alloc(size, 64)
        config.pool = self._memory.host_pointer(config.pool_gpa, size)
        self._pools.append((config.pool_gpa, RING * config.buffer_size))
        return ffi.gc(lib.vu_virtqueue_new(config), lib.vu_virtqueue_free)

    def move(self, frames: int, length: int) -> None:
        """Takes in all that came back, lends its buffers again, and sends so many frames."""
        options = ffi.new("struct vu_load_options *")
        options.template_bytes, options.template_size = self._template, 14
        options.frame_size = length
        options.burst = RING
        options.packets = self.result.sent + frames
        options.flags = lib.VU_LOAD_STAMP
        rx, tx = (ffi.new("struct vu_virtqueue *[1]", [queue]) for queue in self._queues)
        assert lib.vu_load_run(tx, 1, rx, 1, options, self.result) == 0

    def poison(self) -> None:
        """Other bytes wherever the device may write. The driver looks at them after it has written only."""
        gpa, size = self._pools[RX]
        self._memory.write(gpa, POISON * size)
        for ring in self._rings:
            used = ring.queue.place.used
            if V.RING_PACKED in self._features:
                self._memory.store_u32(used, int.from_bytes(4 * POISON, "little"))
                continue
            self._memory.store_u16(used, self._memory.load_u16(used) | 0x8000)
            self._memory.write(used + 4, POISON * 8 * RING)
            self._memory.store_u16(used + 4 + 8 * RING, self._memory.load_u16(used + 2) ^ 0x8000)

    def kick(self) -> None:
        for ring in self._rings:
            ring.kick()


def contents(guest: Guest) -> bytes:
    """By guest addresses, whatever the driver's are."""
    mapping, offset = GuestMemory._locate(guest.memory, START, MEMORY.size)
    return mapping[offset : offset + MEMORY.size]


def changed(before: bytes, after: bytes) -> set[int]:
    """Numbers of the pages that differ."""
    at = range(0, MEMORY.size, PAGE)
    return {(START + n) // PAGE for n in at if before[n : n + PAGE] != after[n : n + PAGE]}


def settle(guest: Guest, rng: random.Random) -> int:
    """Until nothing is left to do. Behind an IOMMU some translations go first; how many were asked for."""
    iotlb, memory = DeviceIotlb(guest.device), guest.memory
    if isinstance(memory, IovaMemory) and rng.random() < 0.1:
        first = rng.choice(list(memory.pages))
        iotlb.invalidate(first, first + rng.choice([1, 4, 1024]) * PAGE - 1)
    asked = 0
    guest.bench.settle()
    while misses := list(iotlb.take_misses()):
        assert isinstance(memory, IovaMemory)
        for miss in misses:
            page = miss.iova & -PAGE
            iotlb.update(page, page + PAGE - 1, memory.page_user_address(page), 3)
        asked += len(misses)
        guest.bench.settle()
    return asked


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log(LOG_BYTES, offset=8)
    yield log
    log.close()


@pytest.mark.parametrize("platform", [V(0), V.ACCESS_PLATFORM], ids=["", "iommu"])
@pytest.mark.parametrize(("features", "segments"), FORMATS)
def test_pages_that_changed_are_those_that_are_marked(
    features: V, segments: int, platform: V, log: Log, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(int(features))
    guest = bench.guest(features | platform, regions=[MEMORY], in_one_piece=True)
    guest.device.set_log(log.mapped)
    rx, tx = guest.pair(PortKind.ECHO, RING)
    driver = Driver(guest, (rx, tx), segments)
    start_logged(rx)
    start_logged(tx)
    asked = settle(guest, rng)
    log.take()
    marked = missed = foreign = writes = 0
    while writes < WRITES:
        driver.move(rng.randint(1, RING // CHAINS_PER_FRAME), rng.choice(FRAMES))
        driver.poison()
        before = contents(guest)
        driver.kick()
        asked += settle(guest, rng)
        pages, seen = changed(before, contents(guest)), log.take()
        marked += len(seen)
        missed += len(pages - seen)
        foreign += len(seen - pages)
        # Of a received chain its buffer and its used entry.
        writes = 2 * rx.counters.chains + tx.counters.chains
    with capsys.disabled():
        print(f"\n{writes} logged writes, {marked} pages marked: {missed} missed, {foreign} foreign")
    assert (missed, foreign) == (0, 0)
    assert marked > 0
    assert asked > 1000 or not platform
    result = driver.result
    assert (result.corrupt, result.foreign, result.lost) == (0, 0, 0)
    assert rx.counters.packets == tx.counters.packets == result.sent
    assert log.mapped.outside == 0
