"""What one connection may do wrong, and that it costs nobody else anything. One device beside it goes on."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from tests.conftest import open_fds
from tests.plain_frontend import close_all
from tests.server.conftest import blocking, serving, until
from vhostuser.config import DeviceConfig
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.server import backend
from vhostuser.server.transport import Transport
from vhostuser.session.session import Session
from vhostuser.wire.constants import Request
from vhostuser.wire.messages import U64, Message, Reply

FRAME = b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x88\xb5" + bytes(46)


def header(request: int, size: int, flags: int = 0x9) -> bytes:
    return struct.pack("=III", request, flags, size)


def u64(request: int, value: int) -> bytes:
    return header(request, 8) + struct.pack("=Q", value)


def read_reply(sock: socket.socket) -> tuple[int, bytes]:
    head = sock.recv(12, socket.MSG_WAITALL)
    request, flags, size = struct.unpack("=III", head)
    assert flags == 5
    return request, sock.recv(size, socket.MSG_WAITALL)


def negotiate(sock: socket.socket) -> None:
    """REPLY_ACK on, so that every refusal is an answer."""
    sock.sendall(header(Request.GET_FEATURES, 0))
    read_reply(sock)
    sock.sendall(u64(Request.SET_PROTOCOL_FEATURES, 1 << 3))
    # REPLY_ACK holds from the next message on, or from this one: both are seen.
    sock.sendall(header(Request.GET_PROTOCOL_FEATURES, 0))
    if read_reply(sock)[0] == Request.SET_PROTOCOL_FEATURES:
        read_reply(sock)


async def attack(folder: Path, play: Callable[[socket.socket], None], fds_at_end: bool = True) -> None:
    """Runs ``play`` on a raw connection; afterwards the device serves again, its neighbour never stopped."""
    paths = [folder / "a.sock", folder / "b.sock"]

    def raw() -> None:
        with VirtioNetDriver.connect(paths[1]) as neighbour, socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(paths[0]))
            play(sock)
            neighbour.send(FRAME)
            assert neighbour.recv().frame == FRAME

    def again() -> None:
        with VirtioNetDriver.connect(paths[0]) as driver:
            driver.send(FRAME)
            assert driver.recv().frame == FRAME

    configs = [DeviceConfig(name=path.stem, socket_path=str(path), port="echo") for path in paths]
    async with serving(*configs):
        before = open_fds().keys()
        await blocking(raw)
        await blocking(again)
        if fds_at_end:
            await until(lambda: not open_fds().keys() - before)


def assert_closed(sock: socket.socket) -> None:
    # Reset, when the back-end left something unread.
    with contextlib.suppress(ConnectionResetError):
        assert sock.recv(1) == b""


@pytest.mark.parametrize("length", range(1, 12))
async def test_header_that_breaks_off_is_a_peer_that_died(folder: Path, length: int) -> None:
    await attack(folder, lambda sock: sock.sendall(header(1, 0)[:length]))


async def test_payload_that_breaks_off_is_a_peer_that_died(folder: Path) -> None:
    await attack(folder, lambda sock: sock.sendall(header(Request.SET_FEATURES, 8)))


async def test_payload_in_single_bytes_is_served(folder: Path) -> None:
    def play(sock: socket.socket) -> None:
        negotiate(sock)
        for byte in u64(Request.SET_FEATURES, 1 << 32 | 1 << 30):
            sock.sendall(bytes([byte]))
        assert read_reply(sock) == (Request.SET_FEATURES, bytes(8))

    await attack(folder, play)


@pytest.mark.parametrize(
    "content",
    [
        header(1, 0xFFFFFFFF),
        header(1, 4097),
        header(1, 0, flags=0x0),
        header(1, 0, flags=0x2),
        header(1, 0, flags=0x3),
        header(1, 0, flags=0x5),
    ],
    ids=["size 4 GiB", "size 4097", "version 0", "version 2", "version 3", "reply"],
)
async def test_stream_that_cannot_be_followed_ends(folder: Path, content: bytes) -> None:
    def play(sock: socket.socket) -> None:
        sock.sendall(content)
        assert_closed(sock)

    await attack(folder, play)


@pytest.mark.parametrize("size", [0, 7, 9, 4096])
async def test_any_request_of_any_size_is_answered_refused_or_ends_the_connection(
    folder: Path, size: int
) -> None:
    def play(first: socket.socket) -> None:
        path = first.getpeername()
        first.close()
        for request in (0, 46, 0x7FFFFFFF, *Request):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(10)
                sock.connect(path)
                negotiate(sock)
                try:
                    sock.sendall(header(request, size) + bytes(size))
                    head = sock.recv(12)
                except (BrokenPipeError, ConnectionResetError):
                    continue
                assert head == b"" or struct.unpack("=III", head)[:2] == (request, 5)

    await attack(folder, play)


async def test_two_messages_in_one_send_are_two_answers(folder: Path) -> None:
    def play(sock: socket.socket) -> None:
        sock.sendall(header(Request.GET_FEATURES, 0) + header(Request.GET_PROTOCOL_FEATURES, 0))
        assert read_reply(sock)[0] == Request.GET_FEATURES
        assert read_reply(sock)[0] == Request.GET_PROTOCOL_FEATURES

    await attack(folder, play)


async def test_front_end_that_reads_no_replies_stops_only_itself(folder: Path) -> None:
    def play(sock: socket.socket) -> None:
        sock.setblocking(False)
        sent = 0
        try:
            while sent < 64 << 20:
                sent += sock.send(header(Request.GET_FEATURES, 0) * 100)
        except BlockingIOError:
            pass
        sock.settimeout(10)
        assert sent < 64 << 20

    await attack(folder, play)


async def test_replies_that_waited_come_whole_and_in_order(folder: Path) -> None:
    count = 3000

    def play(sock: socket.socket) -> None:
        import threading

        def write() -> None:
            sock.sendall(header(Request.GET_FEATURES, 0) * count)

        writer = threading.Thread(target=write)
        writer.start()
        first = read_reply(sock)
        assert all(read_reply(sock) == first for _ in range(count - 1))
        writer.join()

    await attack(folder, play)


async def test_message_that_is_never_finished_times_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "MESSAGE_SECONDS", 0.05)

    def play(sock: socket.socket) -> None:
        sock.sendall(b"\x01")
        assert_closed(sock)

    await attack(folder, play)


async def test_front_end_that_says_nothing_times_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "SILENCE_SECONDS", 0.05)
    await attack(folder, assert_closed)


async def test_a_thousand_connections_leave_nothing(folder: Path) -> None:
    def play(sock: socket.socket) -> None:
        path = sock.getpeername()
        sock.close()
        for _ in range(1000):
            with socket.socket(socket.AF_UNIX) as one:
                one.connect(path)
                with contextlib.suppress(BrokenPipeError):
                    one.sendall(header(Request.GET_FEATURES, 0))

    await attack(folder, play)


async def test_refusal_is_one_line_with_the_request_and_the_value(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def play(sock: socket.socket) -> None:
        negotiate(sock)
        sock.sendall(header(Request.SET_VRING_NUM, 8) + struct.pack("=II", 1, 3))
        request, content = read_reply(sock)
        assert request == Request.SET_VRING_NUM
        assert content != bytes(8)

    await attack(folder, play)

    lines = [record.message for record in caplog.records if "SET_VRING_NUM" in record.message]
    assert len(lines) == 1
    assert "ring 1" in lines[0]
    assert "3" in lines[0]


async def test_refusal_that_ends_the_connection_is_said_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def play(sock: socket.socket) -> None:
        sock.sendall(header(Request.GET_VRING_BASE, 8) + struct.pack("=II", 256, 0))
        assert_closed(sock)

    await attack(folder, play)

    (line,) = [record.message for record in caplog.records if "GET_VRING_BASE" in record.message]
    assert line.startswith("front-end disconnected: GET_VRING_BASE ring 256: ")


class TestReplyWithFd:
    """Who closes the fd of a reply: we do, when it was sent or when it never will be."""

    @staticmethod
    @contextlib.asynccontextmanager
    async def connected(
        folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[tuple[socket.socket, list[tuple[int, ...]]]]:
        """A connection whose every request is answered with an eventfd, and the fds of each send."""
        attempts: list[tuple[int, ...]] = []
        send = Transport.send

        def handle(self: Session, message: Message) -> Reply:
            return Reply(message.request, U64(5), (os.eventfd(7),))

        def watched(self: Transport, content: bytes, fds: Sequence[int] = ()) -> int:
            attempts.append(tuple(fds))
            return send(self, content, fds)

        monkeypatch.setattr(Session, "handle", handle)
        monkeypatch.setattr(Transport, "send", watched)
        path = folder / "a.sock"
        async with serving(DeviceConfig(socket_path=str(path), port="echo")):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(10)
                sock.connect(str(path))
                yield sock, attempts

    async def test_is_closed_when_it_was_sent(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def play(sock: socket.socket) -> None:
            sock.sendall(header(Request.GET_FEATURES, 0))
            content, fds, _, _ = socket.recv_fds(sock, 64, 4)
            assert len(content) == 20
            (fd,) = fds
            assert os.eventfd_read(fd) == 7
            os.close(fd)

        async with self.connected(folder, monkeypatch) as (sock, _):
            await blocking(lambda: play(sock))

    async def test_waits_with_its_reply_and_goes_with_the_first_byte(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(self: Transport, content: bytes, fds: Sequence[int] = ()) -> int:
            monkeypatch.setattr(Transport, "send", in_pieces)
            raise BlockingIOError

        async with self.connected(folder, monkeypatch) as (sock, attempts):
            watched = Transport.send

            def in_pieces(self: Transport, content: bytes, fds: Sequence[int] = ()) -> int:
                return watched(self, content[:3], fds)

            monkeypatch.setattr(Transport, "send", full)

            def play() -> None:
                sock.sendall(header(Request.GET_FEATURES, 0))
                content, fds, _, _ = socket.recv_fds(sock, 64, 4)
                close_all(fds)
                while len(content) < 20:
                    piece = sock.recv(20 - len(content))
                    assert piece
                    content += piece
                assert len(fds) == 1

            await blocking(play)
            assert [len(fds) for fds in attempts] == [1, 0, 0, 0, 0, 0, 0]

    async def test_is_closed_with_the_connection_if_it_never_was_sent(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried = 0

        def full(self: Transport, content: bytes, fds: Sequence[int] = ()) -> int:
            nonlocal tried
            tried += len(fds)
            raise BlockingIOError

        async with self.connected(folder, monkeypatch) as (sock, _):
            monkeypatch.setattr(Transport, "send", full)
            sock.sendall(header(Request.GET_FEATURES, 0))
            await until(lambda: tried > 0)

    async def test_is_closed_when_sending_fails(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(self: Transport, content: bytes, fds: Sequence[int] = ()) -> int:
            raise BrokenPipeError

        async with self.connected(folder, monkeypatch) as (sock, _):
            monkeypatch.setattr(Transport, "send", broken)
            sock.sendall(header(Request.GET_FEATURES, 0))
            await blocking(lambda: assert_closed(sock))
