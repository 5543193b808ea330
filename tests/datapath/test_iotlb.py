"""Rings behind an IOMMU: a miss is asked for once and parks its ring alone; nothing is lost or late."""

from __future__ import annotations

import random
from contextlib import closing

import pytest

from tests.datapath.rig import Bench, Guest, Ring, V, frame, mapped
from tests.datapath.wires import Wire
from vhostuser.datapath.iotlb import IOTLB_ENTRIES, DeviceIotlb, Miss
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.worker import EventKind
from vhostuser.errors import RequestError
from vhostuser.frontend.iova_memory import IOVA_BASE, PAGE, IovaMemory

READ, WRITE, BOTH = 1, 2, 3
END = (1 << 64) - 1
PLATFORM = V.VERSION_1 | V.MRG_RXBUF | V.INDIRECT_DESC | V.ACCESS_PLATFORM
FORMATS = [
    pytest.param(PLATFORM, id="split"),
    pytest.param(PLATFORM | V.EVENT_IDX, id="split-events"),
    pytest.param(PLATFORM | V.RING_PACKED, id="packed"),
    pytest.param(PLATFORM | V.RING_PACKED | V.EVENT_IDX, id="packed-events"),
]


class Platform:
    """A guest behind an IOMMU, which answers when the test lets it."""

    def __init__(self, bench: Bench, features: V = PLATFORM, size: int = 16 << 20) -> None:
        self.bench = bench
        self.guest: Guest = bench.guest(features, size=size)
        assert isinstance(self.guest.memory, IovaMemory)
        self.memory = self.guest.memory
        self.iotlb = DeviceIotlb(self.guest.device)
        self.asked: list[Miss] = []

    def tell(self, iova: int, access: int = BOTH) -> None:
        page = iova & -PAGE
        self.iotlb.update(page, page + PAGE - 1, self.memory.page_user_address(page), access)

    def misses(self) -> list[Miss]:
        self.bench.settle()
        found = list(self.iotlb.take_misses())
        self.asked += found
        return found

    def answer(self) -> int:
        """Lets the device work and answers, until it asks for nothing more; how often it asked."""
        count = 0
        while found := self.misses():
            for miss in found:
                self.tell(miss.iova)
            count += len(found)
            assert count < 10_000
        return count

    def tell_all(self) -> None:
        for page in self.memory.pages:
            self.tell(page)


@pytest.mark.parametrize("features", FORMATS)
def test_each_part_of_a_ring_is_asked_for_before_it_starts(bench: Bench, features: V) -> None:
    platform = Platform(bench, features)
    _, tx = platform.guest.pair(PortKind.SINK, 256)
    tx.start()
    place = tx.queue.place
    parts = [(place.desc, READ), (place.avail, READ), (place.used, BOTH)]
    if V.RING_PACKED in features:  # its event areas lie in one page
        parts = [(place.desc, BOTH), (place.avail, READ)]
    for address, access in parts:
        (miss,) = platform.misses()
        assert (miss.iova, miss.access) == (address, access)
        assert bench.reported(EventKind.RING_STARTED) == []
        platform.tell(address)
    bench.settle()

    assert len(bench.reported(EventKind.RING_STARTED)) == 1


@pytest.mark.parametrize("features", FORMATS)
@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
def test_echo_with_every_translation_asked_for(bench: Bench, features: V, indirect: bool) -> None:
    platform = Platform(bench, features)
    rx, tx = platform.guest.pair(PortKind.ECHO, 64)
    rx.start()
    tx.start()
    for number in range(40):
        assert rx.add_writable([300] * 5 if indirect else [1600], indirect=indirect) is not None
        content = frame(number, 1400)
        pieces = [12, 700, 700] if indirect else None
        tx.send(content, pieces=pieces, indirect=indirect)
    rx.publish()
    tx.publish()
    asked = platform.answer()

    assert [content for _, content in rx.receive()] == [frame(n, 1400) for n in range(40)]
    assert len(tx.take()) == 40
    assert asked > 20
    assert rx.counters.drops == tx.counters.drops == {}


