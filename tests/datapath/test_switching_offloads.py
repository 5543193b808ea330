"""A frame that its receiver cannot finish is finished for it: checksums, and segments of TCP and UDP."""

from __future__ import annotations

import random

import pytest

from tests.datapath.packets import (
    ACK,
    CWR,
    ECN,
    FIN,
    KINDS,
    NEEDS_CSUM,
    NOTHING,
    PSH,
    SENDS,
    TAKES,
    TCPV4,
    TCPV6,
    UDP_FRAGMENTS,
    UDP_L4,
    Packet,
    content,
    sum16,
)
from tests.datapath.rig import MODERN, V
from tests.datapath.stations import Lan, Station
from vhostuser.frontend.net_header import NetHeader


def pair(lan: Lan, takes: V = NOTHING, buffers: int = 128) -> tuple[Station, Station]:
    return lan.station(MODERN | SENDS), lan.station(MODERN | V.MRG_RXBUF | takes, buffers=buffers)


@pytest.mark.parametrize(("version", "tcp"), [(4, True), (6, True), (4, False), (6, False)])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 100, 1399, 1400, 8000])
def test_checksum_is_completed(lan: Lan, version: int, tcp: bool, length: int) -> None:
    a, b = pair(lan)
    packet = Packet(version, tcp, content(length))
    a.send(packet.build(), header=packet.header())

    [(header, frame)] = b.received()
    assert (header.flags, header.gso_type) == (0, 0)
    # One segment, but nothing else was touched.
    assert frame[packet.headers :] == packet.payload
    behind = frame[packet.transport :]
    assert sum16(packet.pseudo(len(behind)) + behind) == 0xFFFF
    assert frame[: packet.transport] == packet.build()[: packet.transport]


def test_checksum_of_nothing_but_zeros_is_not_none(lan: Lan) -> None:
    """A UDP checksum that comes out as 0 is sent as 0xffff (RFC 768)."""
    a, b = pair(lan)
    whole = Packet(4, False, b"\0\0").build()
    behind = whole[34:]
    missing = 0xFFFF - sum16(
        Packet(4, False, b"\0\0").pseudo(len(behind)) + behind[:6] + b"\0\0" + behind[8:]
    )
    packet = Packet(4, False, missing.to_bytes(2, "big"))
    a.send(packet.build(), header=packet.header())

    [frame] = b.got()
    assert frame[40:42] == b"\xff\xff"


