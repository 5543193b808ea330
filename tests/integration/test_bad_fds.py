"""Fds that come with the wrong message, at the wrong byte, in the wrong number, or have no room here."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
import struct
import termios
import time
from collections.abc import Iterator

import pytest

from tests.conformance import fds
from tests.conformance.messages import FD_OF_A_RING, ROWS, Row, of
from tests.conftest import open_fds
from tests.integration.loglines import assert_one_line, complaints
from tests.integration.refusals import assert_refused
from tests.plain_frontend import HEADER, NEED_REPLY, VERSION, PlainFrontend, close_all, u64
from tests.site import Site, echo, wait

ASKING = VERSION | NEED_REPLY
IDS = [row.name for row in ROWS]


FD_COUNTS = (0, 1, 2, 8, 33, 253)


@pytest.mark.parametrize("count", FD_COUNTS)
@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_any_number_of_fds_with_any_message(
    talk: PlainFrontend, caplog: pytest.LogCaptureFixture, row: Row, count: int
) -> None:
    """As many as it takes are taken; any other number is refused, and every fd closed (the site counts)."""
    body = row.body
    if row.number in FD_OF_A_RING and count == 0:
        body = u64(0x100)  # no fd, and the payload says so
    wrong = count != row.fds and not (row.number in FD_OF_A_RING and count == 0)
    with fds.for_row(row, count) as mine:
        talk.send(row.number, body, mine)
    # Nothing was transferred and no region added before: there is nothing to tell, and nothing to remove.
    wrong |= row.name in ("CHECK_DEVICE_STATE", "REM_MEM_REG")
    if not row.served or wrong:
        assert_refused(talk, row)
        assert_one_line(caplog, row.name)
    else:
        talk.reply(row.number)
        talk.assert_no_reply()
        assert complaints(caplog) == []


@pytest.mark.parametrize("count", range(254))
def test_kick_takes_one_fd_and_no_other_number(talk: PlainFrontend, count: int) -> None:
    with fds.for_row(of(12), count) as mine:
        assert (talk.number(12, u64(0), mine) == 0) == (count == 1)


@pytest.mark.parametrize("row", [row for row in ROWS if row.body], ids=lambda row: row.name)
def test_fds_in_the_middle_of_a_message_are_refused_and_closed(
    talk: PlainFrontend, caplog: pytest.LogCaptureFixture, row: Row
) -> None:
    # The specification lets them come with the first byte only.
    talk.sock.sendall(HEADER.pack(row.number, ASKING, len(row.body)) + row.body[:1])
    with fds.for_row(row, max(row.fds, 1)) as mine:
        socket.send_fds(talk.sock, [row.body[1:]], mine)

    assert_refused(talk, row)
    assert_one_line(caplog, row.name, "after the first byte")


def test_fds_in_the_middle_of_a_header_are_refused_and_closed(talk: PlainFrontend) -> None:
    talk.sock.sendall(HEADER.pack(12, ASKING, 8)[:5])
    wait(lambda: unread(talk.sock) == 0)  # else one read may take both parts, and the fds with the first
    with fds.for_row(of(12)) as mine:
        socket.send_fds(talk.sock, [HEADER.pack(12, ASKING, 8)[5:] + u64(0)], mine)

    assert_refused(talk, of(12))


def test_fds_with_every_byte_are_refused_and_closed(talk: PlainFrontend) -> None:
    with fds.for_row(of(12)) as mine:
        for byte in HEADER.pack(12, ASKING, 8) + u64(0):
            socket.send_fds(talk.sock, [bytes([byte])], mine * 5)

    assert_refused(talk, of(12))


def unread(sock: socket.socket) -> int:
    """Of what was sent here, the memory that waits at the other end."""
    (size,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    return int(size)


@contextlib.contextmanager
def full_fd_table(room: int) -> Iterator[None]:
    """This process, and so the server in it, gets no more than ``room`` further fds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(open_fds()) + 1
    taken = []
    # Fill the holes below, so that the limit is exact.
    while (fd := os.open("/dev/null", os.O_RDONLY)) < highest:
        taken.append(fd)
    os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        close_all(taken)


@pytest.mark.parametrize("room", [0, 1, 3])
@pytest.mark.parametrize("count", [4, 253])
def test_fds_that_do_not_fit_the_fd_table_end_the_connection(
    site: Site, talk: PlainFrontend, caplog: pytest.LogCaptureFixture, room: int, count: int
) -> None:
    talk.assert_no_reply()
    mine = [os.eventfd(0) for _ in range(count)]
    with full_fd_table(room):
        # In the message's place in the stream the kernel says MSG_CTRUNC, and closes what did not fit.
        talk.send(12, u64(0), mine)
        talk.assert_ended()
        echo(site.neighbour)
    close_all(mine)

    assert_one_line(caplog, "fds were lost on the way", "ulimit -n")


def test_front_end_that_comes_when_the_fd_table_is_full_waits(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        with full_fd_table(0):
            sock.connect(str(site.path))
            sock.sendall(HEADER.pack(1, VERSION, 0))
            wait(lambda: bool(complaints(caplog)))
            echo(site.neighbour)
        sock.settimeout(20)
        assert len(sock.recv(20, socket.MSG_WAITALL)) == 20

    assert_one_line(caplog, "cannot accept", "Too many open files")


def test_regression_socket_that_lingers_costs_no_other_device(site: Site) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    sender = socket.create_connection(listener.getsockname())
    receiver, _ = listener.accept()
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 30))
    sender.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sender.send(bytes(1 << 16))
    with PlainFrontend(site.path) as plain:
        # The message ends after we have closed ours, so that the server's is the last.
        message = HEADER.pack(1, VERSION, 0)
        socket.send_fds(plain.sock, [message[:4]], [sender.fileno()])
        sender.close()
        plain.sock.sendall(message[4:])
        plain.assert_ended()
    started = time.monotonic()
    site.assert_neighbour_unharmed()
    assert time.monotonic() - started < 15
    receiver.close()  # with data unread: a reset, which ends the lingering
    listener.close()