@pytest.mark.parametrize("features", FORMATS)
def test_frames_that_cross_pages_are_whole(bench: Bench, features: V) -> None:
    platform = Platform(bench, features)
    rx, tx = platform.guest.pair(PortKind.ECHO, 64)
    rx.start()
    tx.start()
    contents = [frame(n, 9000 + n) for n in range(10)]
    for content in contents:
        rx.add_writable([9100])
        tx.send(content)
    rx.publish()
    tx.publish()
    platform.answer()

    assert [content for _, content in rx.receive()] == contents


def test_miss_is_asked_for_once_however_often_the_ring_is_kicked(bench: Bench) -> None:
    platform = Platform(bench)
    _, tx = platform.guest.pair(PortKind.SINK, 16)
    tx.start()
    assert len(platform.misses()) == 1
    for _ in range(20):
        tx.kick()
        assert platform.misses() == []
    assert len(bench.reported(EventKind.IOTLB_MISS)) == 1


def test_two_rings_that_wait_for_one_page_ask_once_and_both_go_on(bench: Bench) -> None:
    platform = Platform(bench)
    rings = [platform.guest.pair(PortKind.SINK, 16)[1] for _ in range(3)]
    assert len({ring.queue.place.desc & -PAGE for ring in rings}) == 1
    for ring in rings:
        ring.start()
    (miss,) = platform.misses()
    platform.tell(miss.iova)
    platform.answer()

    assert len(bench.reported(EventKind.RING_STARTED)) == 3


def test_parked_ring_costs_nothing_and_other_guests_go_on(bench: Bench) -> None:
    platform = Platform(bench)
    _, tx = platform.guest.pair(PortKind.SINK, 16)
    tx.start()
    platform.misses()
    _, other = bench.guest().pair(PortKind.SINK, 16)
    other.start()
    other.send(frame(1))
    other.publish()
    assert bench.settle() < 10
    assert len(other.take()) == 1
    assert not bench.wakes()


def test_update_elsewhere_wakes_nobody_and_a_narrower_one_neither(bench: Bench) -> None:
    platform = Platform(bench)
    _, tx = platform.guest.pair(PortKind.SINK, 16)
    place = tx.queue.place
    tx.start()
    platform.misses()
    elsewhere = platform.memory.alloc(2 * PAGE)
    platform.tell(elsewhere)
    assert platform.misses() == []
    platform.tell(place.desc)
    platform.answer()
    rx, _ = platform.guest.pair(PortKind.SOURCE, 16)
    rx.add_writable([2048])
    rx.publish()
    rx.start()
    while (miss := platform.misses()[0]).access != WRITE:
        platform.tell(miss.iova)
    platform.tell(miss.iova, READ)  # what was there before is forgotten: the rings lie elsewhere
    assert platform.misses() == []
    platform.tell(miss.iova, BOTH)
    platform.answer()
    assert len(rx.receive()) == 1


def test_what_may_only_be_read_is_not_written(bench: Bench) -> None:
    platform = Platform(bench)
    rx, _ = platform.guest.pair(PortKind.SOURCE, 16)
    rx.add_writable([4000])
    rx.publish()
    platform.tell_all()
    (buffer,) = [page for page in platform.memory.pages if page & -PAGE != rx.queue.place.desc & -PAGE]
    before = platform.memory.read(buffer, PAGE)
    platform.tell(buffer, READ)
    rx.start()

    (miss,) = platform.misses()
    assert (miss.iova & -PAGE, miss.access) == (buffer, WRITE)
    assert platform.memory.read(buffer, PAGE) == before


