"""Filters as C compares them, on each way that a frame can take to the guest."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator

import pytest

from tests.datapath.rig import MODERN, Bench, V
from vhostuser.datapath._datapath import ffi
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.rx_filter import MAX_MACS, Accept, RxFilter

OWN = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("525400123457")
GROUP = bytes.fromhex("3333ff123456")
OTHER_GROUP = bytes.fromhex("3333ff123457")
ALL_ONES = b"\xff" * 6
NONE, LISTED, ALL = Accept.NONE, Accept.LISTED, Accept.ALL
HEADER = bytes(12)


def to(mac: bytes, tag: bytes = b"", length: int = 60) -> bytes:
    return (mac + b"\2\0\0\0\0\1" + tag + b"\x88\xb5").ljust(length, b".")


def tagged(vlan: int, priority: int = 0, tpid: int = 0x8100) -> bytes:
    return tpid.to_bytes(2, "big") + (priority << 13 | vlan).to_bytes(2, "big")


class Echo:
    """A guest that hears what it says, through its filter."""

    def __init__(self, bench: Bench, features: V = MODERN) -> None:
        self.bench = bench
        self.guest = bench.guest(features)
        self.rx, self.tx = self.guest.pair(PortKind.ECHO)
        self.rx.start()
        self.tx.start()
        for _ in range(64):
            self.rx.add_writable([2048])
        self.rx.publish()

    def hears(self, *frames: bytes) -> list[bytes]:
        for content in frames:
            self.tx.send(content, pieces=[12, 3, 5, len(content) - 8])
        self.tx.publish()
        self.bench.settle()
        self.tx.take()
        heard = [content for _, content in self.rx.receive()]
        for _ in heard:
            self.rx.add_writable([2048])
        self.rx.publish()
        return heard

    @property
    def filtered(self) -> int:
        return self.rx.counters.drops.get("filtered", 0)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench() as bench:
        yield bench


def test_build_lays_out_what_c_compares() -> None:
    built = RxFilter(LISTED, ALL, NONE, frozenset({OWN, GROUP}), frozenset({0, 63, 64, 4095})).build()

    assert (built.unicast, built.multicast, built.broadcast, built.tagged) == (1, 2, 0, 1)
    assert {built.mac[i].to_bytes(6, "little") for i in range(built.mac_count)} == {OWN, GROUP}
    assert [i for i in range(4096) if built.vlan[i // 64] >> i % 64 & 1] == [0, 63, 64, 4095]


def test_build_without_vlans_lets_every_tag_through() -> None:
    assert RxFilter(ALL, ALL, ALL).build().tagged == ALL


def test_build_refuses_more_addresses_than_there_is_room_for() -> None:
    macs = frozenset(bytes([2, 0, 0, 0, 0, i]) for i in range(MAX_MACS + 1))
    with pytest.raises(IndexError):
        RxFilter(LISTED, ALL, ALL, macs).build()
    assert RxFilter(LISTED, ALL, ALL, frozenset(list(macs)[:MAX_MACS])).build().mac_count == MAX_MACS


@pytest.mark.parametrize("features", [MODERN, MODERN | V.MRG_RXBUF | V.RING_PACKED])
def test_filter_lets_through_what_is_listed_and_counts_the_rest(bench: Bench, features: V) -> None:
    echo = Echo(bench, features)
    frames = [to(mac) for mac in (OWN, OTHER, GROUP, OTHER_GROUP, ALL_ONES)]
    assert echo.hears(*frames) == frames

    echo.guest.device.set_filter(RxFilter(LISTED, LISTED, ALL, frozenset({OWN, GROUP})))
    assert echo.hears(*frames) == [to(OWN), to(GROUP), to(ALL_ONES)]
    assert echo.filtered == 2
    assert echo.tx.counters.drops == {}

    echo.guest.device.set_filter(None)
    assert echo.hears(*frames) == frames
    assert echo.filtered == 2


@pytest.mark.parametrize("unicast", Accept)
@pytest.mark.parametrize("multicast", Accept)
@pytest.mark.parametrize("broadcast", [NONE, ALL])
def test_each_kind_has_a_word_of_its_own(
    bench: Bench, unicast: Accept, multicast: Accept, broadcast: Accept
) -> None:
    echo = Echo(bench)
    echo.guest.device.set_filter(RxFilter(unicast, multicast, broadcast, frozenset({OWN, GROUP})))
    wanted = [OWN] * (unicast >= LISTED) + [OTHER] * (unicast == ALL)
    wanted += [GROUP] * (multicast >= LISTED) + [OTHER_GROUP] * (multicast == ALL)
    wanted += [ALL_ONES] * (broadcast == ALL)

    heard = echo.hears(*[to(mac) for mac in (OWN, OTHER, GROUP, OTHER_GROUP, ALL_ONES)])

    assert heard == [to(mac) for mac in wanted]
    assert echo.filtered == 5 - len(wanted)


def test_every_listed_address_is_found_and_its_neighbours_are_not(bench: Bench) -> None:
    echo = Echo(bench)
    macs = [bytes([2, 0, 0, 0, i, 0]) for i in range(MAX_MACS)]
    echo.guest.device.set_filter(RxFilter(LISTED, NONE, NONE, frozenset(macs)))

    for at in range(0, MAX_MACS, 32):
        part = macs[at : at + 32]
        heard = echo.hears(*[to(mac) for mac in part], *[to(mac[:5] + b"\1") for mac in part])
        assert heard == [to(mac) for mac in part]


def test_tagged_frames_pass_by_their_vlan_and_untagged_ones_always(bench: Bench) -> None:
    echo = Echo(bench)
    echo.guest.device.set_filter(RxFilter(ALL, ALL, ALL, vlans=frozenset({0, 5, 4095})))
    wanted = [to(OWN), to(OWN, tagged(5)), to(OWN, tagged(5, priority=7)), to(OWN, tagged(0))]
    wanted += [to(OWN, tagged(4095)), to(OWN, tagged(6, tpid=0x88A8))]
    unwanted = [to(OWN, tagged(4)), to(OWN, tagged(6)), to(OWN, tagged(5 + 64)), to(ALL_ONES, tagged(1))]

    heard = echo.hears(*wanted, *unwanted)

    assert heard == wanted
    assert echo.filtered == len(unwanted)


def test_tag_opens_nothing_that_the_destination_closes(bench: Bench) -> None:
    echo = Echo(bench)
    echo.guest.device.set_filter(RxFilter(LISTED, ALL, ALL, frozenset({OWN}), frozenset({5})))

    assert echo.hears(to(OTHER, tagged(5)), to(OWN, tagged(5))) == [to(OWN, tagged(5))]


def passes(rx_filter: RxFilter, mac: bytes, vlan: int | None) -> bool:
    """The plain model."""
    accept = rx_filter.multicast if mac[0] & 1 else rx_filter.unicast
    if mac == ALL_ONES:
        accept = rx_filter.broadcast
    by_mac = accept is ALL or (accept is LISTED and mac in rx_filter.macs)
    return by_mac and (vlan is None or rx_filter.vlans is None or vlan in rx_filter.vlans)


def test_filter_agrees_with_a_plain_model_of_it(bench: Bench) -> None:
    rng = random.Random(1)
    echo = Echo(bench)
    macs = [bytes([first, 0, 0, 0, 0, last]) for first in (0, 1, 2, 3) for last in range(4)] + [ALL_ONES]
    for _ in range(50):
        unicast, multicast = (rng.choice(list(Accept)) for _ in range(2))
        vlans = None if rng.random() < 0.3 else frozenset(rng.sample(range(8), 3))
        listed = frozenset(rng.sample(macs[:-1], 5))
        rx_filter = RxFilter(unicast, multicast, rng.choice([NONE, ALL]), listed, vlans)
        echo.guest.device.set_filter(rx_filter)

        sent = [(rng.choice(macs), rng.choice([None, *range(8)])) for _ in range(20)]
        frames = [to(mac, b"" if vlan is None else tagged(vlan)) for mac, vlan in sent]
        wanted = [passes(rx_filter, mac, vlan) for mac, vlan in sent]
        assert echo.hears(*frames) == [f for f, good in zip(frames, wanted, strict=True) if good]


# Other ways to the guest


class Wired:
    """A guest behind a socket, which stands in for a tap."""

    def __init__(self, bench: Bench, rx_filter: RxFilter) -> None:
        self.bench = bench
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ours.setblocking(False)
        self.guest = bench.guest(MODERN | V.MRG_RXBUF)
        self.guest.device.set_filter(rx_filter)
        self.rx, _ = self.guest.pair(PortKind.FD, fd=self.ours.fileno())
        self.rx.start()

    def close(self) -> None:
        self.guest.close()
        self.ours.close()
        self.theirs.close()


@pytest.mark.parametrize("buffers", [[2048], [12, 2036], [12, 4, 5, 9, 2018], [24] * 8])
@pytest.mark.parametrize("length", [14, 16, 18, 60, 150])
def test_frame_of_a_port_passes_the_filter_wherever_its_bytes_lie(
    bench: Bench, buffers: list[int], length: int
) -> None:
    wired = Wired(bench, RxFilter(LISTED, ALL, ALL, frozenset({OWN}), frozenset({5})))
    for _ in range(16):
        wired.rx.add_writable(buffers)
    wired.rx.publish()
    tag = tagged(5) if length >= 18 else b""
    frames = [to(mac, tag, length)[:length] for mac in (OWN, OTHER, ALL_ONES, OTHER, OWN)]
    frames.append(to(OWN, tagged(6), max(length, 18)))
    for content in frames:
        wired.theirs.send(HEADER + content)
    bench.settle()

    assert [content for _, content in wired.rx.receive()] == [frames[0], frames[2], frames[4]]
    assert wired.rx.counters.drops == {"filtered": 3}
    wired.close()


def test_frame_in_buffers_for_headers_alone_is_looked_at_in_the_tail(bench: Bench) -> None:
    # The first chain holds the header and no byte of the frame: all of it is read into our own memory.
    wired = Wired(bench, RxFilter(LISTED, ALL, ALL, frozenset({OWN})))
    wired.rx.add_writable([12])
    wired.rx.publish()
    wired.theirs.send(HEADER + to(OTHER))
    wired.theirs.send(HEADER + to(OWN))
    bench.settle()

    assert wired.rx.counters.drops == {"filtered": 1, "no_buffers": 1}
    wired.close()


def test_source_whose_frames_are_not_wanted_stops_and_goes_on_with_the_next_filter(bench: Bench) -> None:
    guest = bench.guest()
    rx, _ = guest.pair(PortKind.SOURCE)
    guest.device.set_filter(RxFilter(ALL, ALL, NONE))
    rx.start()
    for _ in range(8):
        rx.add_writable([128])
    rx.publish()
    assert bench.settle() < 10
    assert rx.counters.packets == 0
    assert rx.counters.drops["filtered"] > 0

    guest.device.set_filter(None)
    bench.settle()
    assert rx.counters.packets == 8


def test_filter_of_one_guest_is_not_the_next_ones(bench: Bench) -> None:
    first, second = Echo(bench), Echo(bench)
    first.guest.device.set_filter(RxFilter(NONE, NONE, NONE))

    assert first.hears(to(OWN)) == []
    assert second.hears(to(OWN)) == [to(OWN)]


def test_filter_is_copied(bench: Bench) -> None:
    echo = Echo(bench)
    rx_filter = RxFilter(LISTED, NONE, NONE, frozenset({OWN}))
    echo.guest.device.set_filter(rx_filter)
    built = rx_filter.build()
    ffi.buffer(built)[:] = os.urandom(len(ffi.buffer(built)))

    assert echo.hears(to(OWN), to(OTHER)) == [to(OWN)]
    assert echo.rx.counters.drops == {"filtered": 1}
