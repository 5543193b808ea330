"""Messages that no specification knows: a nack or the end of that connection, and one line in the log."""

from __future__ import annotations

import contextlib
import logging
import socket

import pytest

from tests.conformance import fds
from tests.conformance.messages import ROWS, SERVED, Row, of
from tests.integration.loglines import assert_one_line
from tests.integration.refusals import assert_refused
from tests.plain_frontend import HEADER, NEED_REPLY, VERSION, PlainFrontend, state, u64
from tests.site import wait

PLAIN = VERSION
ASKING = VERSION | NEED_REPLY
IDS = [row.name for row in ROWS]


# The header


@pytest.mark.parametrize("length", range(1, 12))
def test_header_that_breaks_off(plain: PlainFrontend, caplog: pytest.LogCaptureFixture, length: int) -> None:
    caplog.set_level(logging.INFO)
    plain.sock.sendall(HEADER.pack(1, PLAIN, 0)[:length])
    plain.sock.close()

    wait(lambda: "it went away in the middle of a message" in caplog.text)


def test_header_alone_of_a_message_with_payload(
    plain: PlainFrontend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    plain.sock.sendall(HEADER.pack(2, PLAIN, 8))
    plain.sock.close()

    wait(lambda: "it went away in the middle of a message" in caplog.text)


@pytest.mark.parametrize("length", range(8))
def test_payload_that_breaks_off_closes_the_fds_that_came(plain: PlainFrontend, length: int) -> None:
    with fds.for_row(of(12)) as mine:
        socket.send_fds(plain.sock, [HEADER.pack(12, PLAIN, 8) + bytes(length)], mine)
    plain.sock.close()


@pytest.mark.parametrize("version", [0, 2, 3])
def test_version_other_than_1_ends_the_connection(
    plain: PlainFrontend, caplog: pytest.LogCaptureFixture, version: int
) -> None:
    plain.send(1, flags=version)

    plain.assert_ended()
    assert_one_line(caplog, "GET_FEATURES", f"version {version}")


@pytest.mark.parametrize("flags", [0x5, 0xD])
def test_reply_where_a_request_is_due_ends_the_connection(
    plain: PlainFrontend, caplog: pytest.LogCaptureFixture, flags: int
) -> None:
    plain.send(2, u64(0), flags=flags)

    plain.assert_ended()
    assert_one_line(caplog, "SET_FEATURES", f"{flags:#x}")


@pytest.mark.parametrize("flags", [0x11, 0x19, 0x80000009, 0xFFFFFFF9])
def test_flags_that_no_version_defines_are_refused(
    talk: PlainFrontend, caplog: pytest.LogCaptureFixture, flags: int
) -> None:
    talk.send(8, state(0, 256), flags=flags)
    if flags & NEED_REPLY:
        assert talk.reply(8) != u64(0)

    talk.assert_no_reply()
    assert_one_line(caplog, "SET_VRING_NUM", f"{flags:#x}")


@pytest.mark.parametrize("size", [4097, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("row", [of(1), of(5), of(25)], ids=lambda row: row.name)
def test_size_beyond_the_cap_ends_the_connection_unread(
    plain: PlainFrontend, caplog: pytest.LogCaptureFixture, row: Row, size: int
) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        plain.send(row.number, bytes(4096), size=size)

    plain.assert_ended()
    assert_one_line(caplog, row.name, str(size))


# The size


@pytest.mark.parametrize("row", ROWS, ids=IDS)
@pytest.mark.parametrize("change", [-1, 1], ids=["one less", "one more"])
def test_payload_of_a_byte_less_or_more_is_refused(
    talk: PlainFrontend, caplog: pytest.LogCaptureFixture, row: Row, change: int
) -> None:
    body = row.body + b"\0" if change > 0 else row.body[:-1]
    if len(body) == len(row.body):
        body = bytes(4096)  # there is no byte less than none: the most that is read instead
    with fds.for_row(row) as mine:
        talk.send(row.number, body, mine)

    assert_refused(talk, row)
    assert_one_line(caplog, row.name)


@pytest.mark.parametrize("row", SERVED, ids=[row.name for row in SERVED])
def test_refusal_of_a_size_names_the_sizes(
    talk: PlainFrontend, caplog: pytest.LogCaptureFixture, row: Row
) -> None:
    talk.send(row.number, bytes(77))

    assert_refused(talk, row)
    assert_one_line(caplog, row.name, "77")


@pytest.mark.parametrize("request_number", [0, 46, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("size", [0, 8, 4096])
def test_request_that_nobody_knows_is_refused(
    talk: PlainFrontend, caplog: pytest.LogCaptureFixture, request_number: int, size: int
) -> None:
    with fds.for_row(of(12), 3) as mine:
        assert talk.number(request_number, bytes(size), mine) != 0

    talk.assert_no_reply()
    assert_one_line(caplog, str(request_number))