def test_what_may_only_be_written_is_not_read(bench: Bench) -> None:
    platform = Platform(bench)
    _, tx = platform.guest.pair(PortKind.SINK, 16)
    tx.send(frame(1, 3000))
    tx.publish()
    platform.tell_all()
    (buffer,) = [page for page in platform.memory.pages if page != tx.queue.place.desc & -PAGE]
    platform.tell(buffer, WRITE)
    tx.start()

    (miss,) = platform.misses()
    assert (miss.iova & -PAGE, miss.access) == (buffer, READ)
    assert tx.used_index == 0


def test_miss_in_a_chain_completes_those_before_it(bench: Bench) -> None:
    platform = Platform(bench)
    _, tx = platform.guest.pair(PortKind.SINK, 16)
    tx.start()
    tx.send(frame(1, 3000))
    platform.tell_all()
    tx.send(frame(2, 3000))
    tx.publish()
    (miss,) = platform.misses()

    assert len(tx.take()) == 1
    assert tx.stop() == 1
    tx.start()
    platform.tell(miss.iova)
    platform.answer()
    assert len(tx.take()) == 1


def test_ring_may_be_stopped_while_it_waits_for_its_own_parts(bench: Bench) -> None:
    platform = Platform(bench)
    _, tx = platform.guest.pair(PortKind.SINK, 16)
    tx.start(base=0)
    platform.misses()
    assert tx.stop() == 0
    assert platform.iotlb.waits_for(1) is None
    platform.tell_all()
    assert bench.reported(EventKind.RING_STARTED) == []


def test_refused_miss_breaks_its_ring_and_no_other(bench: Bench) -> None:
    platform = Platform(bench)
    rings = [platform.guest.pair(PortKind.SINK, 16)[1] for _ in range(2)]
    for ring in rings:
        ring.start()
    platform.answer()
    rings[0].send(frame(1, 3000))
    rings[0].publish()
    rings[1].send(frame(2, 3000))
    rings[1].publish()
    bench.settle()
    asked = platform.misses()
    first, second = platform.iotlb.waits_for(1), platform.iotlb.waits_for(3)
    assert first is not None
    assert second is not None
    assert sorted(asked, key=lambda miss: miss.iova) == [first, second]
    platform.iotlb.refuse(first)
    platform.tell(second.iova)
    platform.answer()

    (broken,) = bench.reported(EventKind.RING_BROKEN)
    assert broken.ring == 1
    assert broken.values[:2] == (READ, first.iova)
    assert rings[0].errors() == 1
    assert rings[0].used_index == 0
    assert len(rings[1].take()) == 1


def test_refusal_that_comes_after_the_ring_has_gone_on_does_nothing(bench: Bench) -> None:
    platform = Platform(bench)
    _, tx = platform.guest.pair(PortKind.SINK, 16)
    tx.start()
    (miss,) = platform.misses()
    platform.tell(miss.iova)
    platform.iotlb.refuse(miss)
    tx.stop()
    tx.start()
    platform.iotlb.refuse(miss)
    platform.answer()

    assert bench.reported(EventKind.RING_BROKEN) == []


def test_all_is_asked_for_again_on_a_new_channel(bench: Bench) -> None:
    platform = Platform(bench)
    _, tx = platform.guest.pair(PortKind.SINK, 16)
    tx.start()
    (miss,) = platform.misses()
    platform.iotlb.ask_again()
    (again,) = platform.misses()
    assert (again.iova, again.access) == (miss.iova, miss.access)
    platform.iotlb.refuse(miss)  # whoever was asked first has no say any more
    platform.tell(again.iova)
    platform.answer()
    assert len(bench.reported(EventKind.RING_STARTED)) == 1


# What changes under rings that run


