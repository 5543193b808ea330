"""Hostile members of a switch in the turns of others: what they cost there is bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.datapath.rig import MODERN, V
from tests.datapath.stations import ALL, SHARE, Lan, Station, address, frame
from tests.datapath.turns import MOST_MS, longest_turn
from vhostuser.datapath.faults import ERROR_NAMES
from vhostuser.datapath.iotlb import DeviceIotlb
from vhostuser.datapath.worker import EventKind
from vhostuser.frontend.guest_memory import Region
from vhostuser.frontend.iova_memory import IovaMemory
from vhostuser.frontend.net_header import GsoType, NetHeader

INDIRECT, NEXT_WRITE = 4, 3


def turn_of_sixty_four(lan: Lan, sender: Station, content: bytes) -> float:
    """The longest turn in which 64 of these are passed on: the best of five, the machine being shared."""
    found = []
    for _ in range(5):
        for _ in range(64):
            sender.tx.send(content)
        sender.tx.publish()
        found.append(longest_turn(lan.bench))
        sender.tx.take()
    return min(found)


def chains_of_nothing(lan: Lan, features: V) -> Station:
    """All of its RX chains are one and the same table of 1024 descriptors without a byte, for ever anew."""
    bad = lan.station(features, buffers=0)
    table = bad.guest.memory.alloc(16 * 1024, 16)
    rows = (bytes(12) + NEXT_WRITE.to_bytes(2, "little") + i.to_bytes(2, "little") for i in range(1, 1024))
    bad.guest.memory.write(table, b"".join(rows) + bytes(12) + b"\2\0\0\0")
    for index in range(256):
        bad.rx.queue.write_descriptor(index, table, 16 * 1024, INDIRECT, 0)
        bad.rx.queue.offer_raw(index)
    lan.bench.settle()
    return bad


@pytest.mark.parametrize("features", [V(0), V.LOG_ALL], ids=["fast", "general"])
def test_receivers_with_long_chains_of_nothing(lan: Lan, features: V) -> None:
    """Each frame walks them again: 78 ms of an innocent sender's turn, once."""
    sender, other = lan.station(size=256), lan.station(buffers=64)
    bad = [chains_of_nothing(lan, MODERN | V.MRG_RXBUF | V.INDIRECT_DESC | features) for _ in range(8)]

    assert turn_of_sixty_four(lan, sender, frame(1, ALL)) < MOST_MS
    assert other.got() == [frame(1, ALL)] * 64
    assert all(sum(station.rx.counters.drops.values()) == 320 for station in bad)


def chains_that_hold_one_frame(lan: Lan) -> Station:
    """Each of its RX chains is a table of 1024 descriptors that hold 248 bytes together."""
    bad = lan.station(MODERN | V.INDIRECT_DESC, buffers=0)
    table, buffer = bad.guest.memory.alloc(16 * 1024, 16), bad.guest.memory.alloc(2, 1)
    entry = buffer.to_bytes(8, "little")
    rows = [
        entry
        + (2 if i > 900 else 0).to_bytes(4, "little")
        + NEXT_WRITE.to_bytes(2, "little")
        + i.to_bytes(2, "little")
        for i in range(1, 1024)
    ]
    bad.guest.memory.write(table, b"".join(rows) + entry + b"\2\0\0\0\2\0\0\0")
    for index in range(256):
        bad.rx.queue.write_descriptor(index, table, 16 * 1024, INDIRECT, 0)
        bad.rx.queue.offer_raw(index)
    lan.bench.settle()
    return bad


def test_receivers_with_long_chains_of_little(lan: Lan) -> None:
    sender, other = lan.station(size=256), lan.station(buffers=64)
    bad = [chains_that_hold_one_frame(lan) for _ in range(8)]

    assert turn_of_sixty_four(lan, sender, frame(1, ALL)) < MOST_MS
    assert other.got() == [frame(1, ALL)] * 64
    assert all(0 < station.rx.used_index < 64 for station in bad)


def test_receiver_with_a_chain_longer_than_a_table(lan: Lan) -> None:
    """32768 descriptors, which a ring of that size allows: not at the cost of who sends there."""
    a, b = lan.stations(2)
    bad = lan.station(MODERN, buffers=0, size=32768)
    for index in range(32767):
        bad.rx.queue.write_descriptor(index, 0, 0, NEXT_WRITE, index + 1)
    bad.rx.queue.write_descriptor(32767, 0, 0, 2, 0)
    bad.rx.queue.offer_raw(0)
    a.send(frame(1, ALL))

    assert b.got() == [frame(1, ALL)]
    [event] = lan.bench.reported(EventKind.RING_BROKEN)
    assert (event.device, event.ring, ERROR_NAMES[event.error]) == (bad.guest.number, 0, "chain length")
    assert sum(bad.rx.counters.drops.values()) == 1


