"""Frames of a port that this guest does not take as they are: finished on their way to it."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest

from tests.datapath.packets import (
    ACK,
    CWR,
    ECN,
    FIN,
    KINDS,
    NEEDS_CSUM,
    PSH,
    TAKES,
    TCPV4,
    UDP_FRAGMENTS,
    UDP_L4,
    Packet,
    content,
    sum16,
)
from tests.datapath.rig import MODERN, Bench, Ring, V, frame
from tests.datapath.test_dirty_log import WHOLE, Log, changed, contents, settle, start_logged
from tests.datapath.wires import Wire, started
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.rx_filter import Accept, RxFilter
from vhostuser.datapath.worker import EventKind
from vhostuser.frontend.net_header import PLAIN, NetHeader
from vhostuser.wire.features import VirtioFeature

MERGES = MODERN | V.MRG_RXBUF
PORTS = [PortKind.FD, PortKind.PACKET]

Put = tuple[bytes, NetHeader]


@pytest.fixture(params=[12, 10], ids=["modern", "legacy"])
def deep(request: pytest.FixtureRequest) -> Iterator[Wire]:
    """A port that holds many frames, with a modern header in front of them or a legacy one."""
    wire = Wire(socket.SOCK_SEQPACKET, request.param)
    yield wire
    wire.close()


@pytest.fixture
def dirty() -> Iterator[Log]:
    dirty = Log()
    yield dirty
    dirty.close()


@pytest.fixture(params=PORTS, ids=lambda kind: kind.value)
def kind(request: pytest.FixtureRequest) -> PortKind:
    found: PortKind = request.param
    return found


def gets(
    bench: Bench, rx: Ring, wire: Wire, *frames: Put, buffers: int = 400, room: int = 2048
) -> list[bytes]:
    """What comes of frames that all wait when the guest gives buffers: whole, plain, one buffer for each."""
    for frame_, header in frames:
        wire.put(frame_, header)
    for _ in range(buffers):
        rx.add_writable([room])
    rx.publish()
    bench.settle()
    got = []
    for header, frame_ in rx.receive(exact=False):
        assert (header.flags, header.gso_type, header.gso_size) == (0, 0, 0)
        got.append(frame_)
    rx.pair.set_port(None)
    return got


ALONE, AMONG, LAST = [0], [1, 3, 9], [15]
LONGER = pytest.mark.parametrize("longer", [0, 2000], ids=["copied", "straight"])
"""Short frames are read into private memory, others where they belong."""


def between(odd: Put, places: list[int], longer: int) -> tuple[list[Put], list[int]]:
    """Plain frames with an odd one in some places, of which the first is read alone."""
    frames: list[Put] = [(frame(number, 60 + longer + number), PLAIN) for number in range(20)]
    for place in places:
        frames.insert(place, odd)
    return frames, places


# Checksums


@LONGER
@pytest.mark.parametrize("places", [ALONE, AMONG, LAST])
@pytest.mark.parametrize("features", [MERGES, MERGES | V.RING_PACKED, V(0)])
def test_checksum_is_completed(
    bench: Bench, deep: Wire, kind: PortKind, features: VirtioFeature, places: list[int], longer: int
) -> None:
    rx, _ = started(bench, deep, features, 512, kind=kind)
    packet = Packet(4, True, content(900 + longer))
    frames, _ = between((packet.build(), packet.header()), places, longer)

    got = gets(bench, rx, deep, *frames, room=4096)

    assert len(got) == len(frames)
    for place, (sent, _) in enumerate(frames):
        if place not in places:
            assert got[place] == sent
            continue
        behind = got[place][packet.transport :]
        assert sum16(packet.pseudo(len(behind)) + behind) == 0xFFFF
        assert got[place][packet.headers :] == packet.payload
    assert rx.counters.drops == {}


def test_checksum_that_the_guest_takes_stays_the_guests_work(
    bench: Bench, deep: Wire, kind: PortKind
) -> None:
    rx, _ = started(bench, deep, MODERN | TAKES, kind=kind)
    packet = Packet(4, True, content(900))
    deep.put(packet.build(), packet.header())
    rx.add_writable([2048])
    rx.publish()
    bench.settle()

    [(header, got)] = rx.receive()
    assert (header.flags, header.csum_start, header.csum_offset) == (NEEDS_CSUM, 34, 16)
    assert got == packet.build()
    rx.pair.set_port(None)


# Segments


@LONGER
@pytest.mark.parametrize("places", [ALONE, AMONG, LAST])
@pytest.mark.parametrize(("version", "tcp", "gso_type"), [KINDS[0], KINDS[3]])
@pytest.mark.parametrize("features", [MERGES, MERGES | V.RING_PACKED, V(0)])
def test_segments_come_in_the_place_of_the_frame(
    bench: Bench,
    deep: Wire,
    kind: PortKind,
    features: VirtioFeature,
    version: int,
    tcp: bool,
    gso_type: int,
    places: list[int],
    longer: int,
) -> None:
    rx, _ = started(bench, deep, features, 1024, kind=kind)
    packet = Packet(version, tcp, content(30_000), flags=FIN | PSH | ACK)
    count = -(-30_000 // 1448)
    odd = packet.build(), packet.header(1448, gso_type, packet.headers)
    frames, _ = between(odd, places, longer)

    got = gets(bench, rx, deep, *frames, buffers=1000, room=2600)

    for place, (sent, _) in enumerate(frames):
        if place not in places:
            assert got.pop(0) == sent
            continue
        parts = [packet.check(got.pop(0), n, 1448, n == count - 1) for n in range(count)]
        assert b"".join(parts) == packet.payload
    assert got == []
    assert rx.counters.drops == {}


def test_segments_of_frames_that_lie_in_the_chains_that_they_go_to(
    bench: Bench, deep: Wire, kind: PortKind
) -> None:
    """Read where it belongs, each frame is in the chain of a segment of the one before."""
    rx, _ = started(bench, deep, MODERN, 512, kind=kind)
    packet = Packet(4, True, content(6000))
    frames: list[Put] = [(frame(number, 3000), PLAIN) for number in range(30)]
    frames[3:25] = [(packet.build(), packet.header(1448, TCPV4))] * 22

    got = gets(bench, rx, deep, *frames, buffers=200, room=7000)

    assert got[:3] + got[-5:] == [sent for sent, header in frames if header == PLAIN]
    segments = got[3:-5]
    for _ in range(22):
        parts = [packet.check(segments.pop(0), n, 1448, n == 4) for n in range(5)]
        assert b"".join(parts) == packet.payload
    assert segments == []


def test_congestion_is_told_of_once(bench: Bench, deep: Wire, kind: PortKind) -> None:
    rx, _ = started(bench, deep, MERGES | V.GUEST_CSUM | V.GUEST_TSO4, kind=kind)
    packet = Packet(4, True, content(5000), flags=CWR | ACK)

    got = gets(bench, rx, deep, (packet.build(), packet.header(1000, TCPV4 | ECN)))

    assert len(got) == 5
    for n, segment in enumerate(got):
        packet.check(segment, n, 1000, n == 4)


@pytest.mark.parametrize("room", [64, 100, 1526])
def test_more_segments_than_one_burst_has_chains_for(
    bench: Bench, deep: Wire, kind: PortKind, room: int
) -> None:
    rx, _ = started(bench, deep, MERGES, 64, rx_size=2048, kind=kind)
    packet = Packet(4, True, content(128 * 500))
    deep.put(packet.build(), packet.header(500, TCPV4))
    deep.put(frame(1))
    for _ in range(2048):
        rx.add_writable([room])
    rx.publish()
    bench.settle()

    *segments, last = (got for _, got in rx.receive(exact=False))
    assert last == frame(1)
    assert len(segments) == 128
    assert b"".join(packet.check(got, n, 500, n == 127) for n, got in enumerate(segments)) == packet.payload
    assert rx.counters.drops == {}
    rx.pair.set_port(None)


def test_no_room_in_the_middle_of_a_frame(bench: Bench, deep: Wire, kind: PortKind) -> None:
    rx, _ = started(bench, deep, MERGES, kind=kind)
    packet = Packet(4, True, content(8000))
    odd = packet.build(), packet.header(1000, TCPV4)

    assert len(gets(bench, rx, deep, odd, buffers=3)) == 3
    assert rx.counters.drops == {"no_buffers": 1}


def test_one_header_piece_and_many_of_one_byte(bench: Bench, deep: Wire, kind: PortKind) -> None:
    """A chain of more pieces than a system call is given: the rest of the frame is in the private tail."""
    rx, _ = started(bench, deep, MODERN, 1024, kind=kind)
    packet = Packet(4, True, content(900))
    deep.put(packet.build(), packet.header())
    rx.add_writable([12, *[1] * 400, 1000])
    rx.publish()
    bench.settle()

    [(_, got)] = rx.receive()
    behind = got[packet.transport :]
    assert sum16(packet.pseudo(len(behind)) + behind) == 0xFFFF
    rx.pair.set_port(None)


# What cannot be finished


@LONGER
@pytest.mark.parametrize("places", [ALONE, AMONG])
@pytest.mark.parametrize(
    ("header", "drop"),
    [
        (NetHeader(NEEDS_CSUM, csum_start=65535, csum_offset=65535), "csum_range"),
        (NetHeader(NEEDS_CSUM, csum_start=959, csum_offset=0), "csum_range"),
        (NetHeader(NEEDS_CSUM, TCPV4, 54, 0, 34, 16), "gso_size"),
        (NetHeader(0, TCPV4, 54, 1448, 34, 16), "gso_size"),
        (NetHeader(NEEDS_CSUM, 9, 54, 1448, 34, 16), "gso_type"),
        (NetHeader(NEEDS_CSUM, TCPV4, 54, 1448, 0, 16), "receiver_offload"),
        (NetHeader(NEEDS_CSUM, UDP_L4, 54, 1448, 34, 16), "receiver_offload"),
        (NetHeader(NEEDS_CSUM, UDP_FRAGMENTS, 54, 1448, 34, 6), "receiver_offload"),
    ],
)
def test_frame_that_is_not_what_it_says_is_dropped_alone(
    bench: Bench, deep: Wire, kind: PortKind, header: NetHeader, drop: str, places: list[int], longer: int
) -> None:
    rx, _ = started(bench, deep, MERGES, kind=kind)
    frames, _ = between((Packet(4, True, content(906)).build(), header), places, longer)

    got = gets(bench, rx, deep, *frames, room=4096)

    assert got == [sent for place, (sent, _) in enumerate(frames) if place not in places]
    assert rx.counters.drops == {drop: len(places)}


def test_random_headers_end_well(bench: Bench, deep: Wire, kind: PortKind) -> None:
    turns = random.Random(7)
    rx, _ = started(bench, deep, MERGES, 1024, kind=kind)
    for _ in range(500):
        packet = Packet(turns.choice([4, 6]), turns.random() < 0.5, content(turns.randrange(3000)))
        changed = bytearray(packet.build())
        for _ in range(turns.randrange(4)):
            changed[turns.randrange(12, min(len(changed), 90))] = turns.randrange(256)
        header = NetHeader(
            turns.randrange(4),
            turns.choice([0, 1, 3, 4, 5, 0x81, turns.randrange(256)]),
            turns.randrange(100),
            turns.choice([0, 1, 100, 1448, 65535]),
            turns.choice([packet.transport, turns.randrange(65536)]),
            turns.choice([6, 16, turns.randrange(65536)]),
        )
        deep.put(bytes(changed), header)
        for _ in range(300 - rx.queue.outstanding):
            rx.add_writable([2048])
        rx.publish()
        bench.settle()
        assert sum(len(got) for _, got in rx.receive(exact=False)) <= 40 * len(changed)
    assert rx.counters.packets > 100
    assert bench.reported(EventKind.RING_BROKEN) == []
    rx.pair.set_port(None)


# What else a frame that is finished has to go through


@pytest.mark.parametrize("platform", [V(0), V.ACCESS_PLATFORM], ids=["", "iommu"])
def test_what_is_written_is_marked_in_the_dirty_log(
    bench: Bench, deep: Wire, dirty: Log, kind: PortKind, platform: VirtioFeature
) -> None:
    """Also where the frame was read to before it was found that there is work to do."""
    guest = bench.guest(MERGES | V.LOG_ALL | platform, regions=WHOLE)
    guest.device.set_log(dirty.mapped)
    rx, _ = guest.pair(kind, 256, fd=deep.fd, header_size=deep.header)
    start_logged(rx)
    settle(guest)
    packet = Packet(4, True, content(30_000))
    odd = packet.build(), packet.header(1448, TCPV4)
    for put in (odd, (packet.build(), NetHeader(NEEDS_CSUM, TCPV4, 54, 1448, 0, 16)), odd):
        for _ in range(max(0, 60 - rx.queue.outstanding)):
            rx.add_writable([4096])
        rx.publish()
        dirty.take()
        before = contents(guest)
        deep.put(*put)
        settle(guest)

        assert changed(before, contents(guest)) <= dirty.take()
        rx.receive(exact=False)
    assert rx.counters.packets == 2 * 21
    assert rx.counters.drops == {"receiver_offload": 1}
    rx.pair.set_port(None)


@LONGER
@pytest.mark.parametrize("places", [ALONE, AMONG])
def test_filter_holds_for_what_was_finished(
    bench: Bench, deep: Wire, kind: PortKind, places: list[int], longer: int
) -> None:
    rx, _ = started(bench, deep, MERGES, kind=kind)
    packet = Packet(4, True, content(900 + longer))
    rx.guest.device.set_filter(RxFilter(Accept.ALL, Accept.ALL, Accept.NONE))
    frames, _ = between((packet.build(), packet.header()), places, longer)
    frames = [(sent if place in places else b"\2" + sent[1:], h) for place, (sent, h) in enumerate(frames)]

    got = gets(bench, rx, deep, *frames, room=4096)

    assert got == [sent for place, (sent, _) in enumerate(frames) if place not in places]
    assert rx.counters.drops == {"filtered": len(places)}


# Headers of 10 bytes, both ways


@pytest.mark.parametrize("count", [1, 8, 40])
@pytest.mark.parametrize("size", [14, 60, 1514, 2040, 3000, 65549])
def test_frames_out(bench: Bench, deep: Wire, kind: PortKind, count: int, size: int) -> None:
    _, tx = started(bench, deep, MODERN | V.CSUM | V.HOST_TSO4, kind=kind)
    sent = NetHeader(NEEDS_CSUM, csum_start=2, csum_offset=6) if size > 14 else PLAIN
    got = []
    for number in range(count):
        tx.send(frame(number, size), header=sent)
        tx.publish()
        bench.settle()
        got += deep.get()
    assert got == [(sent, frame(number, size)) for number in range(count)]
    for number in range(8 if size < 4000 else 0):
        tx.send(frame(number, size), header=sent)
    tx.publish()
    bench.settle()
    assert deep.get() == [(sent, frame(number, size)) for number in range(8 if size < 4000 else 0)]
    tx.pair.set_port(None)


@pytest.mark.parametrize("size", [14, 60, 1514, 2040, 3000, 65549])
def test_frames_in(bench: Bench, deep: Wire, kind: PortKind, size: int) -> None:
    rx, _ = started(bench, deep, MERGES, 1024, kind=kind)
    count = 40 if size < 4000 else 3
    wanted = [frame(number, size) for number in range(count)]

    assert gets(bench, rx, deep, *((sent, PLAIN) for sent in wanted), room=4000) == wanted


def test_bytes_that_are_no_frame(bench: Bench, deep: Wire, kind: PortKind) -> None:
    rx, _ = started(bench, deep, MODERN, kind=kind)
    for number in range(10):
        deep.put(frame(number))
        deep.put_raw(b"123456789")

    assert gets(bench, rx, deep) == [frame(number) for number in range(10)]
    assert rx.counters.drops == {"runt": 10}
