"""Rings behind an IOMMU whose pages lie apart in guest memory: they are served as if in one piece."""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Iterator

import pytest

from tests.datapath.rig import Bench, Ring, V, frame
from tests.datapath.test_dirty_log import (
    WHOLE,
    Log,
    changed,
    contents,
    guest_pages,
    ring_pages,
    settle,
    start_logged,
)
from tests.datapath.test_iotlb import FORMATS, Platform
from vhostuser.datapath.iotlb import view_pages
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.worker import EventKind
from vhostuser.frontend.iova_memory import PAGE, pages_of

SIZE = 1024
"""Entries: four pages of descriptors, one or two of avail, three of used."""


@pytest.fixture(autouse=True)
def no_page_is_left() -> Iterator[None]:
    assert view_pages() == 0
    yield
    assert view_pages() == 0


def is_apart(platform: Platform, ring: Ring) -> bool:
    desc = ring.queue.place.desc
    places = [platform.memory.guest_address(desc + at) for at in range(0, 16 * SIZE, PAGE)]
    return any(there - here != PAGE for here, there in itertools.pairwise(places))


@pytest.mark.parametrize("features", FORMATS)
def test_frames_go_round_the_whole_ring(bench: Bench, features: V) -> None:
    platform = Platform(bench, features)
    rx, tx = platform.guest.pair(PortKind.ECHO, SIZE)
    assert is_apart(platform, rx)
    assert is_apart(platform, tx)
    rx.start()
    tx.start()
    for number in range(3 * SIZE):
        rx.add_writable([200])
        tx.send(frame(number))
        if number % 100 == 99:
            rx.publish()
            tx.publish()
            platform.answer()
            tx.take()
            received = [content for _, content in rx.receive()]
            assert received == [frame(n) for n in range(number - 99, number + 1)]
    assert view_pages() >= 8

    platform.iotlb.invalidate(0, (1 << 64) - 1)
    assert view_pages() == 0
    rx.add_writable([200])
    tx.send(frame(7))
    rx.publish()
    tx.publish()
    platform.answer()
    assert frame(7) in [content for _, content in rx.receive()]
    platform.guest.close()


@pytest.mark.parametrize("features", FORMATS)
def test_dirty_log_has_the_pages_where_they_are(bench: Bench, features: V) -> None:
    log = Log()
    rng = random.Random(int(features))
    guest = bench.guest(features | V.LOG_ALL, regions=WHOLE)
    guest.device.set_log(log.mapped)
    rx, tx = guest.pair(PortKind.ECHO, SIZE)
    for ring in (rx, tx):
        start_logged(ring)
    settle(guest)
    log.take()
    rings = set[int]()
    for _ in range(60):
        buffers = []
        for _ in range(rng.randint(1, 60)):
            buffers.append(rx.add_writable([1600]))
            tx.send(frame(rng.randrange(1 << 16), rng.randint(60, 1500)))
        rx.publish()
        tx.publish()
        before = contents(guest)
        settle(guest)
        marked = log.take()
        assert changed(before, contents(guest)) <= marked
        rings |= marked & (ring_pages(rx) | ring_pages(tx))
        rx.receive()
        tx.take()
    # All of what is written of a used ring: its last descriptors lie on other pages than its first.
    for ring in (rx, tx):
        place, (_, _, used) = ring.queue.place, ring.queue.part_sizes(SIZE)
        assert guest_pages(guest, place.used, used) <= rings
    guest.close()
    log.close()


@pytest.mark.parametrize("features", FORMATS)
def test_memory_that_goes_away_costs_the_device_only(bench: Bench, features: V) -> None:
    platform, other = Platform(bench, features), Platform(bench, features)
    for each in (platform, other):
        _, tx = each.guest.pair(PortKind.SINK, SIZE)
        tx.start()
        each.answer()
    platform.memory.truncate("ram", 0)
    (victim,), (bystander,) = platform.guest.rings[1:], other.guest.rings[1:]
    victim.kick()
    bystander.send(frame(1))
    bystander.publish()
    other.answer()

    (fault,) = bench.reported(EventKind.DEVICE_FAULTED)
    assert fault.device == platform.guest.number
    assert (fault.values[1], fault.values[2]) == (
        platform.memory.regions[0].gpa,
        platform.memory.regions[0].size,
    )
    assert len(bystander.take()) == 1
    platform.guest.close()
    other.guest.close()


def test_page_that_is_none_of_the_hosts_breaks_the_ring(bench: Bench) -> None:
    platform = Platform(bench)
    _, tx = platform.guest.pair(PortKind.SINK, SIZE)
    place = tx.queue.place
    platform.tell_all()
    page = place.desc + PAGE
    user = platform.memory.page_user_address(page)
    # A page of the IOMMU that begins in the middle of one of ours.
    platform.iotlb.update(page, page + PAGE - 1, user + (512 if user % (1 << 20) < 1 << 19 else -512), 3)
    tx.start()
    platform.answer()

    (broken,) = bench.reported(EventKind.RING_BROKEN)
    assert broken.values == (place.desc, 16 * SIZE, 0, errno.EINVAL)
    platform.guest.close()


def test_pages_of_a_device_are_bounded(bench: Bench) -> None:
    """A mapping each, of which the kernel gives the process so many: other devices need theirs."""
    greedy = Platform(bench, size=32 << 20)
    for _ in range(10):
        _, tx = greedy.guest.pair(PortKind.SINK, 32768)
        tx.start()
        place, sizes = tx.queue.place, tx.queue.part_sizes(32768)
        for start, size in zip((place.desc, place.avail, place.used), sizes, strict=True):
            for page in pages_of(start, size):
                greedy.tell(page)
        bench.settle()

    (broken,) = bench.reported(EventKind.RING_BROKEN)
    assert (broken.ring, broken.values[3]) == (19, errno.ENOMEM)
    assert view_pages() <= 2048
    modest = Platform(bench)
    _, tx = modest.guest.pair(PortKind.SINK, SIZE)
    tx.start()
    modest.answer()
    assert bench.reported(EventKind.RING_BROKEN) == [broken]
    modest.guest.close()
    greedy.guest.close()
