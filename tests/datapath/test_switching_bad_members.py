"""Hostile members of a switch: each harms itself, and the others get what they are sent, once."""

from __future__ import annotations

import itertools

import pytest

from tests.datapath.rig import MODERN, V, mapped
from tests.datapath.stations import ALL, Lan, Station, frame
from vhostuser.datapath.faults import ERROR_NAMES
from vhostuser.datapath.worker import EventKind
from vhostuser.frontend.guest_memory import Region

MIB = 1 << 20
RINGS = Region(gpa=0, size=4 * MIB, file="rings")
BUFFERS = Region(gpa=1 << 32, size=4 * MIB, file="buffers")
BUFFER = BUFFERS.gpa + MIB
FORMATS = [V(0), V.LOG_ALL]


def fragile(lan: Lan, features: V = MODERN) -> Station:
    """Its rings are in one file, all buffers of its RX ring in another, which can be cut."""
    station = lan.station(features, regions=[RINGS, BUFFERS], buffers=0)
    for index in range(256):
        station.rx.queue.write_descriptor(index, BUFFER, 2048, 2, 0)
    offer(station, 64)
    lan.bench.settle()
    return station


def offer(station: Station, count: int) -> None:
    for _ in range(count):
        station.rx.queue.offer_raw(station.rx.queue.read_avail_index() % 256)


def cut(station: Station) -> None:
    station.guest.memory.truncate("buffers", 0)


@pytest.mark.parametrize("features", FORMATS, ids=["fast", "general"])
@pytest.mark.parametrize("position", [0, 1, 2], ids=["first", "middle", "last"])
def test_receiver_whose_memory_is_gone_costs_nobody_a_frame(lan: Lan, position: int, features: V) -> None:
    sender = lan.station(buffers=64)
    others: list[Station] = []
    for number in range(3):
        if number == position:
            bad = fragile(lan, MODERN | features)
        else:
            others.append(lan.station(buffers=64))
    cut(bad)
    sent = [frame(1, ALL, bytes([n])) for n in range(20)]
    sender.send(*sent)

    [event] = lan.bench.reported(EventKind.DEVICE_FAULTED)
    assert (event.device, ERROR_NAMES[event.error]) == (bad.guest.number, "memory fault")
    assert [other.got() for other in others] == [sent, sent]
    assert len(sender.tx.take()) == 20
    assert bad.rx.counters.drops == {"no_buffers": 20}

    sender.send(*sent)  # its lock is free, and nobody touches it again
    assert [other.got() for other in others] == [sent, sent]
    assert bad.rx.counters.drops == {"no_buffers": 40}
    assert len(lan.bench.reported(EventKind.DEVICE_FAULTED)) == 1


@pytest.mark.parametrize("features", FORMATS, ids=["fast", "general"])
def test_sender_whose_memory_is_gone_leaves_its_receiver_usable(lan: Lan, features: V) -> None:
    bad = lan.station(MODERN | features, regions=[RINGS, BUFFERS], buffers=0)
    receiver, other = lan.station(buffers=64), lan.station(buffers=64)
    # Heads can be read, and what is behind them cannot: the fault comes while the receiver's ring is held.
    bad.guest.memory.write(BUFFER, bytes(12) + frame(1, ALL))
    bad.tx.queue.write_descriptor(0, BUFFER, 72, 1, 1)
    bad.tx.queue.write_descriptor(1, BUFFERS.gpa + 2 * MIB, 100, 0, 0)
    bad.guest.memory.truncate("buffers", 2 * MIB)
    bad.tx.queue.offer_raw(0)
    bad.tx.kick()
    lan.bench.settle()

    [event] = lan.bench.reported(EventKind.DEVICE_FAULTED)
    assert event.device == bad.guest.number
    assert receiver.got() == other.got() == []
    assert receiver.rx.used_index == 0
    assert receiver.rx.counters.drops == other.rx.counters.drops == {}

    other.send(frame(2, ALL))
    assert receiver.got() == [frame(2, ALL)]


def test_receiver_that_loses_its_memory_after_some_frames_has_lost_only_the_rest(lan: Lan) -> None:
    """More chains than a burst has space for: what was published by then has arrived."""
    sender = lan.station(buffers=0)
    bad = lan.station(MODERN | V.MRG_RXBUF, regions=[RINGS, BUFFERS], buffers=0, size=4096)
    for index in range(4096):
        gone = index >= 1900
        bad.rx.queue.write_descriptor(index, BUFFER if gone else 2 * MIB, 256, 2, 0)
        bad.rx.queue.offer_raw(index)
    lan.bench.settle()
    cut(bad)
    sent = 40
    for number in range(sent):
        sender.tx.send(frame(1, ALL, bytes([number]), length=20000))
    sender.tx.publish()
    lan.bench.settle()

    assert [event.device for event in lan.bench.reported(EventKind.DEVICE_FAULTED)] == [bad.guest.number]
    arrived = bad.rx.counters.packets
    assert 10 < arrived < 1900 // 79
    assert bad.rx.counters.drops == {"no_buffers": sent - arrived}


