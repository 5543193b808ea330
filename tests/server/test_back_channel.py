from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.conftest import open_fds
from tests.server.conftest import until
from vhostuser.errors import RequestError
from vhostuser.server import back_channel
from vhostuser.server.back_channel import MOST_UNANSWERED, SocketBackChannel
from vhostuser.wire.connection import Connection
from vhostuser.wire.constants import BackendRequest
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.messages import U64, Message, Reply
from vhostuser.wire.payloads import Iotlb, VringState
from vhostuser.wire.requests import BACKEND_REQUESTS

MISS = BackendRequest.IOTLB_MSG
ACKED = P.BACKEND_REQ | P.REPLY_ACK
REASON = "the channel for the back-end's own requests is gone: "


def miss(iova: int) -> Iotlb:
    return Iotlb(iova, 0, 0, 1, 1)


@dataclass
class Ends:
    """The front-end's end of a channel, and what the back-end's said."""

    sock: socket.socket
    theirs: int
    answers: list[tuple[int, bool]] = field(default_factory=list)
    lost: int = 0
    channel: SocketBackChannel | None = None

    def open(self, acked: P = ACKED) -> SocketBackChannel:
        log = logging.LoggerAdapter(logging.getLogger("vhostuser"), {})
        self.channel = SocketBackChannel(self.theirs, acked, self.on_lost, log=log)
        return self.channel

    def on_lost(self) -> None:
        self.lost += 1

    def ask(self, iova: int) -> None:
        assert self.channel is not None
        self.channel.ask(MISS, miss(iova), lambda is_fine: self.answers.append((iova, is_fine)))

    async def read(self) -> Message:
        connection = Connection(BACKEND_REQUESTS)
        loop = asyncio.get_running_loop()
        while wanted := connection.bytes_wanted:
            connection.receive(await loop.sock_recv(self.sock, wanted))
        message = connection.next_message()
        assert message is not None
        return message

    def answer(self, value: int, request: BackendRequest = MISS) -> None:
        self.sock.send(Connection(BACKEND_REQUESTS).encode(Reply(request, U64(value))))


@pytest.fixture
def ends() -> Iterator[Ends]:
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    ends = Ends(mine, theirs.detach())
    yield ends
    mine.close()


async def test_requests_go_out_and_answers_come_back_in_order(ends: Ends) -> None:
    channel = ends.open()
    for iova in (0x1000, 0x2000):
        ends.ask(iova)
    for iova in (0x1000, 0x2000):
        message = await ends.read()
        assert (message.request, message.payload, message.need_reply) == (MISS, miss(iova), True)
    ends.answer(0)
    ends.answer(1)
    await until(lambda: len(ends.answers) == 2)

    assert ends.answers == [(0x1000, True), (0x2000, False)]
    channel.close()
    assert ends.lost == 0


async def test_without_reply_ack_no_answer_is_asked_for(ends: Ends) -> None:
    channel = ends.open(P.BACKEND_REQ)
    for _ in range(2 * MOST_UNANSWERED):
        ends.ask(0x1000)
        assert not (await ends.read()).need_reply
    channel.close()


async def test_answer_in_single_bytes(ends: Ends) -> None:
    channel = ends.open()
    ends.ask(0x1000)
    content = Connection(BACKEND_REQUESTS).encode(Reply(MISS, U64(0)))
    for position in range(len(content)):
        ends.sock.send(content[position : position + 1])
        await asyncio.sleep(0)
    await until(lambda: ends.answers)
    channel.close()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (Connection(BACKEND_REQUESTS).encode(Reply(MISS, U64(0))), "nothing waits for an answer"),
        (b"\xff" * 12, "version"),
        (Connection(BACKEND_REQUESTS).encode_request(MISS, miss(1)), "of a reply"),
    ],
    ids=["unasked", "garbage", "request"],
)
async def test_broken_answer_loses_the_channel_with_one_line(
    ends: Ends, caplog: pytest.LogCaptureFixture, content: bytes, reason: str
) -> None:
    ends.open()
    ends.sock.send(content)
    await until(lambda: ends.lost)

    assert ends.lost == 1
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert lines[0].startswith(REASON)
    assert reason in lines[0]
    assert ends.theirs not in open_fds()
    ends.ask(0x1000)  # nothing comes of it
    assert ends.answers == []


async def test_closed_by_the_front_end_is_said_without_a_complaint(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ends.open()
    ends.ask(0x1000)
    ends.sock.close()
    await until(lambda: ends.lost)

    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.INFO, f"{REASON}the front-end has closed it")
    assert ends.answers == []


async def test_fds_with_an_answer_are_closed(ends: Ends) -> None:
    channel = ends.open()
    ends.ask(0x1000)
    fd = os.eventfd(0)
    before = len(open_fds())
    socket.send_fds(ends.sock, [Connection(BACKEND_REQUESTS).encode(Reply(MISS, U64(0)))], [fd])
    await until(lambda: ends.answers)

    assert len(open_fds()) == before
    os.close(fd)
    channel.close()