PIECES = 32768 + 2048
"""VU_PIECES."""
PAGE = 4096


def rows_of(base: int, run: int, flags: int) -> bytes:
    """A table whose chain falls into PIECES pieces of a page each, `run` of them in a descriptor."""
    lengths = [min(run, PIECES - done) * PAGE for done in range(0, PIECES, run)]
    raw = b""
    for number, length in enumerate(lengths, 1):
        link = flags | (1 if number < len(lengths) else 0)
        raw += base.to_bytes(8, "little") + length.to_bytes(4, "little")
        raw += link.to_bytes(2, "little") + number.to_bytes(2, "little")
    return raw


def of_many_regions(lan: Lan) -> tuple[Station, int, int]:
    regions = [Region(gpa=0, size=4 << 20, file="rings")]
    regions += [Region((1 << 32) + n * PAGE, PAGE, file="b", mmap_offset=n * PAGE) for n in range(500)]
    return lan.station(MODERN | V.INDIRECT_DESC, buffers=0, regions=regions), 1 << 32, 500


def of_many_translations(lan: Lan) -> tuple[Station, int, int]:
    bad = Station(lan, MODERN | V.INDIRECT_DESC | V.ACCESS_PLATFORM)
    lan.members.append(bad)
    return bad, 1 << 40, 1900


def translate(bad: Station, base: int, run: int) -> None:
    memory = bad.guest.memory
    if V.ACCESS_PLATFORM not in bad.guest.features:
        return
    assert isinstance(memory, IovaMemory)
    iotlb, victim = DeviceIotlb(bad.guest.device), memory.alloc(PAGE, PAGE)
    for iova in range(base, base + run * PAGE, PAGE):
        iotlb.update(iova, iova + PAGE - 1, memory.page_user_address(victim), 3)
    for page in memory.pages:
        iotlb.update(page, page + PAGE - 1, memory.page_user_address(page), 3)


MANY_PIECES = pytest.mark.parametrize("make", [of_many_regions, of_many_translations])


@MANY_PIECES
def test_receivers_with_chains_of_very_many_pieces(
    lan: Lan, make: Callable[[Lan], tuple[Station, int, int]]
) -> None:
    """Behind one that holds a frame: what did not fit was translated again for each frame, 108 ms."""
    sender, other = lan.station(size=256), lan.station(buffers=64)
    for _ in range(4):
        bad, base, run = make(lan)
        memory, table = bad.guest.memory, rows_of(base, run, 2)
        small, at = memory.alloc(2048, 2048), memory.alloc(len(table), 2048)
        memory.write(at, table)
        for index in range(256):
            if index % 2:
                bad.rx.queue.write_descriptor(index, at, len(table), INDIRECT, 0)
            else:
                bad.rx.queue.write_descriptor(index, small, 2048, 2, 0)
            bad.rx.queue.offer_raw(index)
        translate(bad, base, run)
        lan.bench.settle()

    assert turn_of_sixty_four(lan, sender, frame(1, ALL)) < MOST_MS
    assert other.got() == [frame(1, ALL)] * 64


@MANY_PIECES
def test_sender_with_chains_of_very_many_pieces(
    lan: Lan, make: Callable[[Lan], tuple[Station, int, int]]
) -> None:
    """None is a frame, and each took most of a millisecond: 220 ms of the worker's other guests."""
    bad, base, run = make(lan)
    table = rows_of(base, run, 0)
    at = bad.guest.memory.alloc(len(table), 2048)
    bad.guest.memory.write(at, table)
    for index in range(256):
        bad.tx.queue.write_descriptor(index, at, len(table), INDIRECT, 0)
    translate(bad, base, run)
    lan.bench.settle()
    found = []
    for _ in range(5):
        for index in range(32):
            bad.tx.queue.offer_raw(index)
        bad.tx.kick()
        found.append(longest_turn(lan.bench))

    assert min(found) < 2 * MOST_MS
    assert bad.tx.counters.drops == {"oversize": 160}


LARGE = 64000