def test_receiver_whose_used_ring_is_gone_has_received_nothing(lan: Lan) -> None:
    """What was filled and could not be published is lost, and not received as well."""
    sender = lan.station(buffers=0)
    bad = lan.station(MODERN, regions=[RINGS, BUFFERS], buffers=0, size=4096)
    for index in range(64):
        bad.rx.queue.write_descriptor(index, BUFFER, 2048, 2, 0)
        bad.rx.queue.offer_raw(index)
    lan.bench.settle()
    bad.guest.memory.truncate("rings", bad.rx.queue.place.used // 4096 * 4096)
    sender.send(*(frame(1, ALL, bytes([n])) for n in range(10)))

    assert [event.device for event in lan.bench.reported(EventKind.DEVICE_FAULTED)] == [bad.guest.number]
    assert bad.rx.counters.packets == 0
    assert bad.rx.counters.drops == {"no_buffers": 10}


def test_own_ring_that_is_gone_when_it_is_looked_at(lan: Lan) -> None:
    """The member's own worker holds the lock of its RX ring when it faults there."""
    a, b = lan.stations(2)
    bad = Station(lan, MODERN, regions=[RINGS])
    bad.guest.memory.truncate("rings", 0)
    lan.bench.settle()
    a.send(frame(1, ALL))

    assert b.got() == [frame(1, ALL)]
    assert [event.device for event in lan.bench.reported(EventKind.DEVICE_FAULTED)] == [bad.guest.number]


BAD_DESCRIPTORS = {
    "address": (1 << 60, 2048, 2, 0),
    "direction": (4096, 2048, 0, 0),
    "chain length": (4096, 1, 3, 0),
}


@pytest.mark.parametrize("error", ["head", *BAD_DESCRIPTORS])
def test_receiver_with_a_bad_chain_breaks_its_own_ring(lan: Lan, error: str) -> None:
    a, b = lan.stations(2)
    bad = lan.station(buffers=0)
    if error in BAD_DESCRIPTORS:
        bad.rx.queue.write_descriptor(0, *BAD_DESCRIPTORS[error])
    bad.rx.queue.offer_raw(256 if error == "head" else 0)
    sent = [frame(1, ALL, bytes([n])) for n in range(5)]
    a.send(*sent)

    assert b.got() == sent
    [event] = lan.bench.reported(EventKind.RING_BROKEN)
    assert (event.device, event.ring, ERROR_NAMES[event.error]) == (bad.guest.number, 0, error)
    assert bad.rx.errors() == 1
    assert bad.rx.counters.drops == {"no_buffers": 5}
    a.send(*sent)
    assert b.got() == sent
    assert len(lan.bench.reported(EventKind.RING_BROKEN)) == 1


def test_sender_with_a_bad_chain_has_sent_what_was_before(lan: Lan) -> None:
    a, b = lan.stations(2)
    a.tx.send(frame(1, ALL, b"good"))
    a.tx.publish()
    a.tx.queue.offer_raw(999)
    a.tx.kick()
    lan.bench.settle()

    assert b.got() == [frame(1, ALL, b"good")]
    [event] = lan.bench.reported(EventKind.RING_BROKEN)
    assert (event.device, event.ring) == (a.guest.number, 1)


@pytest.mark.parametrize("length", [0, 5, 11, 12, 20, 25])
def test_frames_without_a_whole_ethernet_header(lan: Lan, length: int) -> None:
    a, b = lan.stations(2)
    a.tx.add_readable(bytes(length), [length])
    a.tx.publish()
    lan.bench.settle()

    assert b.got() == []
    assert sum(a.tx.counters.drops.values()) == 1


@pytest.mark.parametrize("cut_at", [1, 6, 11, 13, 14, 17, 18, 19])
@pytest.mark.parametrize(("sender", "receiver"), list(itertools.product(FORMATS, repeat=2)))
def test_addresses_in_pieces(lan: Lan, cut_at: int, sender: V, receiver: V) -> None:
    a, b = lan.station(MODERN | sender), lan.station(MODERN | receiver)
    content = frame(1, ALL, b"\x01\x02\x03\x04\x05")
    for pieces in ([12 + cut_at, 60 - cut_at], [12, cut_at, 60 - cut_at], [1] * 71 + [1]):
        a.tx.send(content, pieces=pieces)
    a.tx.publish()
    lan.bench.settle()

    assert b.got() == [content] * 3


@pytest.mark.parametrize("length", range(14, 20))
def test_shortest_frames_are_filtered_by_what_they_have(lan: Lan, length: int) -> None:
    a, b = lan.station(), lan.station(MODERN | V.LOG_ALL)
    a.send(frame(1, ALL, b"\xaa" * 9, length=14)[:length].ljust(length, b"\xbb"))

    assert [len(content) for content in b.got()] == [length]


def test_memory_table_that_moves_under_traffic(lan: Lan) -> None:
    a, b = lan.stations(2)
    for number in range(20):
        b.guest.swap(mapped(b.guest.memory))
        a.guest.swap(mapped(a.guest.memory))
        a.send(frame(1, 2, bytes([number])))
        a.tx.take()
        b.give(1)
    assert b.got() == [frame(1, 2, bytes([number])) for number in range(20)]
