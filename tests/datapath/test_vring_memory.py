"""Rings over a memory table that changes, lies anywhere, or is made of several files."""

from __future__ import annotations

import mmap
import os
import random

import pytest

from tests.conftest import live_regions
from tests.datapath.rig import MODERN, RX, Bench, Chain, Guest, Ring, V, frame, mapped, regions_of, start_at
from vhostuser.datapath.faults import ERROR_NAMES
from vhostuser.datapath.mapping import MappedMemory
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.worker import EventKind
from vhostuser.errors import GuestError
from vhostuser.frontend.guest_memory import Region
from vhostuser.frontend.net_header import PLAIN, NetHeader
from vhostuser.frontend.virtqueue import RingPlace, Segment, SplitVirtqueue

MIB = 1 << 20


def echo(guest: Guest) -> tuple[Ring, Ring]:
    rx, tx = guest.pair(PortKind.ECHO)
    rx.start()
    tx.start()
    guest.bench.settle()
    return rx, tx


def goes_round(rx: Ring, tx: Ring, number: int) -> bool:
    rx.add_writable([2048])
    tx.send(frame(number))
    rx.publish()
    tx.publish()
    rx.guest.bench.settle()
    return [content for _, content in rx.receive()] == [frame(number)] and len(tx.take()) == 1


def without(guest: Guest, *gone: int) -> MappedMemory:
    """The guest's table with some rows left out."""
    regions = regions_of(guest.memory)
    rows = [row for row in range(len(regions)) if row not in gone]
    whole = guest.memory.fds()
    return MappedMemory([regions[row] for row in rows], [os.dup(whole[row]) for row in rows])


@pytest.mark.parametrize("offset", [0, 4096, 100 * 4096, 512, 64, 16])
def test_region_at_any_offset_of_its_file(bench: Bench, offset: int) -> None:
    regions = [Region(gpa=0, size=4 * MIB, mmap_offset=offset), Region(1 << 32, MIB, offset + 4 * MIB)]
    assert goes_round(*echo(bench.guest(regions=regions)), 1)


@pytest.mark.parametrize(
    ("offset", "broken"),
    [(8, (0, 16)), (4, (0, 16)), (2, (0, 16)), (1, (0, 16))],
    ids=lambda value: str(value),
)
def test_region_whose_offset_misaligns_the_ring(bench: Bench, offset: int, broken: tuple[int, int]) -> None:
    """The user addresses are aligned, our view of them is not: said, not crashed on."""
    guest = bench.guest(regions=[Region(gpa=0, size=4 * MIB, mmap_offset=offset, uva=1 << 40)])
    _, tx = guest.pair(PortKind.SINK)
    part, alignment = broken
    at = tx.setup().desc

    with pytest.raises(
        GuestError, match=f"ring part {part} at user address {at:#x} is not aligned to {alignment}"
    ):
        tx.start()


def test_ring_whose_parts_lie_in_different_regions(bench: Bench) -> None:
    """Each part in one region is enough."""
    regions = [Region(i << 32, 4 * MIB, file=str(i)) for i in range(4)]
    guest = bench.guest(regions=regions)
    rx, tx = guest.pair(PortKind.ECHO)
    for ring in (rx, tx):
        place = RingPlace(
            desc=(1 << 32) + ring.which * MIB,
            avail=(2 << 32) + ring.which * MIB,
            used=(3 << 32) + ring.which * MIB,
        )
        ring.queue = SplitVirtqueue(guest.memory, 256, place=place)
        ring.start()
    bench.settle()

    assert goes_round(rx, tx, 1)


