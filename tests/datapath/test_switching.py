"""Guest to guest: who gets which frame, and who does not; learning and ageing."""

from __future__ import annotations

import itertools
import time

import pytest

from tests.datapath.rig import MODERN, Bench, V
from tests.datapath.stations import ALL, SHARE, Lan, address, frame
from vhostuser.datapath.switching import Member, Switch
from vhostuser.datapath.vring import PacketDevice, RingEnabled
from vhostuser.datapath.worker import Worker
from vhostuser.errors import EnvironmentLacksError
from vhostuser.frontend.net_header import NetHeader

FORMATS = [V(0), V.RING_PACKED, V.LOG_ALL, V.RING_PACKED | V.LOG_ALL]


def test_frame_to_all_comes_to_all_others(lan: Lan) -> None:
    a, b, c = lan.stations(3)
    a.send(frame(1, ALL))

    assert (a.got(), b.got(), c.got()) == ([], [frame(1, ALL)], [frame(1, ALL)])
    assert len(a.tx.take()) == 2
    assert a.tx.counters.packets == 2
    assert a.tx.counters.drops == {}


def test_frame_to_a_group_comes_to_all_others(lan: Lan) -> None:
    a, b, c = lan.stations(3)
    group = b"\x33\x33\0\0\0\1"
    a.send(frame(1, group))

    assert (b.got(), c.got()) == ([frame(1, group)], [frame(1, group)])


def test_unknown_address_is_flooded_and_a_known_one_is_not(lan: Lan) -> None:
    a, b, c = lan.stations(3)
    a.send(frame(1, 7))
    assert (b.got(), c.got()) == ([frame(1, 7)], [frame(1, 7)])

    b.send(frame(7, 1))
    assert (a.got(), c.got()) == ([frame(7, 1)], [])

    a.send(frame(1, 7))
    assert (b.got(), c.got()) == ([frame(1, 7)], [])
    assert lan.switch.addresses == 4


def test_order_holds_between_flooded_and_known(lan: Lan) -> None:
    a, b, c = lan.stations(3)
    targets: list[int | bytes] = [2, ALL, 2, 3, ALL, 2, 7, 3]
    sent = [frame(1, to, bytes([n])) for n, to in enumerate(targets)]
    a.send(*sent)

    assert b.got() == [content for content in sent if content[:6] != address(3)]
    assert c.got() == [content for content in sent if content[:6] != address(2)]


def test_address_that_moves_is_followed_at_once(lan: Lan) -> None:
    a, b, c = lan.stations(3)
    c.send(frame(2, 1))
    lan.drain()
    a.send(frame(1, 2))

    assert (b.got(), c.got()) == ([], [frame(1, 2)])


def test_address_that_was_not_seen_for_long_is_unknown(bench: Bench) -> None:
    lan = Lan(bench, age=1)
    a, b, c = lan.stations(3)
    time.sleep(2.1)
    a.send(frame(1, 2))
    assert (b.got(), c.got()) == ([frame(1, 2)], [frame(1, 2)])

    b.send(frame(2, 1))
    lan.drain()
    a.send(frame(1, 2))
    assert (b.got(), c.got()) == ([frame(1, 2)], [])
    lan.close()


def test_address_that_goes_on_sending_stays_known(bench: Bench) -> None:
    lan = Lan(bench, age=1)
    a, b, c = lan.stations(3)
    for _ in range(5):
        time.sleep(0.5)
        b.send(frame(2, 1))
    lan.drain()
    a.send(frame(1, 2))

    assert (b.got(), c.got()) == ([frame(1, 2)], [])
    lan.close()


def test_member_whose_addresses_are_forgotten(lan: Lan) -> None:
    a, b, c = lan.stations(3)
    b.member.forget()
    a.send(frame(1, 2), frame(1, 3))

    assert (b.got(), c.got()) == ([frame(1, 2)], [frame(1, 2), frame(1, 3)])


@pytest.mark.parametrize("source", [bytes(6), ALL, b"\x01\0\x5e\0\0\1"], ids=["none", "all", "group"])
def test_frame_from_no_station_goes_nowhere(lan: Lan, source: bytes) -> None:
    a, b = lan.stations(2)
    a.send(frame(source, ALL), frame(1, ALL))

    assert b.got() == [frame(1, ALL)]
    assert a.tx.counters.drops == {"source_address": 1}
    assert lan.switch.addresses == 2


