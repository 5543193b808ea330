"""Frames and headers that are not to be believed: each is one counted drop, or goes out as it may."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from tests.datapath.rig import MODERN, Bench, Ring, V, frame
from tests.datapath.test_vring import cut
from tests.datapath.wires import Wire, started
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.worker import EventKind
from vhostuser.frontend.net_header import PLAIN, GsoType, HeaderFlag, NetHeader
from vhostuser.wire.features import VirtioFeature

LARGEST = 65535 + 14 + 4
SENDER = MODERN | V.CSUM | V.HOST_TSO4 | V.HOST_TSO6 | V.HOST_ECN | V.HOST_UFO | V.HOST_USO | V.INDIRECT_DESC
TSO = NetHeader(HeaderFlag.NEEDS_CSUM, GsoType.TCPV4, 54, 1448, 34, 16)


def sink(bench: Bench, features: VirtioFeature = SENDER) -> Ring:
    _, tx = bench.guest(features).pair(PortKind.SINK, 256)
    tx.start()
    bench.settle()
    return tx


def outcome(bench: Bench, tx: Ring) -> str:
    """Shows what was added; "" when it was delivered, else the reason of its drop."""
    before = tx.counters
    tx.publish()
    bench.settle()
    assert [chain.length for chain in tx.take()] == [0], "a dropped chain goes back to the guest too"
    assert bench.reported(EventKind.RING_BROKEN) == []
    after = tx.counters
    new = {name for name in after.drops if after.drops[name] != before.drops.get(name, 0)}
    assert after.packets - before.packets + len(new) == 1
    return "".join(new)


# How long


@pytest.mark.parametrize("legacy", [False, True], ids=["12-byte", "10-byte"])
@pytest.mark.parametrize("length", range(13))
def test_chain_not_longer_than_the_header(bench: Bench, length: int, legacy: bool) -> None:
    tx = sink(bench, V(0) if legacy else SENDER)
    size = 10 if legacy else 12
    tx.add_readable(bytes(length), [length])

    assert outcome(bench, tx) == ("header_truncated" if length < size else "runt")


@pytest.mark.parametrize("legacy", [False, True], ids=["12-byte", "10-byte"])
@pytest.mark.parametrize("length", range(16))
def test_frame_shorter_than_ethernet(bench: Bench, length: int, legacy: bool) -> None:
    tx = sink(bench, V(0) if legacy else SENDER)
    tx.send(bytes(length))

    assert outcome(bench, tx) == ("runt" if length < 14 else "")


@pytest.mark.parametrize(
    ("length", "drop"),
    [
        (65535, ""),
        (65536, ""),
        (LARGEST, ""),
        (LARGEST + 1, "oversize"),
        (70000, "oversize"),
        (1 << 20, "oversize"),
    ],
)
def test_frame_longer_than_any(bench: Bench, length: int, drop: str) -> None:
    tx = sink(bench)
    tx.send(bytes(length))

    assert outcome(bench, tx) == drop


def test_frame_of_gigabytes(bench: Bench) -> None:
    """The same buffer 256 times over: 4 GiB and more, which no 32 bits may count."""
    tx = sink(bench)
    at = tx.segments([8 << 20])[0].gpa
    for index in range(256):
        more = 1 if index < 255 else 0
        tx.queue.write_descriptor(index, at & ~0xFFF, 0x7FF000, more, (index + 1) % 256)
    tx.queue.offer_raw(0)
    for _ in range(2):
        tx.kick()
        bench.settle()

    assert tx.used_index == 1
    assert tx.counters.drops == {"oversize": 1}


# In which pieces


@pytest.mark.parametrize("header", [MODERN, V(0)], ids=["12-byte", "10-byte"])
@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("step", [1, 3, 5, 7, 11])
def test_header_in_pieces_of(
    bench: Bench, wire: Wire, header: VirtioFeature, step: int, indirect: bool
) -> None:
    """A header byte by byte is legal, and once cost other back-ends their buffers (CVE-2022-2132)."""
    _, tx = started(bench, wire, header | V.CSUM | V.INDIRECT_DESC)
    sent = NetHeader(HeaderFlag.NEEDS_CSUM, csum_start=34, csum_offset=16)
    pieces = cut(tx.guest.header_size + 100, [step] * (24 // step))

    tx.send(frame(1, 100), header=sent, pieces=pieces, indirect=indirect)
    tx.publish()
    bench.settle()

    assert wire.get() == [(sent, frame(1, 100))]


# Checksums


@pytest.mark.parametrize(
    ("start", "offset", "drop"),
    [
        (34, 16, ""),
        (0, 0, ""),
        (98, 0, ""),
        (0, 98, ""),
        (97, 1, ""),
        (99, 0, "csum_range"),
        (98, 1, "csum_range"),
        (0, 99, "csum_range"),
        (100, 0, "csum_range"),
        (65535, 0, "csum_range"),
        (0, 65535, "csum_range"),
        (65535, 65535, "csum_range"),
        (65530, 6, "csum_range"),
        (65534, 2, "csum_range"),
    ],
)
def test_checksum_place(bench: Bench, start: int, offset: int, drop: str) -> None:
    """Within the frame of 100 bytes, in more than 16 bits (CVE-2024-11614)."""
    tx = sink(bench)
    tx.send(frame(1, 100), header=NetHeader(HeaderFlag.NEEDS_CSUM, csum_start=start, csum_offset=offset))

    assert outcome(bench, tx) == drop


def test_checksum_place_without_the_flag_is_wiped(bench: Bench, wire: Wire) -> None:
    _, tx = started(bench, wire, SENDER)
    tx.send(frame(1), header=NetHeader(0, csum_start=65535, csum_offset=65535, hdr_len=65535, gso_size=1))
    tx.publish()
    bench.settle()

    assert wire.get() == [(PLAIN, frame(1))]


def test_checksum_that_was_not_negotiated(bench: Bench) -> None:
    tx = sink(bench, MODERN)
    tx.send(frame(1), header=NetHeader(HeaderFlag.NEEDS_CSUM, csum_start=34, csum_offset=16))

    assert outcome(bench, tx) == "not_negotiated"


# Segmentation


@pytest.mark.parametrize("gso_type", sorted(set(range(1, 256)) - {1, 3, 4, 5, 0x81, 0x84}))
def test_unknown_gso_type(bench: Bench, gso_type: int) -> None:
    """Tunnels (0x20, 0x40) are not offered; ECN goes with TCP only."""
    tx = sink(bench)
    tx.send(frame(1, 2000), header=replace(TSO, gso_type=gso_type))

    assert outcome(bench, tx) == "gso_type"


@pytest.mark.parametrize("gso_type", [1, 3, 4, 5, 0x81, 0x84])
@pytest.mark.parametrize(("gso_size", "drop"), [(0, "gso_size"), (1, ""), (65535, "")])
def test_gso_size(bench: Bench, gso_type: int, gso_size: int, drop: str) -> None:
    """A peer has divided by the 0; small and large ones are the kernel's to refuse."""
    tx = sink(bench)
    tx.send(frame(1, 2000), header=replace(TSO, gso_type=gso_type, gso_size=gso_size))

    assert outcome(bench, tx) == drop