def test_buffers_anywhere_in_32_regions(bench: Bench) -> None:
    """As many as a table has, every frame in pieces all over them."""
    regions = [Region(gpa=i * MIB, size=MIB if i % 2 else MIB // 2, file=str(i)) for i in range(32)]
    guest = bench.guest(regions=regions)
    rx, tx = echo(guest)
    rng = random.Random(2)
    for number in range(100):
        content = frame(number, 200)
        whole = PLAIN.build(12) + content
        pieces = [rng.randrange(1, 32) for _ in range(53)]
        for index, region in enumerate(pieces):
            gpa = region * MIB + MIB // 4 + index * 16
            guest.memory.write(gpa, whole[4 * index : 4 * index + 4])
            more = 1 if index < 52 else 0
            tx.queue.write_descriptor(index, gpa, 4, more, index + 1)
        tx.queue.offer_raw(0)
        rx.add_writable([2048])
        rx.publish()
        tx.kick()
        bench.settle()
        assert rx.receive() == [(NetHeader(num_buffers=1), content)]


def test_frame_across_three_regions(bench: Bench) -> None:
    """Adjacent for the guest, apart for us: a buffer is split at each border."""
    page = mmap.PAGESIZE
    regions = [
        Region(gpa=0, size=4 * MIB, file="a"),
        Region(gpa=4 * MIB, size=page, file="b"),
        Region(gpa=4 * MIB + page, size=MIB, file="c"),
    ]
    guest = bench.guest(regions=regions)
    rx, tx = echo(guest)
    content = frame(1, 9000)
    guest.memory.write(4 * MIB - 100, PLAIN.build(12) + content)
    tx.queue.write_descriptor(0, 4 * MIB - 100, 9012, 0, 0)
    tx.queue.offer_raw(0)
    rx.queue.write_descriptor(0, 4 * MIB - 3000, 9100, 2, 0)
    rx.queue.offer_raw(0)

    tx.kick()
    bench.settle()

    assert guest.memory.read(4 * MIB - 3000 + 12, 9000) == content
    assert rx.queue.read_used_entry(0) == (0, 9012)


@pytest.mark.parametrize("offset", [0, 2 * MIB, 4096, 512])
def test_memory_of_huge_pages(bench: Bench, huge_pages: int, offset: int) -> None:
    """Mapped in whole huge pages, wherever in them the region begins."""
    regions = [Region(gpa=0, size=4 * MIB, mmap_offset=offset)]
    rx, tx = echo(bench.guest(regions=regions, huge_page=huge_pages))

    assert goes_round(rx, tx, 1)
    rx.guest.swap(mapped(rx.guest.memory))
    assert goes_round(rx, tx, 2)


# The table changes under running rings


def test_same_table_again_and_again(bench: Bench) -> None:
    guest = bench.guest()
    rx, tx = echo(guest)
    assert live_regions() >= 2
    regions = live_regions()
    for number in range(50):
        assert goes_round(rx, tx, number)
        guest.swap(mapped(guest.memory))
        assert live_regions() == regions
    assert (rx.stop(), tx.stop()) == (50, 50)


def test_table_that_moves_with_work_pending(bench: Bench) -> None:
    """Chains that were shown before the swap are served after it; nothing was left fetched."""
    guest = bench.guest()
    rx, tx = guest.pair(PortKind.ECHO, 1024)
    rx.start()
    tx.start()
    for number in range(600):
        rx.add_writable([100])
        tx.send(frame(number))
    rx.publish()
    tx.publish()
    assert bench.turn()
    assert 0 < tx.used_index < 600

    guest.swap(mapped(guest.memory))
    bench.settle()

    assert [content for _, content in rx.receive()] == [frame(number) for number in range(600)]


@pytest.mark.parametrize("gone", [1, 2])
def test_new_table_without_the_buffers(bench: Bench, gone: int) -> None:
    """Rings still inside, buffers no longer: only a chain that points there breaks."""
    regions = [Region(gpa=i << 32, size=4 * MIB, file=str(i)) for i in range(3)]
    guest = bench.guest(regions=regions)
    rx, tx = echo(guest)
    guest.swap(without(guest, gone))
    assert goes_round(rx, tx, 1)
    tx.queue.write_descriptor(9, gone << 32, 100, 0, 0)
    tx.queue.offer_raw(9)
    tx.kick()
    bench.settle()

    [event] = bench.reported(EventKind.RING_BROKEN)
    assert (ERROR_NAMES[event.error], event.ring) == ("address", 1)
    assert event.values == (9, gone << 32, 100, 0)


@pytest.mark.parametrize("part", ["desc", "avail", "used"])
def test_new_table_without_a_part_of_the_ring(bench: Bench, part: str) -> None:
    """That ring breaks and says so; its pair and another device go on."""
    regions = [Region(gpa=i << 32, size=4 * MIB, file=str(i)) for i in range(2)]
    guest = bench.guest(regions=regions)
    rx, tx = guest.pair(PortKind.SOURCE)
    tx.queue = SplitVirtqueue(
        guest.memory,
        256,
        place=RingPlace(
            **{
                name: ((1 << 32) if name == part else MIB) + 8192 * i
                for i, name in enumerate(("desc", "avail", "used"))
            }
        ),
    )
    rx.start()
    tx.start()
    neighbour = echo(bench.guest())
    address = getattr(tx.setup(), part)

    guest.swap(without(guest, 1))
    bench.settle()

    [event] = bench.reported(EventKind.RING_BROKEN)
    assert (event.device, event.ring) == (0, 1)
    assert ERROR_NAMES[event.error] == "ring address"
    assert (event.values[0], event.values[2]) == (address, ["desc", "avail", "used"].index(part))
    assert tx.errors() == 1
    rx.add_writable([100])
    rx.publish()
    bench.settle()
    assert len(rx.receive()) == 1
    assert goes_round(*neighbour, 1)

    # With the old table back it can be started again.
    guest.swap(mapped(guest.memory))
    tx.stop()
    tx.start()
    tx.send(frame(1))
    tx.publish()
    bench.settle()
    assert len(tx.take()) == 1


def test_no_table_at_all_breaks_every_ring(bench: Bench) -> None:
    guest = bench.guest()
    rx, tx = echo(guest)
    guest.device.set_memory(None)
    for ring in (rx, tx):
        ring.kick()
    bench.settle()

    assert {event.ring for event in bench.reported(EventKind.RING_BROKEN)} == {0, 1}
    assert (rx.errors(), tx.errors()) == (1, 1)


def test_features_decide_the_header_before_the_start(bench: Bench) -> None:
    """One device, one guest after another: 12 bytes, 10 bytes, 12 bytes."""
    guest = bench.guest()
    rx, tx = guest.pair(PortKind.ECHO)
    for number, features in enumerate((MODERN, V(0), V.MRG_RXBUF)):
        guest.device.set_features(features)
        guest.features = features
        guest.header_size = 10 if not features else 12
        rx.start(base=number)
        tx.start(base=number)
        assert goes_round(rx, tx, number)
        rx.stop()
        tx.stop()
    assert rx.which == RX


# Regions that come and go one by one


def test_buffers_in_each_of_509_regions(bench: Bench) -> None:
    """Found whatever the order in which they came, and to the last byte; what lies between them is not."""
    guest = bench.guest(
        regions=[Region(0, 4 * MIB, file="rings"), *(Region(n << 32, 4096, n * 8192) for n in range(1, 509))]
    )
    rows, fds = regions_of(guest.memory), guest.memory.fds()
    rx, tx = guest.pair(PortKind.ECHO, 1024)
    table = MappedMemory([rows[0]], [os.dup(fds[0])])
    for row in random.Random(5).sample(range(1, 509), 508):
        larger = table.plus(rows[row], os.dup(fds[row]))
        table.close()
        table = larger
    guest.swap(table)
    rx.start()
    tx.start()
    for number in random.Random(6).sample(range(1, 509), 508):
        start = (number << 32) + 4096 - 72
        guest.memory.write(start, bytes(12) + frame(number))
        assert tx.queue.add([Segment(start, 72)], (), Chain((Segment(0, 0),))) is not None
        rx.add_writable([72])
        rx.publish()
        tx.publish()
        bench.settle()
        assert [content for _, content in rx.receive()] == [frame(number)]
        tx.queue.take_used()

    for start in ((7 << 32) + 4096, (7 << 32) - 1, 509 << 32):
        base = tx.stop()
        tx.start(base=base)
        bench.settle()
        tx.queue.write_descriptor(0, start, 60, 0, 0)
        tx.queue.offer_raw(0)
        tx.kick()
        bench.settle()
        event = bench.reported(EventKind.RING_BROKEN)[-1]
        assert ERROR_NAMES[event.error] == "address"
        assert event.values[1] == start
        start_at(tx.queue, base)


def test_region_is_added_and_removed_while_frames_go_round(bench: Bench) -> None:
    guest = bench.guest(regions=[Region(0, 4 * MIB, file="rings"), Region(1 << 32, 4 * MIB, file="more")])
    rows, fds = regions_of(guest.memory), guest.memory.fds()
    guest.swap(MappedMemory(rows[:1], [os.dup(fds[0])]))
    rx, tx = echo(guest)
    for number in range(20):
        small = guest._tables[-1]
        guest.device.set_memory(large := small.plus(rows[1], os.dup(fds[1])))
        at = (1 << 32) + 4096 * number
        guest.memory.write(at, bytes(12) + frame(number))
        assert tx.queue.add([Segment(at, 72)], (), Chain((Segment(at, 72),))) is not None
        rx.add_writable([2048])
        rx.publish()
        tx.publish()
        bench.settle()
        assert [content for _, content in rx.receive()] == [frame(number)]
        assert len(tx.queue.take_used()) == 1
        rest = large.minus(rows[1])
        assert rest is not None
        guest.swap(rest)
        large.close()
        assert live_regions() == 1
        assert goes_round(rx, tx, 100 + number)
    assert bench.reported(EventKind.RING_BROKEN) == []


def test_buffer_in_a_region_that_was_removed_breaks_its_ring(bench: Bench) -> None:
    guest = bench.guest(regions=[Region(0, 4 * MIB, file="rings"), Region(1 << 32, MIB, file="more")])
    _, tx = echo(guest)
    whole = guest._tables[-1]
    rest = whole.minus(regions_of(guest.memory)[1])
    assert rest is not None
    guest.swap(rest)
    tx.queue.write_descriptor(0, 1 << 32, 72, 0, 0)
    tx.queue.offer_raw(0)
    tx.kick()
    bench.settle()

    (event,) = bench.reported(EventKind.RING_BROKEN)
    assert (ERROR_NAMES[event.error], event.values[1:3]) == ("address", (1 << 32, 72))