@pytest.mark.parametrize("last", [0, 1, 2, 14, 15])
def test_frames_of_the_link_go_nowhere(lan: Lan, last: int) -> None:
    a, b = lan.stations(2)
    a.send(frame(1, b"\x01\x80\xc2\0\0" + bytes([last])))
    assert b.got() == []
    assert a.tx.counters.drops == {"not_forwarded": 1}

    a.send(frame(1, b"\x01\x80\xc2\0\0\x10"), frame(1, b"\x01\x80\xc2\0\1\0"))
    assert len(b.got()) == 2


def test_frame_to_where_it_comes_from_goes_nowhere(lan: Lan) -> None:
    a, b = lan.stations(2)
    a.send(frame(1, 1), frame(1, ALL))

    assert (a.got(), b.got()) == ([], [frame(1, ALL)])
    assert a.tx.counters.drops == {"not_forwarded": 1}


@pytest.mark.parametrize(("sender", "receiver"), list(itertools.product(FORMATS, repeat=2)))
def test_every_format_into_every_other(lan: Lan, sender: V, receiver: V) -> None:
    a, b = lan.station(MODERN | sender | V.EVENT_IDX), lan.station(MODERN | receiver)
    sent = [frame(1, ALL, bytes([n]), length=14 + n * n) for n in range(16)]
    a.send(*sent)

    assert b.got() == sent
    assert len(a.tx.take()) == len(sent)


@pytest.mark.parametrize("legacy", [V(0), V.MRG_RXBUF])
@pytest.mark.parametrize("big_endian", [False, True])
def test_legacy_headers_into_modern_ones_and_back(lan: Lan, legacy: V, big_endian: bool) -> None:
    old, new = lan.station(legacy, big_endian=big_endian), lan.station(MODERN)
    old.send(frame(1, ALL))
    [(header, content)] = new.received()
    assert (header, content) == (NetHeader(num_buffers=1), frame(1, ALL))

    new.send(frame(2, ALL))
    [(header, content)] = old.received()
    assert (header, content) == (NetHeader(num_buffers=1 if legacy else 0), frame(2, ALL))


def test_frame_is_spread_over_buffers_and_gathered_from_them(lan: Lan) -> None:
    a, b = lan.station(MODERN), lan.station(MODERN | V.MRG_RXBUF, buffers=64, length=100)
    content = frame(1, ALL, length=1500)
    for pieces in ([1512], [12, 1500], [7, 10, 9, 1486], [26, 1, 1, 1484]):
        a.tx.send(content, pieces=pieces)
    a.tx.publish()
    lan.bench.settle()

    assert b.received() == [(NetHeader(num_buffers=16), content)] * 4


def test_small_buffers_take_more_than_one_burst_of_ours(lan: Lan) -> None:
    """64 frames of 65000 bytes in buffers of 128: more chains than a burst has space for."""
    a = lan.station(MODERN, size=64)
    b = lan.station(MODERN | V.MRG_RXBUF, buffers=4096, length=256, size=4096)
    sent = [frame(1, ALL, bytes([n]), length=20000) for n in range(40)]
    a.send(*sent)

    assert b.got() == sent


def test_no_room_is_the_receivers_loss(lan: Lan) -> None:
    a, b, c = lan.station(), lan.station(buffers=16), lan.station(buffers=64)
    sent = [frame(1, ALL, bytes([n])) for n in range(40)]
    a.send(*sent)

    assert (b.got(), c.got()) == (sent[:16], sent)
    assert b.rx.counters.drops == {"no_buffers": 24}
    assert a.tx.counters.drops == c.rx.counters.drops == {}
    assert len(a.tx.take()) == 40


def test_buffers_that_come_later_are_found_without_a_kick(lan: Lan) -> None:
    a, b = lan.stations(2)
    for rx, _ in b.pairs:
        rx.take()
    before = b.rx.counters.kicks
    for number in range(50):
        b.rx.add_writable([2048])
        b.rx.publish()
        a.send(frame(1, 2, bytes([number])))
        a.tx.take()
        assert b.got() == [frame(1, 2, bytes([number]))]
    assert b.rx.counters.kicks == before


