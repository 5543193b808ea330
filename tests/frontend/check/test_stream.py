from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from vhostuser.errors import PeerError
from vhostuser.frontend.check.model import CheckFailedError
from vhostuser.frontend.check.stream import (
    HEADER,
    Stream,
    eventfds,
    memfds,
    message,
    name_of,
    number,
    table,
    u64,
)
from vhostuser.wire.constants import REPLY_FLAGS, Request
from vhostuser.wire.features import ProtocolFeature


class Ends:
    """A stream, and the other end of it, where replies can lie before they are asked for."""

    def __init__(self, acks: bool = False) -> None:
        ours, self.theirs = socket.socketpair()
        self.stream = Stream(ours, 0.2)
        self.stream.acks = acks

    def reply(self, request: int, body: bytes, flags: int = REPLY_FLAGS) -> None:
        self.theirs.sendall(HEADER.pack(request, flags, len(body)) + body)

    def close(self) -> None:
        self.theirs.close()
        self.stream.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.close()


@pytest.fixture
def acked() -> Iterator[Ends]:
    ends = Ends(acks=True)
    yield ends
    ends.close()


def test_message_is_header_and_payload() -> None:
    assert message(1, b"ab") == struct.pack("=III", 1, 1, 2) + b"ab"
    assert message(1, b"ab", flags=9, size=3) == struct.pack("=III", 1, 9, 3) + b"ab"


def test_table_can_lie_about_its_length() -> None:
    assert table((1, 2, 3, 4), count=7) == struct.pack("=IIQQQQ", 7, 0, 1, 2, 3, 4)


def test_number_of_another_size_fails() -> None:
    assert number(u64(7)) == 7
    with pytest.raises(CheckFailedError, match="4 bytes"):
        number(bytes(4))


def test_requests_without_a_name_have_their_number() -> None:
    assert (name_of(1), name_of(99)) == ("GET_FEATURES", "request 99")


def test_ask_sends_and_reads(ends: Ends) -> None:
    ends.reply(Request.GET_FEATURES, u64(5))
    assert ends.stream.ask(Request.GET_FEATURES) == u64(5)
    assert ends.theirs.recv(100) == message(Request.GET_FEATURES)


@pytest.mark.parametrize("flags", [0x1, 0x4, 0xD, 0x6, 0x15])
def test_flags_of_a_reply_are_exactly_5(ends: Ends, flags: int) -> None:
    ends.reply(Request.GET_FEATURES, u64(5), flags)
    with pytest.raises(CheckFailedError, match=f"saw flags {flags:#x}"):
        ends.stream.ask(Request.GET_FEATURES)


def test_reply_to_something_else_fails(ends: Ends) -> None:
    ends.reply(Request.GET_QUEUE_NUM, u64(5))
    with pytest.raises(CheckFailedError, match="saw one to GET_QUEUE_NUM"):
        ends.stream.ask(Request.GET_FEATURES)


def test_silence_fails_in_time(ends: Ends) -> None:
    with pytest.raises(CheckFailedError, match="saw nothing"):
        ends.stream.ask(Request.GET_FEATURES)
    ends.theirs.sendall(bytes(5))
    with pytest.raises(CheckFailedError, match="5 of 12 bytes"):
        ends.stream.reply(Request.GET_FEATURES)


def test_a_reply_of_absurd_size_is_not_read(ends: Ends) -> None:
    ends.theirs.sendall(HEADER.pack(Request.GET_FEATURES, REPLY_FLAGS, 1 << 31))
    with pytest.raises(CheckFailedError, match="2147483648 bytes announced"):
        ends.stream.reply(Request.GET_FEATURES)


def test_end_inside_a_reply_fails(ends: Ends) -> None:
    ends.theirs.sendall(HEADER.pack(Request.GET_FEATURES, REPLY_FLAGS, 8) + bytes(3))
    ends.theirs.close()
    with pytest.raises(CheckFailedError, match="the end of the connection inside it"):
        ends.stream.reply(Request.GET_FEATURES)


def test_sending_to_nobody_is_a_peer_error(ends: Ends) -> None:
    ends.theirs.close()
    with pytest.raises(PeerError, match="closed"):
        ends.stream.send(Request.GET_FEATURES)


def test_fds_that_come_with_a_reply_are_closed(ends: Ends) -> None:
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    socket.send_fds(ends.theirs, [HEADER.pack(Request.GET_FEATURES, REPLY_FLAGS, 8) + u64(1)], [theirs])
    os.close(theirs)
    ends.stream.reply(Request.GET_FEATURES)
    assert os.read(ours, 1) == b""
    os.close(ours)


def test_do_wants_an_ack_of_0(acked: Ends) -> None:
    acked.reply(Request.SET_OWNER, u64(0))
    acked.stream.do(Request.SET_OWNER)
    acked.reply(Request.SET_OWNER, u64(2))
    with pytest.raises(CheckFailedError, match="refused with 0x2"):
        acked.stream.do(Request.SET_OWNER)


def test_do_without_acks_wants_the_connection_to_go_on(ends: Ends) -> None:
    ends.reply(Request.GET_FEATURES, u64(0))
    ends.stream.do(Request.SET_OWNER)
    ends.theirs.close()
    with pytest.raises(CheckFailedError, match="to go on after SET_OWNER, saw its end"):
        ends.stream.assert_silent(Request.SET_OWNER)


def test_assert_silent_finds_a_reply(ends: Ends) -> None:
    ends.reply(Request.SET_OWNER, u64(0))
    with pytest.raises(CheckFailedError, match="a reply to SET_OWNER of 8 bytes"):
        ends.stream.assert_silent(Request.SET_OWNER)


def test_refuses_takes_a_nack_or_the_end(acked: Ends) -> None:
    acked.reply(Request.SET_VRING_NUM, u64(1))
    acked.stream.refuses(Request.SET_VRING_NUM)
    acked.reply(Request.SET_VRING_NUM, u64(0))
    with pytest.raises(CheckFailedError, match="an acknowledgement of 0"):
        acked.stream.refuses(Request.SET_VRING_NUM)
    acked.theirs.close()
    acked.stream.refuses(Request.SET_VRING_NUM)


def test_negotiate_acknowledges_what_is_offered(ends: Ends) -> None:
    offered = ProtocolFeature.REPLY_ACK | ProtocolFeature.MQ
    ends.reply(Request.GET_PROTOCOL_FEATURES, u64(offered))
    ends.stream.negotiate(ProtocolFeature.REPLY_ACK | ProtocolFeature.MTU)
    assert ends.stream.acks
    expected = message(Request.GET_PROTOCOL_FEATURES) + message(Request.SET_PROTOCOL_FEATURES, u64(8))
    assert ends.theirs.recv(100) == expected


def test_fds_of_ours_are_closed_again() -> None:
    with eventfds(2) as some, memfds(1, 8192) as files:
        assert os.fstat(files[0]).st_size == 8192
        assert len(some) == 2


def test_wait_taken_returns_when_the_other_end_has_read(ends: Ends) -> None:
    ends.stream.wait_taken()
    ends.stream.send_bytes(b"abc")
    ends.stream.wait_taken()  # nobody reads, and it returns all the same
    assert ends.theirs.recv(10) == b"abc"
