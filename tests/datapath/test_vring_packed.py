"""What packed rings have of their own: positions with laps, event areas, descriptors that say too much.

That frames pass whole in both formats is test_vring.py's.
"""

from __future__ import annotations

from typing import cast

import pytest

from tests.datapath.rig import Bench, Chain, Ring, V, frame, mapped
from vhostuser.datapath.faults import ERROR_NAMES
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.worker import EventKind
from vhostuser.frontend.packed_virtqueue import EventFlag, PackedDescriptor, PackedVirtqueue
from vhostuser.frontend.ring_position import RingPosition, build_base

PACKED = V.VERSION_1 | V.RING_PACKED | V.MRG_RXBUF
NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 0x80, 0x8000


def packed(ring: Ring) -> PackedVirtqueue[Chain]:
    return cast(PackedVirtqueue[Chain], ring.queue)


def broken_by(bench: Bench) -> list[str]:
    return [ERROR_NAMES[event.error] for event in bench.reported(EventKind.RING_BROKEN)]


def sink(bench: Bench, features: V = PACKED, size: int = 16) -> Ring:
    _, tx = bench.guest(features).pair(PortKind.SINK, size)
    return tx


@pytest.mark.parametrize("event_idx", [V(0), V.EVENT_IDX], ids=["flags", "events"])
@pytest.mark.parametrize("size", [1, 3, 16, 255, 1000])
def test_laps_without_end_and_no_kick_that_was_not_asked_for_is_needed(
    bench: Bench, size: int, event_idx: V
) -> None:
    tx = sink(bench, PACKED | event_idx, size)
    tx.start()
    bench.settle()
    sent = came = 0
    for number in range(200):
        for _ in range(1 + number % size % 40):
            if not tx.queue.free_descriptors:
                break
            tx.send(frame(sent))
            sent += 1
        tx.publish()  # kicks when the device asks for it, and only then
        bench.settle()
        came += len(tx.take())
        assert came == sent
    assert tx.counters.packets == sent


@pytest.mark.parametrize("size", [3, 16])
def test_stopped_ring_goes_on_at_the_base_that_it_gave(bench: Bench, size: int) -> None:
    tx = sink(bench, size=size)
    base = packed(tx).device_base()
    for _ in range(5 * size):
        tx.start(base=base)
        tx.send(frame(1))
        tx.publish()
        bench.settle()
        assert len(tx.take()) == 1
        base = tx.stop()
        assert base == packed(tx).device_base()


def test_base_whose_used_half_is_not_filled_in_is_its_available_half(bench: Bench) -> None:
    # DPDK's virtio-user says 0x8000.
    tx = sink(bench)
    tx.send(frame(1))
    tx.publish()
    tx.start(base=0x8000)
    bench.settle()

    assert len(tx.take()) == 1


def test_chains_that_another_back_end_took_and_did_not_finish_are_served(bench: Bench) -> None:
    tx = sink(bench)
    for number in range(3):
        tx.send(frame(number))
    tx.publish()
    tx.start(base=build_base(RingPosition(2, True), RingPosition(0, True)))
    bench.settle()

    assert len(tx.take()) == 3


@pytest.mark.parametrize("slot", [16, 17, 0x7FFF])
def test_position_beyond_the_ring_is_refused_in_words(bench: Bench, slot: int) -> None:
    tx = sink(bench)
    tx.start(base=build_base(RingPosition(slot, True), RingPosition(slot, True)))
    bench.settle()

    assert broken_by(bench) == ["base"]
    assert tx.errors() == 1


def test_position_that_was_used_in_this_lap_is_refused(bench: Bench) -> None:
    tx = sink(bench)
    tx.start()
    for number in range(5):
        tx.send(frame(number))
    tx.publish()
    bench.settle()
    tx.stop()

    tx.start(base=build_base(RingPosition(2, True), RingPosition(2, True)))
    bench.settle()

    assert broken_by(bench) == ["base"]


def test_ring_that_sleeps_asks_for_a_kick_at_its_position(bench: Bench) -> None:
    tx = sink(bench, PACKED | V.EVENT_IDX)
    tx.start()
    bench.settle()
    assert packed(tx).read_device_event() == (RingPosition(0, True), EventFlag.DESC)
    for number in range(16):
        tx.send(frame(number))
    tx.publish()
    bench.settle()

    assert packed(tx).read_device_event() == (RingPosition(0, False), EventFlag.DESC)


def test_calls_come_where_the_driver_wants_them(bench: Bench) -> None:
    tx = sink(bench, PACKED | V.EVENT_IDX)
    tx.start()
    tx.send(frame(0))
    tx.publish()
    bench.settle()
    assert tx.calls() == 1  # the first is always called
    tx.take()

    packed(tx).write_driver_event(RingPosition(3, True), EventFlag.DESC)
    called = []
    for number in range(1, 6):
        tx.send(frame(number))
        tx.publish()
        bench.settle()
        called.append(tx.calls())
    assert called == [0, 0, 1, 0, 0]

    packed(tx).write_driver_event(RingPosition(0, False), EventFlag.DISABLE)
    tx.send(frame(6))
    tx.publish()
    bench.settle()
    assert tx.calls() == 0


