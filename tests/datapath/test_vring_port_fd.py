"""A port that is an fd: one frame a read or write behind a 12-byte header, and what if it says no."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.datapath.rig import MODERN, Bench, V, frame
from tests.datapath.test_vring import even
from tests.datapath.wires import Wire, started
from tests.ports import taps
from vhostuser.datapath._datapath import lib
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.vring import RingEnabled
from vhostuser.datapath.worker import EventKind
from vhostuser.frontend.net_header import PLAIN, GsoType, HeaderFlag, NetHeader
from vhostuser.ports import tun
from vhostuser.wire.features import VirtioFeature

OFFLOADS = MODERN | V.CSUM | V.HOST_TSO4 | V.GUEST_CSUM | V.GUEST_TSO4
SIZED = NetHeader(num_buffers=1)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
@pytest.mark.parametrize("features", [MODERN, V(0), MODERN | V.MRG_RXBUF | V.EVENT_IDX])
def test_frames_both_ways(bench: Bench, features: VirtioFeature, kind: socket.SocketKind) -> None:
    wire = Wire(kind)
    try:
        rx, tx = started(bench, wire, features)
        for batch in (1, 5, 64, 100):
            frames = [frame(number, 14 + 7 * number) for number in range(batch)]
            for content in frames:
                rx.add_writable([2048])
                tx.send(content)
            rx.publish()
            tx.publish()
            bench.settle()
            # The socket holds fewer frames than a tap: what it refused is sent when there is room.
            out = wire.get()
            while len(out) < batch:
                bench.settle()
                out += wire.get()
            assert out == [(PLAIN, content) for content in frames]
            received = []
            for content in frames:
                wire.put(content)
                bench.settle()
                received += rx.receive()
            assert received == [
                (SIZED if rx.guest.header_size == 12 else PLAIN, content) for content in frames
            ]
            assert len(tx.take()) == batch
        assert rx.counters.packets == tx.counters.packets == 170
        assert rx.counters.drops == tx.counters.drops == {}
        rx.pair.set_port(None)
    finally:
        wire.close()


@pytest.mark.parametrize("count", [1, 2, 3, 12, 63, 64, 65, 66, 200])
def test_many_pieces_are_one_frame(bench: Bench, wire: Wire, count: int) -> None:
    """More than 64 of a long frame are copied together first; the header's own pieces do not count."""
    _, tx = started(bench, wire)
    content = frame(7, 3000)

    tx.send(content, pieces=[12, *even(3000, count)])
    tx.publish()
    bench.settle()

    assert wire.get() == [(PLAIN, content)]
    assert tx.counters.linearised == (1 if count > 64 else 0)
    assert tx.counters.packets == 1