def test_mtu_of_the_receiver(lan: Lan) -> None:
    a, b = lan.stations(2)
    b.member.set_mtu(1000)
    a.send(frame(1, 2, length=1018), frame(1, 2, length=1019))
    assert [len(content) for content in b.got()] == [1018]
    assert b.rx.counters.drops == {"oversize": 1}

    b.member.set_mtu(0)
    a.send(frame(1, 2, length=1019))
    assert len(b.got()) == 1


@pytest.mark.parametrize("length", [1019, 9000])
def test_mtu_of_the_receiver_behind_a_frame_with_an_offload(lan: Lan, length: int) -> None:
    """What stood in the header of another frame of the burst before says nothing of this one."""
    a, b = lan.station(MODERN | V.CSUM | V.HOST_TSO4), lan.station(MODERN | V.MRG_RXBUF)
    a.send(frame(1, ALL, length=900), header=NetHeader(1, 1, 0, 600, 34, 16))
    b.member.set_mtu(1000)
    b.got()
    before = sum(b.rx.counters.drops.values())
    a.send(frame(1, ALL, length=length))

    assert b.got() == []
    assert b.rx.counters.drops["oversize"] == 1
    assert sum(b.rx.counters.drops.values()) == before + 1


def test_disabled_and_stopped_rings_take_nothing(lan: Lan) -> None:
    a, b, c = lan.stations(3)
    b.rx.pair.set_enabled(0, RingEnabled.DISABLED)
    c.rx.stop()
    a.send(frame(1, ALL), frame(1, 2), frame(1, 3))
    assert (b.got(), c.got()) == ([], [])
    assert b.rx.counters.drops == c.rx.counters.drops == {}

    b.rx.pair.set_enabled(0, RingEnabled.ENABLED)
    a.send(frame(1, 2))
    assert b.got() == [frame(1, 2)]


def test_sender_whose_ring_is_disabled_sends_to_nobody(lan: Lan) -> None:
    a, b = lan.stations(2)
    a.tx.pair.set_enabled(1, RingEnabled.DISABLED)
    a.send(frame(1, ALL))

    assert b.got() == []
    assert a.tx.counters.drops == {"ring_disabled": 1}


def test_frames_of_a_flow_come_on_the_ring_of_the_pair_that_answers(lan: Lan) -> None:
    a, b = lan.station(buffers=64), lan.station(pairs=4, buffers=64)
    flows = [udp(1, 2, port, 53) for port in range(1000, 1032)]
    rings: set[int] = set()
    for flow in flows:
        a.send(flow)
        [ring] = [n for n, (rx, _) in enumerate(b.pairs) if rx.receive()]
        rings.add(ring)
    assert len(rings) > 1  # spread before anything is known

    for number, flow in enumerate(flows):
        b.send(udp(2, 1, 53, int.from_bytes(flow[34:36], "big")), pair=number % 4)
    lan.drain()
    hits = 0
    for number, flow in enumerate(flows):
        a.send(flow)
        [ring] = [n for n, (rx, _) in enumerate(b.pairs) if rx.receive()]
        hits += ring == number % 4
    # The table has 256 places: two of 32 flows may share one.
    assert hits >= 24


def udp(source: int, to: int, source_port: int, to_port: int) -> bytes:
    ip = b"\x45\0\0\x2e\0\0\0\0\x40\x11\0\0" + bytes([10, 0, 0, source]) + bytes([10, 0, 0, to])
    ports = source_port.to_bytes(2, "big") + to_port.to_bytes(2, "big")
    return address(to) + address(source) + b"\x08\0" + ip + ports + b"\0\x1a\0\0" + bytes(18)


def test_flow_of_a_pair_that_is_gone_goes_to_another(lan: Lan) -> None:
    a, b = lan.station(buffers=64), lan.station(pairs=2, buffers=64)
    b.send(udp(2, 1, 53, 1000), pair=1)
    lan.drain()
    a.send(udp(1, 2, 1000, 53))
    assert [len(rx.receive()) for rx, _ in b.pairs] == [0, 1]

    b.pairs[1][0].stop()
    a.send(udp(1, 2, 1000, 53))
    assert [len(rx.receive()) for rx, _ in b.pairs] == [1, 0]