@pytest.mark.parametrize("features", FORMATS)
def test_pages_move_in_traffic(bench: Bench, features: V) -> None:
    platform = Platform(bench, features)
    rng = random.Random(int(features))
    rx, tx = platform.guest.pair(PortKind.ECHO, 32)
    rx.start()
    tx.start()
    sent = received = 0
    for _ in range(300):
        while rx.queue.outstanding < 16:
            rx.add_writable([1600])
        for _ in range(rng.randrange(4)):
            tx.send(frame(sent, 1000))
            sent += 1
        rx.publish()
        tx.publish()
        for _ in range(rng.randrange(4)):
            bench.turn()
        choice = rng.random()
        if choice < 0.5:
            page = rng.choice(list(platform.memory.pages))
            platform.iotlb.invalidate(page, page + PAGE - 1)
            platform.memory.move_page(page)
        elif choice < 0.6:
            platform.iotlb.invalidate(0, END)
        platform.answer()
        for _, content in rx.receive():
            assert content == frame(received, 1000)
            received += 1
        tx.take()
    assert received == sent > 300
    assert bench.reported(EventKind.RING_BROKEN) == []


@pytest.mark.parametrize("features", FORMATS)
def test_position_survives_when_the_ring_itself_moves(bench: Bench, features: V) -> None:
    platform = Platform(bench, features)
    _, tx = platform.guest.pair(PortKind.SINK, 256)
    tx.start()
    for number in range(5):
        tx.send(frame(number))
    tx.publish()
    platform.answer()
    assert len(tx.take()) == 5
    for page in {address & -PAGE for address in vars_of(tx)}:
        platform.iotlb.invalidate(page, page)  # one byte of it is enough
        platform.memory.move_page(page)
    tx.send(frame(6))
    tx.publish()
    assert platform.answer() >= 2
    assert len(tx.take()) == 1
    assert len(bench.reported(EventKind.RING_STARTED)) == 1
    platform.iotlb.invalidate(0, END)
    assert tx.stop() & 0x7FFF == 6  # also while nothing is known of it


def vars_of(ring: Ring) -> tuple[int, int, int]:
    place = ring.queue.place
    return place.desc, place.avail, place.used


def test_update_of_the_place_that_is_known_disturbs_nothing(bench: Bench) -> None:
    platform = Platform(bench)
    _, tx = platform.guest.pair(PortKind.SINK, 16)
    tx.start()
    platform.answer()
    known = len(platform.iotlb)
    platform.tell(tx.queue.place.used)
    tx.send(frame(1))
    platform.tell_all()
    tx.publish()

    assert platform.misses() == []
    assert len(platform.iotlb) == known
    assert len(tx.take()) == 1


def test_update_replaces_what_it_overlaps(bench: Bench) -> None:
    platform = Platform(bench)
    start = platform.memory.alloc(8 * PAGE)
    region = platform.memory.regions[0]
    assert region.uva is not None
    platform.iotlb.update(start, start + 8 * PAGE - 1, region.uva, BOTH)
    platform.iotlb.update(start + 8 * PAGE, start + 9 * PAGE - 1, region.uva, BOTH)
    assert len(platform.iotlb) == 2
    platform.iotlb.update(start + PAGE, start + 2 * PAGE - 1, region.uva, BOTH)
    assert len(platform.iotlb) == 2
    platform.iotlb.update(start - PAGE, start + 20 * PAGE - 1, region.uva, BOTH)
    assert len(platform.iotlb) == 1


@pytest.mark.parametrize(
    ("first", "last", "left"),
    [
        (0, END, 0),
        (IOVA_BASE, IOVA_BASE, 3),
        (IOVA_BASE + PAGE - 1, IOVA_BASE + PAGE, 2),
        (IOVA_BASE + 4 * PAGE, END, 4),
        (0, IOVA_BASE - 1, 4),
        (IOVA_BASE + PAGE, END, 1),
    ],
)
def test_invalidation_takes_every_range_that_it_touches(
    bench: Bench, first: int, last: int, left: int
) -> None:
    platform = Platform(bench)
    region = platform.memory.regions[0]
    assert region.uva is not None
    for page in range(IOVA_BASE, IOVA_BASE + 4 * PAGE, PAGE):
        platform.iotlb.update(page, page + PAGE - 1, region.uva, BOTH)
    platform.iotlb.invalidate(first, last)

    assert len(platform.iotlb) == left