@pytest.mark.parametrize("gso_type", [1, 3, 4, 5])
def test_segmentation_without_a_checksum_to_complete(bench: Bench, gso_type: int) -> None:
    tx = sink(bench)
    tx.send(frame(1, 2000), header=replace(TSO, gso_type=gso_type, flags=0))

    assert outcome(bench, tx) == "gso_size"


@pytest.mark.parametrize(
    ("gso_type", "needed"),
    [
        (GsoType.TCPV4, V.HOST_TSO4),
        (GsoType.TCPV6, V.HOST_TSO6),
        (GsoType.UDP, V.HOST_UFO),
        (GsoType.UDP_L4, V.HOST_USO),
        (GsoType.TCPV4 | GsoType.ECN, V.HOST_ECN),
        (GsoType.TCPV6 | GsoType.ECN, V.HOST_ECN),
        (GsoType.TCPV4, V.CSUM),
    ],
)
def test_segmentation_that_was_not_negotiated(bench: Bench, gso_type: int, needed: VirtioFeature) -> None:
    header = replace(TSO, gso_type=gso_type)
    tx = sink(bench, SENDER & ~needed)
    tx.send(frame(1, 2000), header=header)
    assert outcome(bench, tx) == "not_negotiated"

    allowed = sink(bench)
    allowed.send(frame(1, 2000), header=header)
    assert outcome(bench, allowed) == ""


