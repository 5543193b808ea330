"""Legacy guests of big-endian byte order: rings, tables and headers. What goes to a port stays as it is."""

from __future__ import annotations

import pytest

from tests.datapath.rig import MODERN, Bench, Guest, Ring, V, frame, start_at
from tests.datapath.wires import Wire
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.vring import RingEnabled
from vhostuser.datapath.worker import EventKind
from vhostuser.frontend.net_header import PLAIN, GsoType, HeaderFlag, NetHeader
from vhostuser.wire.features import VirtioFeature

LEGACY = V(0)
OFFLOADS = V.CSUM | V.HOST_TSO4 | V.GUEST_CSUM | V.GUEST_TSO4
SEGMENTED = NetHeader(HeaderFlag.NEEDS_CSUM, GsoType.TCPV4, 54, 1448, 34, 16)

each_layout = pytest.mark.parametrize(
    "features",
    [LEGACY, V.MRG_RXBUF, V.EVENT_IDX, V.INDIRECT_DESC, V.MRG_RXBUF | V.EVENT_IDX | V.INDIRECT_DESC],
)


def big(bench: Bench, features: VirtioFeature = LEGACY) -> Guest:
    return bench.guest(features, big_endian=True)


def running(guest: Guest, port: PortKind = PortKind.ECHO, fd: int = -1, size: int = 16) -> tuple[Ring, Ring]:
    rx, tx = guest.pair(port, size, fd=fd)
    rx.start()
    tx.start()
    guest.bench.settle()
    return rx, tx


@each_layout
def test_frames_come_back(bench: Bench, features: VirtioFeature) -> None:
    rx, tx = running(big(bench, features))
    indirect = V.INDIRECT_DESC in features

    for number in range(100):  # six times around the ring
        content = frame(number, 60 + number)
        rx.add_writable([10, 300, 1738], indirect=indirect)
        rx.publish()
        header = rx.guest.header_size
        tx.send(content, pieces=[header, 20, 40 + number], indirect=indirect)
        tx.publish()
        bench.settle()
        assert [body for _, body in rx.receive()] == [content]
        assert [chain.length for chain in tx.take()] == [0]
    assert rx.counters.drops == tx.counters.drops == {}
    assert not bench.reported(EventKind.RING_BROKEN)


def test_merged_buffers_are_counted_in_the_guests_order(bench: Bench) -> None:
    rx, tx = running(big(bench, V.MRG_RXBUF))
    for _ in range(4):
        rx.add_writable([400])
    rx.publish()
    tx.send(frame(1, 1400))
    tx.publish()
    bench.settle()

    assert rx.receive() == [(NetHeader(num_buffers=4), frame(1, 1400))]


@pytest.mark.parametrize("position", [1, 255, 256, 0x1234, 0xFFFA])
@pytest.mark.parametrize("features", [LEGACY, V.EVENT_IDX])
def test_position_is_read_in_the_guests_order(bench: Bench, features: VirtioFeature, position: int) -> None:
    rx, tx = big(bench, features).pair(PortKind.ECHO, 16)
    for ring in (rx, tx):
        start_at(ring.queue, position)
        ring.start()
    for number in range(12):
        rx.add_writable([2048])
        rx.publish()
        tx.send(frame(number))
        tx.publish()
        bench.settle()
        assert [body for _, body in rx.receive()] == [frame(number)]
        tx.take()
    assert tx.stop() == (position + 12) % 65536


def test_calls_are_made_as_the_guest_asked_for_them(bench: Bench) -> None:
    _, tx = running(big(bench, V.EVENT_IDX))
    tx.send(frame(9))
    tx.publish()
    bench.settle()
    tx.take()
    assert tx.calls() == 1, "the first after a start, whatever was asked for"
    tx.queue.disable_calls()
    for number in range(4):
        tx.send(frame(number))
    tx.publish()
    bench.settle()
    tx.take()
    assert tx.calls() == 0

    tx.queue.enable_calls()
    tx.send(frame(4))
    tx.publish()
    bench.settle()
    assert tx.calls() == 1


def test_kicks_are_asked_for_and_suppressed_in_the_guests_order(bench: Bench) -> None:
    for features in (LEGACY, V.EVENT_IDX):
        _, tx = running(big(bench, features))
        for number in range(5):
            tx.send(frame(number))
            assert tx.publish(), "the ring was empty: a kick is wanted"
            bench.settle()


def test_guest_that_wants_no_call_gets_none(bench: Bench) -> None:
    _, tx = running(big(bench))
    tx.calls()
    tx.queue.disable_calls()
    tx.send(frame(0))
    tx.publish()
    bench.settle()
    assert (tx.calls(), tx.used_index) == (0, 1)


