"""The dirty log beside a shadow of guest memory: each page that changed is marked, no other is."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from tests.conftest import open_fds
from tests.datapath.rig import Bench, Chain, Guest, Ring, V, frame
from vhostuser.datapath.dirty_log import DirtyLog
from vhostuser.datapath.iotlb import DeviceIotlb
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.worker import EventKind
from vhostuser.errors import RequestError
from vhostuser.frontend.guest_memory import GuestMemory, Region
from vhostuser.frontend.iova_memory import IovaMemory, pages_of
from vhostuser.frontend.virtqueue import Segment

PAGE = 4096
MEMORY = 4 << 20
LOG_BYTES = MEMORY // PAGE // 8
WHOLE = (Region(gpa=0, size=MEMORY),)
MODERN = V.VERSION_1 | V.MRG_RXBUF | V.INDIRECT_DESC
FORMATS = [
    pytest.param(MODERN, id="split-flags"),
    pytest.param(MODERN | V.EVENT_IDX, id="split-events"),
    pytest.param(MODERN | V.RING_PACKED, id="packed-flags"),
    pytest.param(MODERN | V.RING_PACKED | V.EVENT_IDX, id="packed-events"),
]


def memfd(size: int) -> int:
    fd = os.memfd_create("log", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


class Log:
    """A log in a memfd, as its front-end has it."""

    def __init__(self, size: int = LOG_BYTES, offset: int = 0) -> None:
        self.size = size
        self.offset = offset
        self.fd = memfd(offset + size)
        self.mapped = DirtyLog(os.dup(self.fd), size, offset)

    def take(self) -> set[int]:
        """The pages marked since last time."""
        bits = int.from_bytes(os.pread(self.fd, self.size, self.offset), "little")
        os.pwrite(self.fd, bytes(self.size), self.offset)
        return {page for page in range(8 * self.size) if bits >> page & 1}

    def close(self) -> None:
        self.mapped.close()
        os.close(self.fd)


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    yield log
    log.close()


def pages(start: int, length: int) -> set[int]:
    return set(range(start // PAGE, (start + length - 1) // PAGE + 1)) if length else set()


def contents(guest: Guest) -> list[bytes]:
    """By page of guest addresses, which is not what a guest behind an IOMMU reads by."""
    found = []
    for page in range(MEMORY // PAGE):
        mapping, offset = GuestMemory._locate(guest.memory, page * PAGE, PAGE)
        found.append(mapping[offset : offset + PAGE])
    return found


def guest_pages(guest: Guest, start: int, length: int) -> set[int]:
    """The pages of guest addresses that a range of the driver's addresses lies in."""
    if isinstance(guest.memory, IovaMemory):
        return {guest.memory.pages[page] // PAGE for page in pages_of(start, length)}
    return pages(start, length)


def settle(guest: Guest) -> None:
    """With every translation that is needed."""
    if isinstance(guest.memory, IovaMemory):
        iotlb = DeviceIotlb(guest.device)
        for page in guest.memory.pages:
            iotlb.update(page, page + PAGE - 1, guest.memory.page_user_address(page), 3)
    guest.bench.settle()


def changed(before: list[bytes], after: list[bytes]) -> set[int]:
    return {page for page, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}


def start_logged(ring: Ring, is_logged: bool = True) -> None:
    ring.start()
    ring.pair.set_log(ring.which, is_logged, ring.queue.place.used)


def ring_pages(ring: Ring) -> set[int]:
    """Those of the ring that the device may write: the used ring, or descriptors and event area."""
    place, (desc, _, used) = ring.queue.place, ring.queue.part_sizes(ring.queue.size)
    written = guest_pages(ring.guest, place.used, used)
    return (
        written | guest_pages(ring.guest, place.desc, desc)
        if V.RING_PACKED in ring.guest.features
        else written
    )


@pytest.mark.parametrize("platform", [V(0), V.ACCESS_PLATFORM], ids=["", "iommu"])
@pytest.mark.parametrize("features", FORMATS)
def test_every_page_that_changed_is_marked_and_no_other(
    bench: Bench, log: Log, features: V, platform: V
) -> None:
    rng = random.Random(int(features))
    guest = bench.guest(features | platform | V.LOG_ALL, regions=WHOLE)
    guest.device.set_log(log.mapped)
    rx, tx = guest.pair(PortKind.ECHO, 64)
    for ring in (rx, tx):
        start_logged(ring)
    settle(guest)
    log.take()
    writes = 0
    for _ in range(150):
        while rx.queue.outstanding < 40:
            pieces = rng.choice([[2048], [12, 1600], [300] * 5, [100]])
            if rx.add_writable(pieces, indirect=rng.random() < 0.3) is None:
                break
        for _ in range(rng.randint(1, 6)):
            content = rng.randbytes(rng.choice([60, 700, 1514, 4000]))
            if tx.queue.free_descriptors:
                tx.send(content)
        rx.publish()
        tx.publish()
        before = contents(guest)
        settle(guest)
        written = changed(before, contents(guest))
        marked = log.take()

        assert written <= marked
        # An index or an event word may be written with what was there before.
        assert marked <= written | ring_pages(rx) | ring_pages(tx)
        writes += len(marked)
        rx.receive()
        tx.take()
    assert rx.counters.packets > 100
    assert writes > 150
    assert log.mapped.outside == 0


@pytest.mark.parametrize("features", FORMATS)
def test_pages_are_marked_in_each_of_many_regions(bench: Bench, log: Log, features: V) -> None:
    """A page is marked by where it lies for the guest, whichever of 300 mappings it was written through."""
    apart = [Region((32 + 2 * n) * PAGE, PAGE, (32 + n) * PAGE) for n in range(300)]
    guest = bench.guest(features | V.LOG_ALL, regions=[Region(0, 32 * PAGE), *apart])
    guest.device.set_log(log.mapped)
    rx, tx = guest.pair(PortKind.ECHO, 16)
    start_logged(rx)
    start_logged(tx)
    bench.settle()
    for number in random.Random(3).sample(range(300), 300):
        log.take()
        tx.send(frame(number))
        at = Segment(apart[number].gpa + 100, 2048)
        assert rx.queue.add((), (at,), Chain((at,))) is not None
        rx.publish()
        tx.publish()
        bench.settle()

        assert log.take() - ring_pages(rx) - ring_pages(tx) == {32 + 2 * number}
        assert len(rx.queue.take_used()) == 1
        tx.take()


@pytest.mark.parametrize("features", FORMATS)
def test_ring_without_the_flag_has_its_frames_marked_only(bench: Bench, log: Log, features: V) -> None:
    guest = bench.guest(features | V.LOG_ALL, regions=WHOLE)
    guest.device.set_log(log.mapped)
    rx, tx = guest.pair(PortKind.ECHO, 16)
    start_logged(rx, False)
    start_logged(tx, False)
    rx.add_writable([2048])
    rx.publish()
    bench.settle()
    log.take()
    tx.send(frame(1, 1000))
    before = contents(guest)
    tx.publish()
    bench.settle()

    frames = pages_of_frames(rx)
    marked = log.take()
    assert changed(before, contents(guest)) & frames <= marked <= frames


def pages_of_frames(rx: Ring) -> set[int]:
    """Where the frames that came lie; a small ring may share a page with them."""
    found: set[int] = set()
    for chain in rx.queue.take_used():
        for segment in chain.token.segments:
            found |= pages(segment.gpa, segment.length)
    return found


def test_nothing_is_marked_without_log_all(bench: Bench, log: Log) -> None:
    guest = bench.guest(MODERN, regions=WHOLE)
    guest.device.set_log(log.mapped)
    rx, tx = guest.pair(PortKind.ECHO, 16)
    for ring in (rx, tx):
        start_logged(ring)
    rx.add_writable([2048])
    rx.publish()
    tx.send(frame(1))
    tx.publish()
    bench.settle()

    assert log.take() == set()


def test_logging_is_switched_on_and_off_while_rings_run(bench: Bench, log: Log) -> None:
    guest = bench.guest(MODERN, regions=WHOLE)
    guest.device.set_log(log.mapped)
    rx, tx = guest.pair(PortKind.ECHO, 16)
    for ring in (rx, tx):
        start_logged(ring)
    marked = []
    for features in (MODERN, MODERN | V.LOG_ALL, MODERN, MODERN | V.LOG_ALL):
        guest.device.set_features(features)
        rx.add_writable([2048])
        rx.publish()
        tx.send(frame(1))
        tx.publish()
        bench.settle()
        marked.append(bool(log.take()))
        assert len(rx.receive()) == 1
        tx.take()

    assert marked == [False, True, False, True]


def test_nothing_goes_to_the_old_log_after_the_swap(bench: Bench) -> None:
    guest = bench.guest(MODERN | V.LOG_ALL, regions=WHOLE)
    rx, tx = guest.pair(PortKind.ECHO, 16)
    for ring in (rx, tx):
        start_logged(ring)
    old: list[Log] = []
    for _ in range(100):
        new = Log()
        guest.device.set_log(new.mapped)
        for before in old:
            before.mapped.close()
        rx.add_writable([2048])
        rx.publish()
        tx.send(frame(1))
        tx.publish()
        bench.settle()
        rx.receive()
        tx.take()
        assert new.take()
        assert not any(before.take() for before in old[-3:])
        old.append(new)
    guest.device.set_log(None)
    for before in old:
        before.close()
    assert not any("memfd:log" in target for target in open_fds().values())


def test_page_beyond_the_log_is_counted_and_nothing_else(bench: Bench) -> None:
    short = Log(size=1)
    guest = bench.guest(MODERN | V.LOG_ALL, regions=WHOLE)
    guest.device.set_log(short.mapped)
    rx, tx = guest.pair(PortKind.ECHO, 16)
    start_logged(rx)
    start_logged(tx)
    tx.pair.set_log(tx.which, True, (1 << 64) - 4096)
    rx.add_writable([2048])
    for _ in range(40):
        rx.segments([4096])  # the next buffers lie further up
    rx.add_writable([2048])
    rx.publish()
    for number in range(2):
        tx.send(frame(number))
    tx.publish()
    bench.settle()

    assert len(rx.receive()) == 2
    assert short.mapped.outside > 0
    guest.device.set_log(None)
    short.close()


def test_log_that_is_truncated_faults_its_device_and_no_other(bench: Bench) -> None:
    log = Log()
    guest, other = bench.guest(MODERN | V.LOG_ALL, size=MEMORY), bench.guest(MODERN)
    guest.device.set_log(log.mapped)
    rx, tx = guest.pair(PortKind.ECHO, 16)
    start_logged(rx)
    start_logged(tx)
    bench.settle()
    os.ftruncate(log.fd, 0)
    rx.add_writable([2048])
    rx.publish()
    tx.send(frame(1))
    tx.publish()
    bench.settle()

    assert [event.kind for event in bench.events[-1:]] == [EventKind.DEVICE_FAULTED]
    _, sink = other.pair(PortKind.SINK)
    sink.start()
    sink.send(frame(1))
    sink.publish()
    bench.settle()
    assert len(sink.take()) == 1
    guest.device.set_log(None)
    log.close()


def test_offset_need_not_be_a_page() -> None:
    log = Log(size=100, offset=4097)
    assert log.take() == set()
    log.close()


@pytest.mark.parametrize("size", [0, 4097])
def test_file_that_does_not_hold_it_is_refused_and_closed(size: int) -> None:
    fd = memfd(4096)
    with pytest.raises(RequestError, match="log of"):
        DirtyLog(fd, size, 0)
    assert fd not in open_fds()


def test_file_that_cannot_be_mapped_is_refused_and_closed() -> None:
    fd = memfd(4096)
    read_only = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(fd)
    with pytest.raises(RequestError, match="cannot be mapped read-write"):
        DirtyLog(read_only, 4096, 0)
    assert read_only not in open_fds()