@pytest.mark.parametrize("gso_type", [GsoType.TCPV4, GsoType.TCPV6, GsoType.TCPV4 | GsoType.ECN])
def test_legacy_name_of_tso(bench: Bench, gso_type: int) -> None:
    tx = sink(bench, V.CSUM | V.GSO | V.HOST_ECN)
    tx.send(frame(1, 2000), header=replace(TSO, gso_type=gso_type))

    assert outcome(bench, tx) == ""


@pytest.mark.parametrize("hdr_len", [0, 1, 54, 1999, 2000, 2001, 65535])
def test_header_length_is_a_hint(bench: Bench, wire: Wire, hdr_len: int) -> None:
    """The kernel refuses one that is longer than the frame."""
    _, tx = started(bench, wire, SENDER)
    tx.send(frame(1, 2000), header=replace(TSO, hdr_len=hdr_len))
    tx.publish()
    bench.settle()

    assert wire.get() == [(replace(TSO, hdr_len=min(hdr_len, 2000)), frame(1, 2000))]


# What the frame says of itself is not ours to believe or to change


def tcp(data_offset: int) -> bytes:
    """A TCP segment of IPv4 whose header says that it is `data_offset` words long."""
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 1986, 0, 0, 64, 6, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    segment = struct.pack("!HHIIBBHHH", 1, 2, 0, 0, data_offset << 4, 0x10, 1000, 0, 0)
    return frame(1)[:12] + b"\x08\x00" + ip + segment + bytes(1946)


def ipv6_with_extensions(count: int) -> bytes:
    """`count` destination options headers in front of TCP, the last of which lies about its length."""
    options = b"".join(
        bytes([60 if i < count - 1 else 6, 0 if i < count - 1 else 255]) + bytes(6) for i in range(count)
    )
    ip = struct.pack("!IHBB", 6 << 28, len(options), 60, 64) + bytes(32)
    return frame(1)[:12] + b"\x86\xdd" + ip + options + bytes(100)


FRAMES = {
    "tcp-header-of-0": tcp(0),
    "tcp-header-of-60": tcp(15),
    "ipv6-extensions": ipv6_with_extensions(1),
    "ipv6-200-extensions": ipv6_with_extensions(200),
    "vlan": frame(1)[:12] + b"\x81\x00\x00\x07" + tcp(5)[12:],
    "qinq": frame(1)[:12] + b"\x88\xa8\x00\x07\x81\x00\x00\x08" + tcp(5)[12:],
    "vlan-cut-off": frame(1)[:12] + b"\x81\x00",
    "length-as-ethertype": frame(1)[:12] + b"\xff\xff" + bytes(50),
}


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("gso", [False, True], ids=["plain", "tso"])
def test_odd_frame_passes_unchanged(bench: Bench, wire: Wire, name: str, gso: bool) -> None:
    content = FRAMES[name]
    header = replace(TSO, csum_start=0, csum_offset=0, hdr_len=14) if gso else PLAIN
    _, tx = started(bench, wire, SENDER)

    tx.send(content, header=header)
    tx.publish()
    bench.settle()

    assert wire.get() == [(header, content)]


# Receive buffers


