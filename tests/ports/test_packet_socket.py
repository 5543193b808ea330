"""The options of packet sockets: that the numbers mean what the kernel takes them for."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.ports import taps, veths
from vhostuser.ports import classic_bpf, packet_socket

pytestmark = pytest.mark.usefixtures("namespace")


@pytest.fixture
def sock(far: veths.Far) -> Iterator[socket.socket]:
    with packet_socket.make() as sock:
        yield sock


def test_one_that_is_bound_to_nothing_hears_nothing(sock: socket.socket, far: veths.Far) -> None:
    far.put(taps.FRAME)
    with pytest.raises(BlockingIOError):
        sock.recv(2048)
    packet_socket.bind(sock, "vm1")
    far.put(taps.FRAME)
    assert sock.recv(2048) == taps.FRAME


def test_header_is_as_long_as_it_says(sock: socket.socket, far: veths.Far) -> None:
    size = packet_socket.set_header(sock)
    packet_socket.bind(sock, "vm1")
    far.put(taps.FRAME)
    assert sock.recv(2048) == bytes(size) + taps.FRAME
    sock.send(bytes(size) + taps.FRAME)
    assert far.get()[1] == taps.FRAME


def test_kernel_without_the_longer_header(sock: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_socket, "_VNET_HDR_SZ", 250)
    assert packet_socket.set_header(sock) == 10


def test_buffers_with_privilege_and_without(sock: socket.socket) -> None:
    def sizes() -> list[int]:
        return [sock.getsockopt(socket.SOL_SOCKET, way) for way in (socket.SO_RCVBUF, socket.SO_SNDBUF)]

    packet_socket.set_buffers(sock, 8 << 20)
    assert sizes() == [16 << 20] * 2  # the kernel counts its own need, too
    with taps.as_nobody():
        packet_socket.set_buffers(sock, 1 << 16)
        assert sizes() == [1 << 17] * 2


def test_statistics_are_of_the_time_since_they_were_taken(sock: socket.socket, far: veths.Far) -> None:
    packet_socket.bind(sock, "vm1")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for _ in range(50):
        far.put(taps.FRAME)
    frames, lost = packet_socket.take_statistics(sock)
    assert frames == 50
    assert 0 < lost < 50
    assert packet_socket.take_statistics(sock) == (0, 0)


def test_draining_ends_and_goes_past_what_the_kernel_says(sock: socket.socket, far: veths.Far) -> None:
    packet_socket.bind(sock, "vm1")
    for _ in range(5):
        far.put(taps.FRAME)
    packet_socket.set_filter(sock, classic_bpf.nothing())
    veths.ip("link", "set", "vm1", "down")
    packet_socket.drain(sock)
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    sock.close()
    packet_socket.drain(sock)


def test_program_that_is_none(sock: socket.socket) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        packet_socket.set_filter(sock, classic_bpf.incoming()[:8])


def test_groups_are_apart(far: veths.Far) -> None:
    socks = [packet_socket.make() for _ in range(4)]
    for sock in socks:
        packet_socket.bind(sock, "vm1")
    group = packet_socket.join(socks[0], None)
    assert packet_socket.join(socks[1], group) == group
    other = packet_socket.join(socks[2], None)
    assert other != group
    packet_socket.join(socks[3], other)
    packet_socket.steer(socks[0], classic_bpf.steering([1]))
    packet_socket.steer(socks[3], classic_bpf.steering([0]))
    far.put(taps.FRAME)
    for sock, hears in zip(socks, (False, True, True, False), strict=True):
        if hears:
            assert sock.recv(2048) == taps.FRAME
        else:
            with pytest.raises(BlockingIOError):
                sock.recv(2048)
        sock.close()