def test_iotlb_is_bounded_and_evicted_ranges_are_asked_for_again(bench: Bench) -> None:
    platform = Platform(bench)
    _, tx = platform.guest.pair(PortKind.SINK, 16)
    tx.start()
    platform.answer()
    region = platform.memory.regions[0]
    assert region.uva is not None
    for number in range(3 * IOTLB_ENTRIES):
        at = (1 << 40) + number * PAGE
        platform.iotlb.update(at, at + PAGE - 1, region.uva, BOTH)
    assert len(platform.iotlb) == IOTLB_ENTRIES
    for number in range(8):
        tx.send(frame(number, 3000))
    tx.publish()
    platform.answer()

    assert len(tx.take()) == 8
    assert len(platform.iotlb) == IOTLB_ENTRIES


@pytest.mark.parametrize("where", ["before", "behind", "across", "nowhere"])
def test_update_outside_of_memory_is_refused_and_changes_nothing(bench: Bench, where: str) -> None:
    platform = Platform(bench)
    platform.memory.alloc(64)
    platform.tell_all()
    region = platform.memory.regions[0]
    assert region.uva is not None
    end = region.uva + region.size
    uva = {"before": region.uva - PAGE, "behind": end, "across": end - PAGE // 2, "nowhere": 0x1000}[where]
    if where == "behind":  # the other region lies in the same file, right behind
        uva = end + platform.memory.regions[1].size
    with pytest.raises(RequestError, match="not within one memory region"):
        platform.iotlb.update(IOVA_BASE, IOVA_BASE + PAGE - 1, uva, BOTH)
    assert len(platform.iotlb) == 1


def test_new_memory_table_forgets_all_and_asks_again(bench: Bench) -> None:
    platform = Platform(bench)
    _, tx = platform.guest.pair(PortKind.SINK, 16)
    tx.start()
    platform.answer()
    platform.guest.swap(mapped(platform.memory))
    assert len(platform.iotlb) == 0
    tx.send(frame(1))
    tx.publish()
    assert platform.answer() > 0
    assert len(tx.take()) == 1


def test_features_that_are_said_again_forget_all(bench: Bench) -> None:
    """QEMU says them at each start, and between stop and start nothing of what its IOMMU forgets."""
    platform = Platform(bench)
    _, tx = platform.guest.pair(PortKind.SINK, 16)
    tx.start()
    platform.answer()
    tx.stop()
    for page in list(platform.memory.pages):
        platform.memory.move_page(page)
    platform.guest.device.set_features(PLATFORM)
    assert len(platform.iotlb) == 0
    tx.send(frame(1))
    tx.publish()
    tx.start()
    assert platform.answer() > 0
    assert len(tx.take()) == 1


def test_address_that_wraps_breaks_the_ring_and_asks_for_nothing(bench: Bench) -> None:
    platform = Platform(bench)
    _, tx = platform.guest.pair(PortKind.SINK, 16)
    tx.start()
    platform.answer()
    tx.send(frame(1))
    tx.queue.write_descriptor(0, END - 10, 100, 0, 0)
    tx.publish()

    assert platform.misses() == []
    assert len(bench.reported(EventKind.RING_BROKEN)) == 1


def test_frames_of_a_port_wait_in_it_while_the_ring_waits(bench: Bench) -> None:
    platform = Platform(bench)
    with closing(Wire()) as wire:
        rx, _ = platform.guest.pair(PortKind.FD, 16, fd=wire.fd)
        for _ in range(8):
            rx.add_writable([2048])
        rx.publish()
        rx.start()
        wire.put(frame(1))
        while (found := platform.misses())[0].access != WRITE:
            platform.tell(found[0].iova)
        turns = bench.settle()
        for number in range(2, 6):
            wire.put(frame(number))
            assert not bench.wakes()
        assert turns < 10
        platform.tell(found[0].iova)
        platform.answer()
        assert [content for _, content in rx.receive()] == [frame(n) for n in range(1, 6)]
        assert rx.counters.drops == {}
