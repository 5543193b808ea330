"""The embedded IOMMU against a socket pair: what it says to which question, and in which order."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from vhostuser.errors import PeerError
from vhostuser.frontend.iommu import Answers, Iommu
from vhostuser.frontend.iova_memory import PAGE, IovaMemory
from vhostuser.wire.connection import Connection, Incoming
from vhostuser.wire.constants import BackendRequest
from vhostuser.wire.messages import U64, Empty, Iotlb, Payload
from vhostuser.wire.requests import BACKEND_REQUESTS

MISS = 1


class Recorder:
    """In place of a front-end's main connection."""

    def __init__(self) -> None:
        self.said: list[Iotlb] = []

    def iotlb_msg(self, message: Iotlb) -> None:
        self.said.append(message)


class Talk:
    """The back-end's end of a channel, and an IOMMU with one page."""

    def __init__(self, answers: Answers) -> None:
        self.theirs, self.mine = socket.socketpair()
        self.memory = IovaMemory(1 << 20)
        self.iova = self.memory.alloc(64)
        self.iommu = Iommu(self.memory, answers)
        self.main = Recorder()

    def ask(self, payload: Payload, request: BackendRequest = BackendRequest.IOTLB_MSG) -> None:
        connection = Connection(BACKEND_REQUESTS, Incoming.REPLIES)
        self.mine.send(connection.encode_request(request, payload, need_reply=True))

    def serve(self) -> int:
        return self.iommu.serve(self.main, self.theirs)  # type: ignore[arg-type]

    def answer(self) -> int:
        connection = Connection(BACKEND_REQUESTS, Incoming.REPLIES)
        self.mine.setblocking(False)
        while wanted := connection.bytes_wanted:
            connection.receive(self.mine.recv(wanted))
        reply = connection.next_reply()
        assert reply is not None
        assert isinstance(reply.payload, U64)
        return reply.payload.value

    def close(self) -> None:
        self.theirs.close()
        self.mine.close()
        self.memory.close()


@pytest.fixture
def talks() -> Iterator[list[Talk]]:
    made: list[Talk] = []
    yield made
    for talk in made:
        talk.close()


def make(talks: list[Talk], answers: Answers) -> Talk:
    talks.append(Talk(answers))
    return talks[-1]


@pytest.mark.parametrize("answers", [Answers.LAZY, Answers.EAGER])
def test_miss_is_answered_with_its_page_and_then_yes(talks: list[Talk], answers: Answers) -> None:
    talk = make(talks, answers)
    talk.ask(Iotlb(talk.iova + 5, 0, 0, 1, MISS))
    assert talk.serve() == 1

    page = talk.iova & -PAGE
    assert talk.main.said == [Iotlb(page, PAGE, talk.memory.page_user_address(page), 3, 2)]
    assert talk.answer() == 0


@pytest.mark.parametrize(
    ("answers", "iova"), [(Answers.REFUSING, 0), (Answers.LAZY, PAGE)], ids=["refusing", "not mapped"]
)
def test_miss_is_refused(talks: list[Talk], answers: Answers, iova: int) -> None:
    talk = make(talks, answers)
    talk.ask(Iotlb(talk.iova + iova, 0, 0, 1, MISS))
    assert talk.serve() == 1
    assert talk.main.said == []
    assert talk.answer() == 1


def test_silence(talks: list[Talk]) -> None:
    talk = make(talks, Answers.SILENT)
    talk.ask(Iotlb(talk.iova, 0, 0, 1, MISS))
    assert talk.serve() == 1
    assert talk.main.said == []
    with pytest.raises(BlockingIOError):
        talk.answer()
    assert len(talk.iommu.asked) == 1


@pytest.mark.parametrize("payload", [Iotlb(0, 0, 0, 1, 2), Iotlb(0, 0, 0, 0, MISS), Iotlb(0, 0, 0, 4, MISS)])
def test_what_is_no_miss_is_the_back_ends_mistake(talks: list[Talk], payload: Iotlb) -> None:
    talk = make(talks, Answers.LAZY)
    talk.ask(payload)
    with pytest.raises(PeerError, match="no IOTLB miss"):
        talk.serve()


def test_other_request_is_the_back_ends_mistake(talks: list[Talk]) -> None:
    talk = make(talks, Answers.LAZY)
    talk.ask(Empty(), BackendRequest.CONFIG_CHANGE_MSG)
    with pytest.raises(PeerError, match="CONFIG_CHANGE_MSG"):
        talk.serve()


def test_closed_channel_is_the_back_ends_mistake(talks: list[Talk]) -> None:
    talk = make(talks, Answers.LAZY)
    talk.mine.close()
    with pytest.raises(PeerError, match="closed the channel"):
        talk.serve()