def test_injected_frame_goes_where_the_guests_would(lan: Lan) -> None:
    a, b, c = lan.stations(3)
    a.member.inject(frame(9, ALL))
    assert (a.got(), b.got(), c.got()) == ([], [frame(9, ALL)], [frame(9, ALL)])

    b.send(frame(2, 9))
    assert (a.got(), c.got()) == ([frame(2, 9)], [])
    a.member.inject(b"too short")
    Member(lan.switch).inject(frame(9, ALL))  # of no device
    assert c.got() == []


def test_guest_that_makes_up_addresses_has_its_share_and_no_more(lan: Lan) -> None:
    a, b, c = lan.stations(3)
    for block in range(40):
        for number in range(64):
            a.tx.send(frame(bytes([2, 0, 0, 0, block, number]), 0))
        a.tx.publish()
        lan.bench.settle()
        a.tx.take()

    # Three that are there for good, of which one is the flooder's own.
    assert 500 < lan.switch.addresses <= SHARE + 2
    lan.drain()
    b.give(4)
    c.give(4)
    b.send(frame(2, 3))
    c.send(frame(3, 2))
    assert (b.got(), c.got()) == ([frame(3, 2)], [frame(2, 3)])


def test_who_had_its_share_long_ago_may_learn_again(bench: Bench) -> None:
    lan = Lan(bench, age=1)
    a, b = lan.stations(2)
    for block in range(40):
        a.send(*(frame(bytes([2, 0, 0, 0, block, number]), 0) for number in range(64)))
        a.tx.take()
    time.sleep(2.1)
    lan.drain()
    b.give(8)
    a.send(frame(7, 0))
    a.send(frame(1, 0))
    assert lan.switch.addresses <= 4
    b.send(frame(2, 7))
    assert a.got() == [frame(2, 7)]
    lan.close()


def test_switches_do_not_know_each_other(bench: Bench) -> None:
    one, other = Lan(bench), Lan(bench)
    a, b, c = one.station(), one.station(), other.station()
    a.send(frame(1, ALL))

    assert (b.got(), c.got()) == ([frame(1, ALL)], [])
    for station in (a, b, c):
        station.guest.close()
    one.switch.close()
    other.switch.close()


def test_device_that_goes_leaves_nothing_behind(lan: Lan) -> None:
    a, b, c = lan.stations(3)
    b.guest.close()
    assert lan.switch.addresses == 2
    a.send(frame(1, 2))
    assert c.got() == [frame(1, 2)]

    d = lan.station()
    a.send(frame(1, ALL))
    assert d.got() == [frame(1, ALL)]


def test_switch_is_full(lan: Lan, bench: Bench) -> None:
    devices = [PacketDevice(number, bench.workers) for number in range(1025)]
    for device in devices[:1024]:
        device.join(Member(lan.switch))
    with pytest.raises(EnvironmentLacksError, match="1024"):
        devices[1024].join(Member(lan.switch))
    devices[5].close()
    devices[1024].join(Member(lan.switch))
    for device in devices:
        device.close()


def test_frames_to_very_many_are_many_bursts(lan: Lan, bench: Bench) -> None:
    """A frame to each of 300 members is 300 copies: the turn ends long before 64 of them are made."""
    a, b = lan.stations(2)
    others = [PacketDevice(100 + number, bench.workers) for number in range(300)]
    for device in others:
        device.join(Member(lan.switch))
    sent = [frame(1, ALL, bytes([n])) for n in range(60)]
    b.give(60)
    a.send(*sent)

    assert b.got() == sent
    assert a.tx.counters.bursts >= 9
    for device in others:
        device.close()


def test_pause_of_a_member_is_one_of_all_who_may_fill_its_rings(lan: Lan) -> None:
    more = [Worker(), Worker()]
    device, other = PacketDevice(0, more[:1]), PacketDevice(1, more[1:])
    for joining in (device, other):
        joining.join(Member(lan.switch))
        joining.pair(0)
    with device.paused():
        assert not any(worker.turn() == (False, False) for worker in more)
    assert all(worker.turn() == (False, False) for worker in more)
    for leaving in (device, other):
        leaving.close()
    for worker in more:
        worker.close()


def test_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lacking:
        def vu_switch_new(self, age: int, seed: int) -> object:
            from vhostuser.datapath._datapath import ffi

            return ffi.NULL

    monkeypatch.setattr("vhostuser.datapath.switching.lib", Lacking())
    with pytest.raises(MemoryError):
        Switch()
