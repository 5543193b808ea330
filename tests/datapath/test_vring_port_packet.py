"""Rings on packet sockets of the kernel: tags, offloads, and what such a socket says when it cannot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.datapath.packets import KINDS, TAKES, TCPV4, Packet, content, sum16
from tests.datapath.rig import MODERN, Bench, V, frame
from tests.ports import taps, veths
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.worker import EventKind
from vhostuser.frontend.net_header import PLAIN, NetHeader
from vhostuser.ports.packet import PacketPort
from vhostuser.wire.features import VirtioFeature

MERGES = MODERN | V.MRG_RXBUF
SENDS = V.CSUM | V.HOST_TSO4 | V.HOST_TSO6 | V.HOST_USO


@pytest.fixture
def far() -> Iterator[veths.Far]:
    with taps.network_namespace():
        veths.make()
        with veths.Far() as far:
            yield far


class Guest:
    """One on a packet port, with buffers; `legacy` has the shorter header that older kernels have."""

    def __init__(
        self, bench: Bench, features: VirtioFeature, legacy: bool = False, buffers: int = 200
    ) -> None:
        self.bench = bench
        self.port = PacketPort("vm1")
        ops = self.port.open(1)
        header = ops.header_size
        if legacy:
            header = 10
            self.port._sockets[0].setsockopt(veths.SOL_PACKET, 15, 1)
        self.rx, self.tx = bench.guest(features).pair(ops.kind, 256, fd=ops.fds[0], header_size=header)
        self.rx.start()
        self.tx.start()
        self.buffers = buffers
        self.give()
        self.port.start(features)

    def give(self) -> None:
        for _ in range(self.buffers - self.rx.queue.outstanding):
            self.rx.add_writable([4096])
        self.rx.publish()
        self.bench.settle()

    def hears(self) -> list[tuple[NetHeader, bytes]]:
        self.bench.settle()
        got = self.rx.receive(exact=False)
        self.give()
        return got

    def says(self, *frames: bytes, header: NetHeader = PLAIN) -> None:
        for content_ in frames:
            self.tx.send(content_, header=header)
        self.tx.publish()
        self.bench.settle()
        self.tx.take()

    def close(self) -> None:
        for ring in (self.rx, self.tx):
            ring.pair.set_port(None)
        self.port.close()


@pytest.fixture(params=[False, True], ids=["modern", "legacy"])
def guest(request: pytest.FixtureRequest, bench: Bench, far: veths.Far) -> Iterator[Guest]:
    """It takes nothing and merges."""
    guest = Guest(bench, MERGES | SENDS, request.param)
    yield guest
    guest.close()


def plain(got: list[tuple[NetHeader, bytes]]) -> list[bytes]:
    assert all((header.flags, header.gso_type) == (0, 0) for header, _ in got)
    return [content_ for _, content_ in got]


TAGS = [b"\x81\0\0\1", b"\x81\0\xff\xff", b"\x88\xa8\x20\5"]


def tagged(number: int, tag: bytes, length: int = 60) -> bytes:
    content_ = frame(number, length)
    return content_[:12] + tag + content_[12:]


# To the guest


@pytest.mark.parametrize("longer", [0, 1000])
@pytest.mark.parametrize("count", [1, 40])
def test_frames_come_as_they_were_sent(guest: Guest, far: veths.Far, count: int, longer: int) -> None:
    wanted = [frame(number, 60 + longer + number) for number in range(count)]
    for content_ in wanted:
        far.put(content_)
    assert plain(guest.hears()) == wanted


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("length", [60, 1400, 1510])
def test_tag_is_where_it_was(guest: Guest, far: veths.Far, tag: bytes, length: int) -> None:
    """The kernel takes it out of every frame that comes in; among others, and alone."""
    wanted = [tagged(1, tag, length), *(frame(number, length) for number in range(10))]
    wanted[5:5] = [tagged(2, tag, length)]
    wanted += [tagged(number, tag, length) for number in range(20)]
    for content_ in wanted:
        far.put(content_)
        if content_ is wanted[0]:
            assert plain(guest.hears()) == wanted[:1]
    assert plain(guest.hears()) == wanted[1:]
    assert guest.rx.counters.drops == {}


def test_tags_in_large_frames_that_are_read_where_they_belong(bench: Bench, far: veths.Far) -> None:
    for end in ("vm1", "far"):
        veths.ip("link", "set", end, "mtu", "9000")
    guest = Guest(bench, MODERN)
    for _ in range(3):
        wanted = [frame(number, 2500 + number) for number in range(30)]
        wanted[7] = tagged(7, TAGS[0], 2500)
        wanted[20] = tagged(20, TAGS[1], 3000)
        for content_ in wanted:
            far.put(content_)
        guest.bench.settle()
        got = guest.rx.take()
        read = guest.rx.guest.memory.read
        assert [read(used.token.segments[0].gpa, used.length)[12:] for used in got] == wanted
        guest.give()
    assert guest.rx.counters.drops == {}
    guest.close()


def test_tag_and_open_checksum_of_one_frame(guest: Guest, far: veths.Far) -> None:
    packet = Packet(4, True, content(500), tags=1)
    sent = packet.build()
    far.put(sent, packet.header())
    [got] = plain(guest.hears())
    assert got[: packet.transport] == sent[: packet.transport]
    assert sum16(packet.pseudo(len(got) - packet.transport) + got[packet.transport :]) == 0xFFFF


def test_checksum_behind_a_tag_is_told_of_as_it_lies(bench: Bench, far: veths.Far) -> None:
    guest = Guest(bench, MERGES | TAKES)
    packet = Packet(4, True, content(8000), tags=1)
    far.put(packet.build(), packet.header(1448, TCPV4, packet.headers))
    [(header, got)] = guest.hears()
    assert got == packet.build()
    assert (header.flags, header.gso_type, header.gso_size) == (1, TCPV4, 1448)
    assert (header.csum_start, header.csum_offset, header.hdr_len) == (packet.transport, 16, packet.headers)
    guest.close()


@pytest.mark.parametrize("tags", [0, 1])
@pytest.mark.parametrize(("version", "tcp", "gso_type"), KINDS)
def test_segments_of_the_kernel_are_cut_up(
    guest: Guest, far: veths.Far, version: int, tcp: bool, gso_type: int, tags: int
) -> None:
    packet = Packet(version, tcp, content(20_000), tags=tags)
    count = -(-20_000 // 1200)
    far.put(frame(1))
    far.put(packet.build(), packet.header(1200, gso_type, packet.headers))
    far.put(frame(2))
    first, *segments, last = plain(guest.hears())
    assert (first, last) == (frame(1), frame(2))
    parts = [packet.check(got, n, 1200, n == count - 1) for n, got in enumerate(segments)]
    assert b"".join(parts) == packet.payload


def test_guest_that_takes_segments_has_them_whole(bench: Bench, far: veths.Far) -> None:
    guest = Guest(bench, MERGES | TAKES)
    packet = Packet(4, True, content(60_000))
    far.put(packet.build(), packet.header(1448, TCPV4, packet.headers))
    [(header, got)] = guest.hears()
    assert got == packet.build()
    assert (header.gso_type, header.gso_size) == (TCPV4, 1448)
    guest.close()


# From the guest


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("length", [14, 60, 1514])
def test_frames_go_out_as_they_were_sent(guest: Guest, far: veths.Far, count: int, length: int) -> None:
    wanted = [frame(number, length) for number in range(count)]
    guest.says(*wanted)
    assert [far.get() for _ in range(count)] == [(PLAIN, content_) for content_ in wanted]
    assert guest.tx.counters.packets == count


@pytest.mark.parametrize("tag", TAGS)
def test_tagged_frames_go_out(guest: Guest, far: veths.Far, tag: bytes) -> None:
    guest.says(tagged(1, tag, 1000))
    assert far.get()[1] == tagged(1, tag, 1000)


@pytest.mark.parametrize(("version", "tcp", "gso_type"), KINDS)
def test_segments_go_out_whole(guest: Guest, far: veths.Far, version: int, tcp: bool, gso_type: int) -> None:
    packet = Packet(version, tcp, content(40_000))
    guest.says(packet.build(), header=packet.header(1448, gso_type, packet.headers))
    header, got = far.get()
    assert got == packet.build()
    assert (header.gso_type, header.gso_size) == (gso_type, 1448)


@pytest.mark.parametrize("at", [0, 5])
def test_frame_above_the_mtu_is_dropped_alone(guest: Guest, far: veths.Far, at: int) -> None:
    frames = [frame(number) for number in range(10)]
    guest.says(*frames[:at], frame(99, 1519), *frames[at:])
    assert [far.get()[1] for _ in frames] == frames
    assert guest.tx.counters.drops == {"oversize": 1}


def test_segments_that_are_none_are_refused_alone(guest: Guest, far: veths.Far) -> None:
    packet = Packet(6, True, content(4000))
    guest.says(frame(1), packet.build(), frame(2), header=PLAIN)
    guest.says(packet.build(), header=packet.header(1448, TCPV4))  # the kernel cannot cut it up: ENOMEM
    guest.says(frame(3))
    got = [far.get()[1] for _ in range(3)]
    assert got == [frame(1), frame(2), frame(3)]
    assert guest.tx.counters.drops == {"oversize": 1, "port_error": 1}


# An interface that goes down, and away


def test_interface_down_and_up_again(guest: Guest, far: veths.Far) -> None:
    for number in range(3):
        far.put(frame(1))
        veths.ip("link", "set", "vm1", "down")
        guest.says(*(frame(number) for number in range(6)))
        assert guest.tx.counters.drops == {"port_down": 6 * (number + 1)}
        assert plain(guest.hears()) == [frame(1)]
        veths.ip("link", "set", "vm1", "up")
        far.put(frame(2))
        assert plain(guest.hears()) == [frame(2)]
        guest.says(frame(3))
        assert far.get()[1] == frame(3)
    assert guest.bench.reported(EventKind.PORT_GONE) == []
    assert len(guest.bench.reported(EventKind.PORT_DOWN)) == 3


@pytest.mark.parametrize("writes", [False, True])
def test_interface_that_is_gone_is_reported_once(guest: Guest, writes: bool) -> None:
    veths.ip("link", "del", "vm1")
    if writes:
        guest.says(*(frame(number) for number in range(6)))
        assert guest.tx.counters.drops == {"port_down": 6}
    guest.hears()
    guest.says(frame(1))
    assert guest.tx.counters.drops == {"port_down": 7 if writes else 1}
    assert len(guest.bench.reported(EventKind.PORT_GONE)) == 1


def test_interface_that_is_down_before_it_goes(guest: Guest) -> None:
    """As whoever turns sees a deletion: the socket is not told of the second step."""
    veths.ip("link", "set", "vm1", "down")
    guest.hears()
    veths.ip("link", "del", "vm1")
    guest.hears()
    assert len(guest.bench.reported(EventKind.PORT_DOWN)) == 1
    guest.says(frame(1))
    assert len(guest.bench.reported(EventKind.PORT_GONE)) == 1


def test_what_waits_behind_the_news_is_read(guest: Guest, far: veths.Far) -> None:
    """A socket says that its interface is down before it gives what came until then."""
    guest.rx.pair.set_port(None)
    for number in range(20):
        far.put(frame(number))
    veths.ip("link", "set", "vm1", "down")
    veths.ip("link", "set", "vm1", "up")
    sock = guest.port._sockets[0]
    header = sock.getsockopt(veths.SOL_PACKET, 24)
    guest.rx.pair.set_port(PortKind.PACKET, sock.fileno(), header_size=header)
    assert plain(guest.hears()) == [frame(number) for number in range(20)]


def test_large_frame_behind_the_news_is_not_spread_over_buffers(bench: Bench, far: veths.Far) -> None:
    """Of a guest that does not merge: it would take the frame's bytes for headers, and for frames."""
    for end in ("vm1", "far"):
        veths.ip("link", "set", end, "mtu", "9000")
    guest = Guest(bench, MODERN, buffers=0)
    for _ in range(200):
        guest.rx.add_writable([1530])
    for _ in range(2):
        sent = [*(frame(number) for number in range(10)), *[frame(90, 6000)] * 8, frame(20), frame(21)]
        for content_ in sent:
            far.put(content_)
        guest.rx.publish()
        bench.settle()
        assert [used.length - 12 for used in guest.rx.take()] == [60] * 12
        veths.ip("link", "set", "vm1", "down")
        veths.ip("link", "set", "vm1", "up")
    guest.close()