@pytest.mark.parametrize("features", [OFFLOADS, OFFLOADS | V.MRG_RXBUF])
def test_header_is_turned_for_the_guest_and_not_for_the_port(
    bench: Bench, wire: Wire, features: VirtioFeature
) -> None:
    rx, tx = running(big(bench, features), PortKind.FD, wire.fd)
    tx.send(frame(0, 3000), header=SEGMENTED)
    tx.publish()
    bench.settle()
    assert wire.get() == [(SEGMENTED, frame(0, 3000))]

    rx.add_writable([4096])
    rx.publish()
    wire.put(frame(1, 3000), SEGMENTED)
    bench.settle()
    ((header, content),) = rx.receive()
    assert content == frame(1, 3000)
    assert (header.hdr_len, header.gso_size, header.csum_start, header.csum_offset) == (54, 1448, 34, 16)
    assert header.num_buffers == (1 if V.MRG_RXBUF in features else 0)


def test_header_is_believed_no_more_than_any_other(bench: Bench, wire: Wire) -> None:
    _, tx = running(big(bench, OFFLOADS), PortKind.FD, wire.fd)
    # In the other order this start would be within the frame.
    tx.send(frame(0), header=NetHeader(HeaderFlag.NEEDS_CSUM, csum_start=0x0100, csum_offset=0))
    tx.publish()
    bench.settle()

    assert wire.get() == []
    assert tx.counters.drops == {"csum_range": 1}


def test_source_fills_the_ring(bench: Bench) -> None:
    rx, _ = running(big(bench), PortKind.SOURCE)
    for _ in range(8):
        rx.add_writable([2048])
    rx.publish()
    bench.settle()

    bodies = [content for header, content in rx.receive() if header == PLAIN]
    assert [int.from_bytes(body[14:22], "little") for body in bodies] == list(range(8))


def test_disabled_ring_is_emptied(bench: Bench) -> None:
    _, tx = running(big(bench))
    tx.pair.set_enabled(tx.which, RingEnabled.DISABLED)
    tx.send(frame(0))
    tx.publish()
    bench.settle()

    assert (len(tx.take()), tx.counters.drops) == (1, {"ring_disabled": 1})


@pytest.mark.parametrize("other", [LEGACY, MODERN])
def test_guests_of_either_order_are_served_side_by_side(bench: Bench, other: VirtioFeature) -> None:
    pairs = [running(big(bench)), running(bench.guest(other)), running(big(bench))]
    for number in range(30):
        for rx, tx in pairs:
            rx.add_writable([2048])
            rx.publish()
            tx.send(frame(number))
            tx.publish()
        bench.settle()
        for rx, tx in pairs:
            assert [body for _, body in rx.receive()] == [frame(number)]
            tx.take()


def test_rings_of_one_guest_in_either_order(bench: Bench) -> None:
    # Nothing forbids it: the request names a ring.
    guest = big(bench)
    rx, tx = guest.pair(PortKind.ECHO, 16)
    rx.start()
    guest.big_endian = False
    little = Ring(guest, tx.pair, 1, 16)
    guest.rings.append(little)
    little.start()
    bench.settle()
    guest.big_endian = True
    rx.add_writable([2048])
    rx.publish()
    guest.big_endian = False
    little.send(frame(0))
    little.publish()
    bench.settle()
    guest.big_endian = True

    assert [body for _, body in rx.receive()] == [frame(0)]


def test_what_was_said_of_a_modern_guest_is_not_believed(bench: Bench) -> None:
    guest = bench.guest(MODERN)
    rx, tx = guest.pair(PortKind.ECHO, 16)
    guest.big_endian = True  # says the setup, of queues that are little-endian
    rx.start()
    tx.start()
    bench.settle()
    guest.big_endian = False
    rx.add_writable([2048])
    rx.publish()
    tx.send(frame(0))
    tx.publish()
    bench.settle()

    assert [body for _, body in rx.receive()] == [frame(0)]


def test_ring_whose_order_was_not_said_is_broken_and_nothing_else(bench: Bench) -> None:
    """The wrong order of an index is a jump: the distance check finds it."""
    guest = big(bench)
    _, tx = guest.pair(PortKind.ECHO, 16)
    tx.send(frame(0))
    tx.publish()
    guest.big_endian = False
    tx.start()
    bench.settle()

    assert [event.error for event in bench.reported(EventKind.RING_BROKEN)] == [-1]
    assert tx.errors() == 1