@pytest.mark.parametrize("length", [60, 2047, 2048, 2049])
@pytest.mark.parametrize("count", [1, 3, 25])
@pytest.mark.parametrize("frames", [1, 9])
def test_frame_that_is_copied_and_frame_that_is_not(
    bench: Bench, wire: Wire, length: int, count: int, frames: int
) -> None:
    _, tx = started(bench, wire)
    contents = [frame(number, length) for number in range(frames)]
    for content in contents:
        tx.send(content, pieces=[12, *even(length, min(count, length // 2))])
    tx.publish()
    bench.settle()

    assert wire.get() == [(PLAIN, content) for content in contents]
    assert tx.counters.packets == frames


def test_header_goes_out_clean_and_with_its_offload(bench: Bench, wire: Wire) -> None:
    _, tx = started(bench, wire, OFFLOADS)
    sent = NetHeader(HeaderFlag.NEEDS_CSUM | 0x72, GsoType.TCPV4, 54, 1448, 34, 16, num_buffers=99)

    tx.send(frame(1, 4000), header=sent)
    tx.publish()
    bench.settle()

    assert wire.get() == [(NetHeader(HeaderFlag.NEEDS_CSUM, GsoType.TCPV4, 54, 1448, 34, 16), frame(1, 4000))]
    assert tx.counters.offloads == 1


@pytest.mark.parametrize(
    ("header", "features", "outcome"),
    [
        (NetHeader(HeaderFlag.NEEDS_CSUM, csum_start=34, csum_offset=16), OFFLOADS, "delivered"),
        (NetHeader(HeaderFlag.DATA_VALID), OFFLOADS, "delivered"),
        (NetHeader(HeaderFlag.DATA_VALID), MODERN, "cleared"),
        (NetHeader(1, GsoType.TCPV4, 54, 1448, 34, 16), OFFLOADS, "delivered"),
        (NetHeader(1, GsoType.TCPV4, 54, 1448, 34, 16), MODERN | V.GUEST_CSUM, "receiver_offload"),
        (NetHeader(1, GsoType.TCPV4 | GsoType.ECN, 54, 1448, 34, 16), OFFLOADS, "receiver_offload"),
        (NetHeader(1, GsoType.TCPV4 | GsoType.ECN, 54, 1448, 34, 16), OFFLOADS | V.GUEST_ECN, "delivered"),
        (NetHeader(1, GsoType.TCPV6, 54, 1448, 34, 16), OFFLOADS, "receiver_offload"),
        (NetHeader(1, GsoType.TCPV6, 54, 1448, 34, 16), OFFLOADS | V.GUEST_TSO6, "delivered"),
        (NetHeader(1, GsoType.UDP, 54, 1448, 34, 6), OFFLOADS, "receiver_offload"),
        (NetHeader(1, GsoType.UDP, 54, 1448, 34, 6), OFFLOADS | V.GUEST_UFO, "delivered"),
        (NetHeader(1, GsoType.UDP_L4, 54, 1448, 34, 6), OFFLOADS | V.GUEST_USO4, "receiver_offload"),
        (NetHeader(1, GsoType.UDP_L4, 54, 1448, 34, 6), OFFLOADS | V.GUEST_USO4 | V.GUEST_USO6, "delivered"),
        (NetHeader(1, 2, 54, 1448, 34, 6), OFFLOADS, "gso_type"),
    ],
)
def test_guest_gets_only_the_offloads_that_it_acknowledged(
    bench: Bench, wire: Wire, header: NetHeader, features: VirtioFeature, outcome: str
) -> None:
    """Not even the frame that was queued in the tap under the offloads of an earlier guest, unless what is
    left to do can be done here (test_vring_port_finish.py)."""
    rx, _ = started(bench, wire, features)
    rx.add_writable([4096])
    rx.publish()

    wire.put(frame(1, 2000), header)
    wire.put(frame(2, 2000))
    bench.settle()
    if outcome not in ("delivered", "cleared"):
        assert rx.counters.drops == {outcome: 1}
        assert rx.receive() == [(SIZED, frame(2, 2000))]
        return

    [(received, content)] = rx.receive()
    flags = header.flags if outcome == "delivered" else 0
    assert (received.flags, received.gso_type, received.gso_size) == (flags, header.gso_type, header.gso_size)
    assert (received.csum_start, received.csum_offset) == (header.csum_start, header.csum_offset)
    assert content == frame(1, 2000)


@pytest.mark.parametrize("buffer", [12, 13, 40, 128, 1000, 1526])
def test_large_frame_is_spread_over_merged_buffers(bench: Bench, wire: Wire, buffer: int) -> None:
    rx, _ = started(bench, wire, MODERN | V.MRG_RXBUF, 512)
    for _ in range(512):
        rx.add_writable([buffer])
    rx.publish()

    wire.put(frame(3, 5000))
    wire.put(frame(4, 60))
    bench.settle()

    (first, large), (second, small) = rx.receive()
    assert large == frame(3, 5000)
    assert small == frame(4, 60)
    assert first.num_buffers == -(-5012 // buffer)
    assert second.num_buffers == -(-72 // buffer)
    assert rx.counters.chains == first.num_buffers + second.num_buffers
    assert rx.used_index == rx.counters.chains


def test_frame_of_64_kib_in_both_directions(bench: Bench, wire: Wire) -> None:
    rx, tx = started(bench, wire, MODERN | V.MRG_RXBUF)
    for _ in range(60):
        rx.add_writable([1526])
    rx.publish()
    largest = frame(9, 65535 + 18)

    wire.put(largest)
    bench.settle()
    tx.send(largest)
    tx.publish()
    bench.settle()

    [(header, content)] = rx.receive()
    assert content == largest
    assert header.num_buffers == -(-(65535 + 18 + 12) // 1526)
    assert wire.get() == [(PLAIN, largest)]


def test_port_that_blocks_gets_the_chain_when_it_can(bench: Bench, wire: Wire) -> None:
    """What the port does not take is not fetched: used->idx says exactly what went out."""
    _, tx = started(bench, wire, size=1024)
    for number in range(1024):
        tx.send(frame(number))
    tx.publish()

    bench.settle()
    went = tx.used_index
    assert 0 < went < 1024
    assert tx.counters.packets == went
    tx.kick()
    bench.settle()
    assert tx.used_index == went, "a kick is no room"

    out: list[tuple[NetHeader, bytes]] = []
    while len(out) < 1024:
        new = wire.get()
        assert new
        out += new
        bench.settle()
    assert out == [(PLAIN, frame(number)) for number in range(1024)]
    assert len(tx.take()) == tx.counters.packets == 1024
    assert tx.counters.drops == {}


def test_position_of_a_ring_whose_port_blocks(bench: Bench, wire: Wire) -> None:
    """GET_VRING_BASE never waits for a port; what was not sent is sent after the next start."""
    _, tx = started(bench, wire, size=1024)
    for number in range(1024):
        tx.send(frame(number))
    tx.publish()
    bench.settle()

    base = tx.stop()

    assert base == tx.used_index < 1024
    out = wire.get()
    tx.start(base=base)
    while len(out) < 1024:
        bench.settle()
        out += wire.get()
    assert out == [(PLAIN, frame(number)) for number in range(1024)]


def test_blocked_ring_that_is_disabled_is_emptied(bench: Bench, wire: Wire) -> None:
    _, tx = started(bench, wire, size=1024)
    for number in range(1024):
        tx.send(frame(number))
    tx.publish()
    bench.settle()
    went = tx.used_index

    tx.pair.set_enabled(tx.which, RingEnabled.DISABLED)
    bench.settle()

    assert tx.used_index == 1024
    assert tx.counters.drops == {"ring_disabled": 1024 - went}
    assert len(wire.get()) == went


def test_without_buffers_the_port_waits_and_wakes_nobody(bench: Bench, wire: Wire) -> None:
    """No buffers for long is no busy loop: the port is not even watched until the guest kicks."""
    rx, _ = started(bench, wire)
    rx.add_writable([2048])
    rx.publish()
    bench.settle()
    for number in range(3):
        wire.put(frame(number))
    bench.settle()
    assert [content for _, content in rx.receive()] == [frame(0)]
    assert not bench.wakes()

    wire.put(frame(3))
    assert not bench.wakes()
    assert bench.settle() == 1

    for _ in range(4):
        rx.add_writable([2048])
    assert rx.publish(), "a starved ring asks for the kick"
    bench.settle()

    assert [content for _, content in rx.receive()] == [frame(1), frame(2), frame(3)]
    assert rx.counters.drops == {}


@pytest.mark.parametrize("event_idx", [V.EVENT_IDX, V(0)], ids=["events", "flags"])
def test_starved_ring_and_a_new_kick_fd(bench: Bench, wire: Wire, event_idx: VirtioFeature) -> None:
    """The kick that ends the starvation goes to the old fd just before the swap: it is not lost."""
    rx, _ = started(bench, wire, MODERN | event_idx)
    wire.put(frame(1))
    bench.settle()
    rx.add_writable([2048])
    assert rx.publish()
    new = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        rx.pair.set_kick(rx.which, new, is_drained=False)
        bench.settle()
        assert [content for _, content in rx.receive()] == [frame(1)]
        rx.pair.set_kick(rx.which, rx.kick_fd, is_drained=False)
    finally:
        os.close(new)


def test_starvation_ends_with_a_new_start(bench: Bench, wire: Wire) -> None:
    rx, _ = started(bench, wire)
    wire.put(frame(1))
    bench.settle()
    base = rx.stop()
    rx.add_writable([2048])
    rx.publish()

    rx.start(base=base)
    bench.settle()

    assert [content for _, content in rx.receive()] == [frame(1)]


def test_frames_wait_in_the_port_while_the_ring_is_disabled(bench: Bench, wire: Wire) -> None:
    rx, _ = started(bench, wire)
    rx.add_writable([2048])
    rx.publish()
    rx.pair.set_enabled(rx.which, RingEnabled.DISABLED)
    bench.settle()
    wire.put(frame(1))
    assert not bench.wakes()
    bench.settle()
    assert rx.receive() == []

    rx.pair.set_enabled(rx.which, RingEnabled.ENABLED)
    bench.settle()

    assert [content for _, content in rx.receive()] == [frame(1)]


def test_pair_that_does_not_read_leaves_the_port_alone(bench: Bench, wire: Wire) -> None:
    rx, tx = bench.guest().pair(None)
    rx.pair.set_port(PortKind.FD, wire.fd, reads=False)
    rx.start()
    tx.start()
    rx.add_writable([2048])
    tx.send(frame(2))
    rx.publish()
    tx.publish()
    wire.put(frame(1))

    bench.settle()

    assert rx.receive() == []
    assert wire.get() == [(PLAIN, frame(2))]


def test_frame_shorter_than_its_header_does_not_hide_those_behind_it(bench: Bench, wire: Wire) -> None:
    rx, _ = started(bench, wire)
    rx.add_writable([2048])
    rx.publish()
    bench.settle()

    wire.put_raw(b"short")
    wire.put(frame(1))
    bench.settle()

    assert [content for _, content in rx.receive()] == [frame(1)]
    assert rx.counters.drops == {"runt": 1}


def test_network_side_that_is_closed(bench: Bench) -> None:
    """No more frames, each one sent is a drop, and nothing spins."""
    wire = Wire(socket.SOCK_SEQPACKET)
    rx, tx = started(bench, wire)
    rx.add_writable([2048])
    rx.publish()
    wire.close_network()
    tx.send(frame(1))
    tx.publish()

    assert bench.settle() < 10

    assert len(tx.take()) == 1
    assert tx.counters.drops == {"port_error": 1}
    assert rx.receive() == []
    rx.pair.set_port(None)
    wire.close()


def test_port_fd_that_cannot_be_watched(bench: Bench) -> None:
    with open("/dev/null", "r+b", buffering=0) as null, open("/proc/self/status", "rb") as file:
        rx, tx = bench.guest().pair(PortKind.FD, fd=file.fileno())
        rx.start()
        tx.start()
        bench.settle()
        [gone] = bench.reported(EventKind.PORT_GONE)
        assert (gone.device, gone.ring, gone.error) == (0, 0, -1)
        tx.send(frame(1))
        tx.publish()
        bench.settle()
        assert tx.counters.drops == {"port_down": 1}
        # A new port heals it.
        tx.pair.set_port(PortKind.FD, null.fileno(), reads=False)
        tx.send(frame(2))
        tx.publish()
        bench.settle()
        assert tx.counters.packets == 1
        tx.pair.set_port(None)


@pytest.fixture
def tap(bench: Bench) -> Iterator[int]:
    """The only tap of a network namespace. It is down."""
    with taps.network_namespace():
        fd = taps.make_tap("vhtest0")
        try:
            os.set_blocking(fd, False)
            tun.set_header_size(fd, 12)
            yield fd
            for ring in bench.rings:
                ring.pair.set_port(None)
        finally:
            os.close(fd)


def delete_interface(name: str) -> None:
    """What `ip link del` does: RTM_DELLINK, and no answer awaited but the error."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        request = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, socket.if_nametoindex(name), 0, 0)
        netlink.send(struct.pack("=IHHII", 16 + len(request), 17, 5, 1, 0) + request)
        [error] = struct.unpack_from("=i", netlink.recv(4096), 16)
        assert error == 0


def test_tap_that_is_down_drops_and_says_so(bench: Bench, tap: int) -> None:
    rx, tx = bench.guest().pair(PortKind.FD, fd=tap)
    rx.start()
    tx.start()
    rx.add_writable([2048])
    rx.publish()
    tx.send(frame(1))
    tx.publish()

    bench.settle()

    assert len(tx.take()) == 1
    assert tx.counters.drops == {"port_down": 1}
    assert bench.reported(EventKind.PORT_GONE) == []


def test_tap_that_is_deleted_is_reported_once(bench: Bench, tap: int) -> None:
    rx, tx = bench.guest().pair(PortKind.FD, fd=tap)
    rx.start()
    tx.start()
    rx.add_writable([2048])
    rx.publish()
    bench.settle()
    delete_interface("vhtest0")
    for number in range(3):
        tx.send(frame(number))
    tx.publish()

    bench.settle()

    assert len(tx.take()) == 3
    assert tx.counters.drops == {"port_down": 3}
    [gone] = bench.reported(EventKind.PORT_GONE)
    assert (gone.device, gone.ring, gone.error) == (0, 0, -errno.EBADFD)


def test_receive_ring_of_a_tap_that_is_deleted(bench: Bench, tap: int) -> None:
    rx, _ = bench.guest().pair(PortKind.FD, fd=tap)
    rx.start()
    rx.add_writable([2048])
    rx.publish()
    bench.settle()
    delete_interface("vhtest0")

    bench.settle()

    assert len(bench.reported(EventKind.PORT_GONE)) == 1
    assert bench.settle() == 1


def test_header_of_a_size_that_there_is_not(bench: Bench, wire: Wire) -> None:
    rx, _ = started(bench, wire)
    for size in (0, 11, 20, 268):
        with pytest.raises(ValueError, match=f"no virtio-net header has {size} bytes"):
            rx.pair.set_port(PortKind.FD, wire.fd, header_size=size)
        assert lib.vu_pair_set_port(rx.pair.handle, 1, wire.fd, 1, size) < 0
