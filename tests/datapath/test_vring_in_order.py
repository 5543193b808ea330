"""With IN_ORDER one used entry is for a whole burst from the guest (virtio 1.2, 2.7.9 and 2.8.9)."""

from __future__ import annotations

import pytest

from tests.datapath.rig import MODERN, Bench, Ring, V, frame
from tests.datapath.test_dirty_log import WHOLE, Log, changed, contents, start_logged
from tests.datapath.wires import Wire, started
from vhostuser.datapath.port_ops import PortKind
from vhostuser.frontend.packed_virtqueue import PackedVirtqueue
from vhostuser.frontend.virtqueue import SplitVirtqueue
from vhostuser.wire.features import VirtioFeature

USED = 0x8080
"""Both bits of a packed descriptor, on the first lap."""
IN_ORDER = MODERN | V.IN_ORDER
FORMATS = [pytest.param(V(0), id="split"), pytest.param(V.RING_PACKED, id="packed")]


def named(ring: Ring) -> list[int | None]:
    """What each place of the used ring names; None where nothing was written since the ring was new."""
    if V.RING_PACKED not in ring.guest.features:
        queue = ring.queue
        assert isinstance(queue, SplitVirtqueue)
        entries = [queue.read_used_entry(slot) for slot in range(queue.size)]
        return [None if entry == (0xFFFFFFFF, 0xFFFFFFFF) else entry[0] for entry in entries]
    packed = ring.queue
    assert isinstance(packed, PackedVirtqueue)
    found = [packed.read_descriptor(slot) for slot in range(packed.size)]
    return [each.buffer_id if each.flags & USED == USED else None for each in found]


def fresh(bench: Bench, features: VirtioFeature, kind: PortKind = PortKind.SINK, size: int = 16) -> Ring:
    _, tx = bench.guest(features).pair(kind, size)
    if V.RING_PACKED not in features:
        tx.guest.memory.write(tx.queue.place.used + 4, b"\xff" * 8 * size)
    tx.start()
    bench.settle()
    return tx


def sends(ring: Ring, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        ring.send(frame(number), pieces=[12, 30, 30] if number % 3 == 2 else None)
    ring.publish()
    ring.guest.bench.settle()


@pytest.mark.parametrize("ring_format", FORMATS)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_one_entry_names_the_last_of_a_burst(bench: Bench, ring_format: V, count: int) -> None:
    tx = fresh(bench, IN_ORDER | ring_format)
    sends(tx, count)

    wrote = [place for place, name in enumerate(named(tx)) if name is not None]
    assert wrote == [0]
    taken = tx.take()
    assert len(taken) == count
    assert named(tx)[0] == taken[-1].head
    assert all(chain.length == 0 for chain in taken)


@pytest.mark.parametrize("ring_format", FORMATS)
def test_without_the_feature_each_has_its_own(bench: Bench, ring_format: V) -> None:
    tx = fresh(bench, MODERN | ring_format)
    for number in range(5):
        tx.send(frame(number))
    tx.publish()
    bench.settle()
    assert [name is not None for name in named(tx)] == [True] * 5 + [False] * 11


@pytest.mark.parametrize("ring_format", FORMATS)
def test_what_is_received_has_its_length_each(bench: Bench, ring_format: V) -> None:
    rx, tx = bench.guest(IN_ORDER | ring_format).pair(PortKind.ECHO, 64)
    rx.start()
    tx.start()
    for _ in range(20):
        rx.add_writable([2048])
    rx.publish()
    for number in range(20):
        tx.send(frame(number, 60 + 10 * number))
    tx.publish()
    bench.settle()

    assert [content for _, content in rx.receive()] == [
        frame(number, 60 + 10 * number) for number in range(20)
    ]
    assert len(tx.take()) == 20


@pytest.mark.parametrize("ring_format", FORMATS)
@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("size", [4, 16, 64])
def test_laps_of_bursts_of_every_length(bench: Bench, ring_format: V, indirect: bool, size: int) -> None:
    """Chains of one descriptor and of several, over the ring's end at every place."""
    tx = fresh(bench, IN_ORDER | ring_format | V.INDIRECT_DESC, size=size)
    sent = came = 0
    for number in range(300):
        for _ in range(1 + number % 13):
            pieces = [12, 30, 30] if sent % 3 == 2 else [12 + 60]
            if tx.queue.free_descriptors < (1 if indirect else len(pieces)):
                break
            tx.add_readable(bytes(12) + frame(sent), pieces, indirect=indirect)
            sent += 1
        tx.publish()
        bench.settle()
        came += len(tx.take())
        assert came == sent
    assert tx.counters.packets == sent > 500
    base = tx.stop()
    assert base == tx.queue.device_base()


@pytest.mark.parametrize("ring_format", FORMATS)
def test_port_that_is_full_gives_back_what_went_out(bench: Bench, wire: Wire, ring_format: V) -> None:
    _, tx = started(bench, wire, IN_ORDER | ring_format, 1024)
    sent = 0
    while tx.queue.outstanding == 0 or sent < 20:
        for _ in range(100):
            tx.send(frame(sent))
            sent += 1
        tx.publish()
        bench.settle()
        tx.take()
        assert sent < 10_000
    got = [content for _, content in wire.get()]
    while tx.queue.outstanding:
        bench.settle()
        tx.take()
        got += [content for _, content in wire.get()]
    assert got == [frame(number) for number in range(sent)]
    tx.pair.set_port(None)


@pytest.mark.parametrize("ring_format", FORMATS)
def test_log_has_what_was_written(bench: Bench, ring_format: V) -> None:
    log = Log()
    guest = bench.guest(IN_ORDER | V.LOG_ALL | ring_format, regions=WHOLE)
    guest.device.set_log(log.mapped)
    _, tx = guest.pair(PortKind.SINK, 1024)
    start_logged(tx)
    bench.settle()
    for _ in range(30):
        log.take()
        before = contents(guest)
        for number in range(50):
            tx.send(frame(number))
        tx.publish()
        after = contents(guest)
        bench.settle()
        assert changed(after, contents(guest)) <= log.take()
        assert before != after
        assert len(tx.take()) == 50
    guest.device.set_log(None)
    log.close()