@pytest.mark.parametrize("length", [0, 1, 11, 12, 71])
@pytest.mark.parametrize("kind", [PortKind.ECHO, PortKind.SOURCE, PortKind.FD])
def test_receive_buffer_too_small_for_a_guest_that_does_not_merge(
    bench: Bench, wire: Wire, kind: PortKind, length: int
) -> None:
    """The frame is dropped and counted, the buffer stays in the ring, and nothing spins."""
    rx, tx = bench.guest().pair(kind, fd=wire.fd if kind is PortKind.FD else -1, frame_size=60)
    rx.start()
    tx.start()
    rx.add_writable([length])
    rx.publish()
    if kind is PortKind.FD:
        wire.put(frame(1))
    elif kind is PortKind.ECHO:
        tx.send(frame(1))
        tx.publish()

    assert bench.settle() < 10

    assert rx.used_index == 0
    drops = rx.counters.drops
    assert set(drops) == {"buffer_too_small"}
    assert drops["buffer_too_small"] == 1 or kind is PortKind.SOURCE
    assert bench.settle() == 1


@pytest.mark.parametrize("length", [0, 1, 11])
@pytest.mark.parametrize("kind", [PortKind.ECHO, PortKind.SOURCE, PortKind.FD])
def test_merged_buffers_that_do_not_hold_the_header(
    bench: Bench, wire: Wire, kind: PortKind, length: int
) -> None:
    """A ring full of 1-byte buffers: num_buffers has to be in the first, so none of it can be used."""
    rx, tx = bench.guest(MODERN | V.MRG_RXBUF).pair(kind, fd=wire.fd if kind is PortKind.FD else -1)
    rx.start()
    tx.start()
    for _ in range(256):
        rx.add_writable([length])
    rx.publish()
    for number in range(3):
        if kind is PortKind.FD:
            wire.put(frame(number))
        elif kind is PortKind.ECHO:
            tx.send(frame(number))
    tx.publish()

    assert bench.settle() < 10

    assert rx.used_index == 0
    assert set(rx.counters.drops) == {"buffer_too_small"}
    assert kind is PortKind.SOURCE or rx.counters.drops == {"buffer_too_small": 3}


@pytest.mark.parametrize("kind", [PortKind.ECHO, PortKind.FD])
def test_merged_buffers_of_one_byte_behind_a_good_one(bench: Bench, wire: Wire, kind: PortKind) -> None:
    rx, tx = bench.guest(MODERN | V.MRG_RXBUF).pair(kind, fd=wire.fd if kind is PortKind.FD else -1)
    rx.start()
    tx.start()
    rx.add_writable([12])
    for _ in range(60):
        rx.add_writable([1])
    rx.publish()
    if kind is PortKind.FD:
        wire.put(frame(5))
    tx.send(frame(5))
    tx.publish()

    bench.settle()

    assert rx.receive() == [(NetHeader(num_buffers=61), frame(5))]
    assert rx.used_index == 61


def test_frame_that_needs_more_buffers_than_there_are(bench: Bench, wire: Wire) -> None:
    """Dropped whole: half a frame is worse than none. What is left does for a smaller one."""
    rx, _ = started(bench, wire, MODERN | V.MRG_RXBUF)
    for _ in range(3):
        rx.add_writable([1000])
    rx.publish()

    wire.put(frame(1, 4000))
    wire.put(frame(2, 1988))
    bench.settle()

    assert rx.receive() == [(NetHeader(num_buffers=2), frame(2, 1988))]
    assert rx.counters.drops == {"no_buffers": 1}


def test_frame_for_a_thousand_buffers(bench: Bench, wire: Wire) -> None:
    """The longest run of one frame is bounded; those behind it in the port are not harmed."""
    rx, _ = started(bench, wire, MODERN | V.MRG_RXBUF, 2048)
    for _ in range(2048):
        rx.add_writable([12])
    rx.publish()

    wire.put(frame(1, 12 * 1024))
    wire.put(frame(2, 12 * 1023))
    bench.settle()

    assert rx.receive() == [(NetHeader(num_buffers=1024), frame(2, 12 * 1023))]
    assert rx.counters.drops == {"no_buffers": 1}