def tcp(to: bytes, length: int = LARGE) -> bytes:
    ip = b"\x45\0" + (length - 14).to_bytes(2, "big") + b"\0\0\0\0\x40\x06\0\0\x0a\0\0\1\x0a\0\0\2"
    return (to + address(1) + b"\x08\0" + ip + bytes(12) + b"\x50\x10\xff\xff" + bytes(4)).ljust(
        length, b"\0"
    )


UNDONE = {
    "segments": NetHeader(1, GsoType.TCPV4, 54, 1448, 34, 16),
    "checksum": NetHeader(1, csum_start=34, csum_offset=16),
    "nothing": NetHeader(),
}


def large_sender(lan: Lan, undone: str) -> Station:
    """All of its TX chains are one and the same frame, of 64000 bytes that are to be finished."""
    sender = lan.station(MODERN | V.CSUM | V.HOST_TSO4, buffers=0)
    whole = UNDONE[undone].build(12) + tcp(ALL)
    at = sender.guest.memory.alloc(len(whole), 16)
    sender.guest.memory.write(at, whole)
    for index in range(256):
        sender.tx.queue.write_descriptor(index, at, len(whole), 0, 0)
    return sender


def turn_of_large(lan: Lan, sender: Station) -> float:
    found = []
    for number in range(5):
        for index in range(64):
            sender.tx.queue.offer_raw((number * 64 + index) % 256)
        sender.tx.kick()
        found.append(longest_turn(lan.bench))
    assert sender.tx.used_index == 320
    return min(found)


@pytest.mark.parametrize("undone", UNDONE)
def test_large_frames_to_those_that_have_no_buffers(lan: Lan, undone: str) -> None:
    """What is to be finished for them is not even begun: it took 12 ms."""
    receivers = [lan.station(buffers=0) for _ in range(31)]
    sender = large_sender(lan, undone)

    assert turn_of_large(lan, sender) < MOST_MS
    assert all(station.rx.counters.drops == {"no_buffers": 320} for station in receivers)


@pytest.mark.parametrize("undone", UNDONE)
@pytest.mark.parametrize("features", [MODERN | V.GUEST_CSUM | V.GUEST_TSO4, MODERN], ids=["take", "take not"])
def test_large_frames_to_many(lan: Lan, features: V, undone: str) -> None:
    """Copies are counted by their bytes: 64 such frames to all of them took 42 ms."""
    receivers = [lan.station(features | V.MRG_RXBUF, buffers=0, size=512) for _ in range(31)]
    for station in receivers:
        at = station.guest.memory.alloc(LARGE + 12, 16)
        for index in range(512):
            station.rx.queue.write_descriptor(index, at, LARGE + 12, 2, 0)
            station.rx.queue.offer_raw(index)
    sender = large_sender(lan, undone)

    assert turn_of_large(lan, sender) < MOST_MS
    assert all(station.rx.used_index >= 320 for station in receivers)


def made_up(block: int, number: int) -> bytes:
    return bytes([2, 0, 0, 0, block, number])


def test_members_that_fill_the_table_keep_no_newcomer_out(lan: Lan) -> None:
    """Four of them have all 4096 places together."""
    hostile = [lan.station(buffers=0) for _ in range(4)]
    for n, station in enumerate(hostile):
        for block in range(40):
            for number in range(64):
                station.tx.send(frame(made_up(n * 40 + block, number), 0))
            station.tx.publish()
            lan.bench.settle()
            station.tx.take()
    assert lan.switch.addresses > 3 * SHARE

    newcomers = [lan.station(buffers=300, size=512) for _ in range(8)]
    for number, station in enumerate(newcomers):
        station.send(frame(1000 + number, 0))
    lan.drain()
    asks, others = newcomers[0], newcomers[1:]
    asks.send(*(frame(1000, 1000 + number) for number in range(1, 8)))
    assert [len(station.got()) for station in others] == [1] * 7


def test_members_of_equal_shares_take_nothing_from_each_other(lan: Lan) -> None:
    """Else two guests that need more than there is would make each other's frames go to everybody."""
    a, b = lan.station(buffers=0), lan.station(buffers=0)
    for block in range(30):
        for n, station in enumerate((a, b)):
            station.send(*(frame(made_up(n * 30 + block, number), 0) for number in range(64)))
            station.tx.take()
    before = lan.switch.addresses
    a.send(frame(made_up(100, 0), 0))
    assert lan.switch.addresses == before