@pytest.mark.parametrize(("slot", "flags"), [(0, 3), (16, 2), (0x7FFF, 2), (0, 0xFFFF)])
def test_event_area_that_says_what_none_may_costs_nothing_but_calls(
    bench: Bench, slot: int, flags: int
) -> None:
    tx = sink(bench, PACKED | V.EVENT_IDX)
    tx.start()
    packed(tx).write_driver_event(RingPosition(slot, True), flags)
    for number in range(40):
        tx.send(frame(number))
        tx.publish()
        bench.settle()
        tx.take()

    assert tx.counters.packets == 40
    assert broken_by(bench) == []


@pytest.mark.parametrize("state", [0, AVAIL | USED, USED], ids=["none", "both", "used"])
def test_descriptor_of_another_lap_is_not_there(bench: Bench, state: int) -> None:
    tx = sink(bench)
    tx.start()
    [buffer] = tx.segments([100])
    packed(tx).write_descriptor(0, buffer.gpa, 100, 0, state)
    tx.kick()
    bench.settle()

    assert tx.counters.chains == 0
    # With both bits set at the very start the position cannot be right.
    assert broken_by(bench) == (["base"] if state == AVAIL | USED else [])


def test_chain_without_end_breaks_the_ring(bench: Bench) -> None:
    tx = sink(bench)
    tx.start()
    bench.settle()
    [buffer] = tx.segments([100])
    for slot in range(16):
        packed(tx).write_descriptor(slot, buffer.gpa, 100, 0, AVAIL | NEXT)
    tx.kick()
    bench.settle()

    assert broken_by(bench) == ["chain length"]


def test_laps_that_are_forged_in_one_burst_end_with_the_ring(bench: Bench) -> None:
    # A whole ring at once is the most that a burst takes, whatever the next lap's bits say.
    tx = sink(bench, size=4)
    tx.start()
    bench.settle()
    [buffer] = tx.segments([100])
    for slot in range(4):
        packed(tx).write_descriptor(slot, buffer.gpa, 100, slot, AVAIL)
    tx.kick()
    bench.settle()

    assert tx.counters.chains == 4
    assert tx.stop() == build_base(RingPosition(0, False), RingPosition(0, False))


def test_id_is_the_drivers_and_comes_back_as_it_was(bench: Bench) -> None:
    tx = sink(bench)
    tx.start()
    [buffer] = tx.segments([100])
    packed(tx).offer_raw(PackedDescriptor(buffer.gpa, 100, 0xFFFF, 0))
    tx.kick()
    bench.settle()

    used = packed(tx).read_used(RingPosition(0, True))
    assert used is not None
    assert used.buffer_id == 0xFFFF


@pytest.mark.parametrize(
    ("flags", "length", "error"),
    [
        (INDIRECT | NEXT, 32, "indirect next"),
        (INDIRECT, 0, "indirect length"),
        (INDIRECT, 15, "indirect length"),
        (INDIRECT, 16 * 1025, "indirect length"),
        (0, 1 << 31, "address"),
    ],
)
def test_bad_descriptor_breaks_the_ring(bench: Bench, flags: int, length: int, error: str) -> None:
    tx = sink(bench, PACKED | V.INDIRECT_DESC)
    tx.start()
    bench.settle()
    [buffer] = tx.segments([100])
    packed(tx).offer_raw(PackedDescriptor(buffer.gpa, length, 0, flags))
    tx.kick()
    bench.settle()

    assert broken_by(bench) == [error]


def test_indirect_transmit_table_is_read_whole(bench: Bench) -> None:
    # DPDK's virtio 22.11 marks the header in it as writable.
    rx, tx = bench.guest(PACKED | V.INDIRECT_DESC).pair(PortKind.ECHO, 16)
    rx.start()
    tx.start()
    rx.add_writable([2048])
    rx.publish()
    header, content = tx.segments([12]), tx.segments([60])
    tx.guest.memory.write(content[0].gpa, frame(5))
    tx.guest.memory.write(header[0].gpa, bytes(12))
    [table] = tx.segments([32])
    packed(tx).write_table_entry(table.gpa, 0, header[0].gpa, 12, 0, WRITE)
    packed(tx).write_table_entry(table.gpa, 1, content[0].gpa, 60, 0, 0)
    packed(tx).offer_raw(PackedDescriptor(table.gpa, 32, 0, INDIRECT))
    tx.kick()
    bench.settle()

    assert [content for _, content in rx.receive()] == [frame(5)]


def test_memory_that_is_swapped_leaves_the_position(bench: Bench) -> None:
    tx = sink(bench)
    tx.start()
    for number in range(5):
        tx.send(frame(number))
    tx.publish()
    bench.settle()
    tx.take()

    tx.guest.swap(mapped(tx.guest.memory))
    tx.send(frame(5))
    tx.publish()
    bench.settle()

    assert len(tx.take()) == 1