async def test_front_end_that_does_not_read_loses_the_channel(
    ends: Ends, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(back_channel, "MOST_UNANSWERED", 1 << 30)
    ends.open()
    asked = 0
    while not ends.lost:
        asked += 1
        ends.ask(asked)

    assert asked * 44 > back_channel.MOST_UNSENT
    assert "does not read it" in caplog.text


async def test_what_was_blocked_goes_out_when_the_front_end_reads(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(back_channel, "MOST_UNANSWERED", 1 << 30)
    channel = ends.open()
    asked = 0
    while not channel._unsent:
        asked += 1
        ends.ask(asked)
    ends.ask(asked + 1)
    for number in range(1, asked + 2):
        assert (await ends.read()).payload == miss(number)
    await until(lambda: not channel._unsent)
    channel.close()


async def test_front_end_that_never_answers_loses_the_channel(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    ends.open()
    for number in range(MOST_UNANSWERED):
        ends.ask(number)
        await ends.read()
    assert ends.lost == 0
    ends.ask(0)

    assert ends.lost == 1
    assert "wait for an answer" in caplog.text


async def test_o_nonblock_is_not_relied_upon(ends: Ends) -> None:
    copy = os.dup(ends.theirs)  # the front-end has the same file
    channel = ends.open()
    os.set_blocking(copy, True)
    ends.ask(0x1000)
    ends.answer(0)
    await until(lambda: ends.answers)  # and the read after it has not blocked
    channel.close()
    os.close(copy)


async def test_closing_twice_says_nothing(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    channel = ends.open()
    channel.close()
    channel.close()

    assert ends.lost == 0
    assert caplog.text == ""
    assert ends.theirs not in open_fds()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
async def test_socket_that_is_no_stream_is_refused_and_closed(ends: Ends, kind: socket.SocketKind) -> None:
    os.close(ends.theirs)
    ends.theirs = socket.socket(socket.AF_UNIX, kind).detach()

    with pytest.raises(RequestError, match="need a stream"):
        ends.open()
    assert ends.theirs not in open_fds()


async def test_what_is_no_socket_is_refused_and_closed(ends: Ends) -> None:
    os.close(ends.theirs)
    ends.theirs = os.eventfd(0)

    with pytest.raises(RequestError, match="not a socket"):
        ends.open()
    assert ends.theirs not in open_fds()


CALL = BackendRequest.VRING_CALL


async def test_forwarded_eventfd_is_one_message_until_it_is_answered(ends: Ends) -> None:
    channel = ends.open()
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    channel.forward(fd, CALL, VringState(5, 0))
    for _ in range(3):
        os.eventfd_write(fd, 1)
    message = await ends.read()
    assert (message.request, message.payload, message.need_reply) == (CALL, VringState(5, 0), True)
    for _ in range(1000):
        os.eventfd_write(fd, 1)
    await asyncio.sleep(0)
    assert nothing_to_read(ends)
    ends.answer(0, CALL)
    await ends.read()
    ends.answer(1, CALL)  # a "no" stops nothing
    os.eventfd_write(fd, 1)
    await ends.read()
    channel.withdraw(fd)
    ends.answer(0, CALL)
    os.eventfd_write(fd, 1)
    await asyncio.sleep(0.01)  # nothing may come
    assert nothing_to_read(ends)
    os.close(fd)
    channel.close()


async def test_what_was_written_before_the_end_is_sent(ends: Ends) -> None:
    channel = ends.open()
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    channel.forward(fd, CALL, VringState(0, 0))
    os.eventfd_write(fd, 1)
    channel.withdraw(fd)
    os.close(fd)
    assert (await ends.read()).request is CALL
    channel.close()


async def test_number_of_a_closed_eventfd_is_taken_by_another(ends: Ends) -> None:
    channel = ends.open()
    first = os.eventfd(0, os.EFD_NONBLOCK)
    channel.forward(first, CALL, VringState(0, 0))
    os.eventfd_write(first, 1)
    await ends.read()
    channel.withdraw(first)
    os.close(first)
    second = os.eventfd(0, os.EFD_NONBLOCK)
    assert second == first
    channel.forward(second, CALL, VringState(1, 0))
    os.eventfd_write(second, 1)
    assert (await ends.read()).payload == VringState(1, 0)
    # The answer to the first may not have the second heard, whose own is due.
    ends.answer(0, CALL)
    os.eventfd_write(second, 1)
    await asyncio.sleep(0.01)  # nothing may come
    assert nothing_to_read(ends)
    channel.close()
    os.close(second)


async def test_without_reply_ack_each_write_is_a_message(ends: Ends) -> None:
    channel = ends.open(P.BACKEND_REQ)
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    channel.forward(fd, CALL, VringState(0, 0))
    for _ in range(3):
        os.eventfd_write(fd, 1)
        assert not (await ends.read()).need_reply
    channel.close()
    os.close(fd)


def nothing_to_read(ends: Ends) -> bool:
    return not select.select([ends.sock], [], [], 0)[0]