@pytest.mark.parametrize(("version", "tcp", "gso_type"), KINDS)
@pytest.mark.parametrize(("options", "tags"), [(0, 0), (8, 0), (16, 1), (0, 2)])
@pytest.mark.parametrize(
    ("length", "size"), [(1, 1448), (2896, 1448), (2897, 1448), (60000, 1448), (8000, 999)]
)
def test_segments(
    lan: Lan, version: int, tcp: bool, gso_type: int, options: int, tags: int, length: int, size: int
) -> None:
    a, b = pair(lan)
    packet = Packet(version, tcp, content(length), options, tags, flags=FIN | PSH | ACK)
    a.send(packet.build(), header=packet.header(size, gso_type, packet.headers))

    received = b.received()
    count = -(-length // size)
    assert len(received) == count
    assert all((header.flags, header.gso_type, header.num_buffers) == (0, 0, 1) for header, _ in received)
    parts = [packet.check(frame, n, size, n == count - 1) for n, (_, frame) in enumerate(received)]
    assert b"".join(parts) == packet.payload
    assert {len(part) for part in parts[:-1]} <= {size}
    assert a.tx.counters.drops == b.rx.counters.drops == {}


def test_congestion_is_told_of_once(lan: Lan) -> None:
    a, b = pair(lan)
    packet = Packet(4, True, content(5000), flags=CWR | ACK)
    a.send(packet.build(), header=packet.header(1000, TCPV4 | ECN))

    segments = b.got()
    assert len(segments) == 5
    for n, segment in enumerate(segments):
        packet.check(segment, n, 1000, n == 4)


@pytest.mark.parametrize(("version", "tcp", "gso_type"), [*KINDS, (4, False, UDP_FRAGMENTS)])
def test_receiver_that_takes_it_gets_it_as_it_is(lan: Lan, version: int, tcp: bool, gso_type: int) -> None:
    a, b = pair(lan, TAKES)
    packet = Packet(version, tcp, content(9000))
    a.send(packet.build(), header=packet.header(1000, gso_type, packet.headers))

    [(header, frame)] = b.received()
    assert frame == packet.build()
    assert (header.flags, header.gso_type, header.gso_size) == (NEEDS_CSUM, gso_type, 1000)
    assert (header.csum_start, header.hdr_len) == (packet.transport, packet.headers)


def test_each_receiver_gets_what_it_takes(lan: Lan) -> None:
    a, b = pair(lan)
    c = lan.station(MODERN | V.MRG_RXBUF | TAKES, buffers=64)
    d = lan.station(MODERN | V.MRG_RXBUF | V.GUEST_CSUM, buffers=64)
    packet = Packet(4, True, content(4000))
    a.send(packet.build(), header=packet.header(1000, TCPV4))

    assert [len(station.received()) for station in (b, c, d)] == [4, 1, 4]


def test_udp_to_be_fragmented_is_lost_where_it_is_not_taken(lan: Lan) -> None:
    a, b = pair(lan)
    packet = Packet(4, False, content(4000))
    a.send(packet.build(), header=packet.header(1000, UDP_FRAGMENTS))

    assert b.got() == []
    assert b.rx.counters.drops == {"receiver_offload": 1}
    assert len(a.tx.take()) == 1


def test_no_room_in_the_middle_of_a_frame(lan: Lan) -> None:
    a, b = pair(lan, buffers=3)
    packet = Packet(4, True, content(8000))
    a.send(packet.build(), header=packet.header(1000, TCPV4))

    assert len(b.got()) == 3
    assert b.rx.counters.drops == {"no_buffers": 1}


@pytest.mark.parametrize("takes", [TAKES, NOTHING], ids=["whole", "cut up"])
@pytest.mark.parametrize("gso_type", [TCPV4, UDP_L4])
@pytest.mark.parametrize("options", [0, 12])
def test_segments_longer_than_the_receivers_link_takes(
    lan: Lan, takes: V, gso_type: int, options: int
) -> None:
    a, b = pair(lan, takes)
    b.member.set_mtu(1000)
    packet = Packet(4, gso_type == TCPV4, content(2500), options=options)
    fits = 1018 - packet.headers
    a.send(packet.build(), header=packet.header(fits + 1, gso_type))
    assert b.got() == []
    assert b.rx.counters.drops == {"oversize": 1}

    a.send(packet.build(), header=packet.header(fits, gso_type))
    assert len(b.got()) == (1 if takes else 3)


def damaged() -> dict[str, tuple[bytes, NetHeader]]:
    four, six = Packet(4, True, content(4000)), Packet(6, True, content(4000))
    build = four.build()
    header = four.header(1000, TCPV4)
    short = Packet(4, True, b"").build()

    def changed(at: int, value: int) -> bytes:
        return build[:at] + bytes([value]) + build[at + 1 :]

    return {
        "IPv6 said, IPv4 there": (build, four.header(1000, TCPV6)),
        "IPv4 said, IPv6 there": (six.build(), six.header(1000, TCPV4)),
        "no IP": (changed(12, 0x99), header),
        "IP header longer than it is": (changed(14, 0x4F), header),
        "IP header shorter than any": (changed(14, 0x41), header),
        "TCP header shorter than any": (changed(46, 0x40), header),
        "no payload": (short, header),
        "checksum elsewhere": (build, NetHeader(1, TCPV4, 0, 1000, 34, 14)),
        "transport inside of Ethernet": (build, NetHeader(1, TCPV4, 0, 1000, 4, 16)),
        "transport far behind": (build, NetHeader(1, TCPV4, 0, 1000, 3000, 16)),
        "tags without end": ((build[:12] + b"\x81\0\0\1" * 30).ljust(200, b"\0"), header),
        "too many segments": (build, four.header(1, TCPV4)),
        "a few too many": (Packet(4, True, content(1290)).build(), four.header(10, TCPV4)),
    }


@pytest.mark.parametrize("what", damaged())
def test_frame_that_is_not_what_it_says(lan: Lan, what: str) -> None:
    a, b = pair(lan)
    frame, header = damaged()[what]
    a.send(frame, header=header)

    assert b.got() == []
    assert b.rx.counters.drops == {"receiver_offload": 1}
    a.send(Packet(4, True, b"alive").build(), header=Packet(4, True, b"alive").header())
    assert len(b.got()) == 1


def test_random_frames_and_headers_end_well(lan: Lan) -> None:
    """Whatever a guest says of its frame: it is dropped, or what comes out is no longer than what went in."""
    turns = random.Random(4)
    a, b = pair(lan)
    for _ in range(3000):
        packet = Packet(turns.choice([4, 6]), turns.random() < 0.5, content(turns.randrange(3000)))
        frame = bytearray(packet.build())
        for _ in range(turns.randrange(4)):
            frame[turns.randrange(12, min(len(frame), 90))] = turns.randrange(256)
        header = NetHeader(
            flags=turns.randrange(2),
            gso_type=turns.choice([0, TCPV4, TCPV6, UDP_L4, turns.randrange(256)]),
            hdr_len=turns.randrange(1 << 16),
            gso_size=turns.choice([1, 100, 536, 1448, turns.randrange(1 << 16)]),
            csum_start=turns.choice([packet.transport, turns.randrange(200), turns.randrange(1 << 16)]),
            csum_offset=turns.choice([6, 16, turns.randrange(100)]),
        )
        a.send(bytes(frame), header=header)
        a.tx.take()
        got = b.got()
        b.give(len(got))
        assert all(len(found) <= len(frame) for found in got)
    assert lan.bench.events == [event for event in lan.bench.events if event.kind.name == "RING_STARTED"]
