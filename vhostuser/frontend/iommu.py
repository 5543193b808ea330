"""A front-end's IOMMU: tells a back-end that asks where an I/O address lies, as QEMU does, and takes it back.

QEMU's order, which a back-end must not wait against: the question comes on the channel, the translation
goes out on the main connection and is acknowledged there, and then the question is.
"""

from __future__ import annotations

import select
import socket
from enum import Enum

from vhostuser.errors import PeerError
from vhostuser.frontend.dialogue import receive
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.iova_memory import PAGE, IovaMemory, pages_of
from vhostuser.frontend.virtqueue_base import RingPlace
from vhostuser.wire.connection import Connection
from vhostuser.wire.constants import BackendRequest, IotlbType
from vhostuser.wire.messages import U64, Iotlb, Message, Reply
from vhostuser.wire.requests import BACKEND_REQUESTS

EVERYTHING = (1 << 64) - 1
"""The size of an invalidation that leaves nothing, as QEMU has it."""
READ_WRITE = 3


class Answers(Enum):
    """What comes of a question."""

    LAZY = "lazy"
    """The page's translation, then yes."""
    EAGER = "eager"
    """The same; but all pages are told of at the start, so that nothing has to be asked."""
    REFUSING = "refusing"
    """No."""
    SILENT = "silent"
    """Nothing."""


class Iommu:
    """Translations of one `IovaMemory` for one back-end. What a driver is given as its `iommu`."""

    def __init__(self, memory: IovaMemory, answers: Answers = Answers.LAZY) -> None:
        self.memory = memory
        self.answers = answers
        self.asked: list[Iotlb] = []
        """Every question that came."""
        self._requests = Connection(BACKEND_REQUESTS)

    def start(self, frontend: Frontend, places: list[RingPlace]) -> None:
        """The rings were started. QEMU tells where their used parts are, asked or not."""
        told = (
            self.memory.pages if self.answers is Answers.EAGER else [place.used & -PAGE for place in places]
        )
        if self.answers in (Answers.EAGER, Answers.LAZY):
            for page in told:
                self.tell(frontend, page)

    def tell(self, frontend: Frontend, iova: int, access: int = READ_WRITE) -> None:
        """Where the page of `iova` lies."""
        page = iova & -PAGE
        frontend.iotlb_msg(Iotlb(page, PAGE, self.memory.page_user_address(page), access, IotlbType.UPDATE))

    def invalidate(self, frontend: Frontend, iova: int = 0, size: int = EVERYTHING) -> None:
        """Takes back what was told of the range; the back-end has forgotten it when this returns."""
        frontend.iotlb_msg(Iotlb(iova, size, 0, 0, IotlbType.INVALIDATE))

    def move(self, frontend: Frontend, iova: int, length: int = 1) -> None:
        """Gives the pages of a range other places in guest memory, under whatever the back-end does."""
        for page in pages_of(iova, length):
            self.invalidate(frontend, page, PAGE)
            self.memory.move_page(page)

    def serve(self, frontend: Frontend, channel: socket.socket) -> int:
        """Answers all that was asked by now, without waiting for more; how many questions there were.

        PeerError for what is no question, or when the back-end has closed the channel.
        """
        count = 0
        while select.select([channel], [], [], 0)[0]:
            self._answer(frontend, channel, self._next(channel))
            count += 1
        return count

    def _next(self, channel: socket.socket) -> Message:
        while wanted := self._requests.bytes_wanted:
            content, fds = receive(channel, wanted)
            self._requests.receive(content, fds)
            if not content:
                raise PeerError("back-end closed the channel of its own requests")
        message = self._requests.next_message()
        assert message is not None
        return message

    def _answer(self, frontend: Frontend, channel: socket.socket, message: Message) -> None:
        question = message.payload
        if message.request is not BackendRequest.IOTLB_MSG or not isinstance(question, Iotlb):
            raise PeerError(f"back-end asks for {message.name} {message.payload}")
        if question.type != IotlbType.MISS or question.perm not in (1, 2, 3):
            raise PeerError(f"back-end sends {question}, which is no IOTLB miss")
        self.asked.append(question)
        if self.answers is Answers.SILENT:
            return
        known = self.answers is not Answers.REFUSING and question.iova & -PAGE in self.memory.pages
        if known:
            self.tell(frontend, question.iova)
        if message.need_reply:
            channel.sendall(self._requests.encode(Reply(message.request, U64(0 if known else 1))))
