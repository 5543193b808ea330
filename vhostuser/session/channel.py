"""The other direction: requests of the back-end on the socket that SET_BACKEND_REQ_FD brought. No I/O.

What was asked is remembered in order, since a front-end answers in order; nothing here waits. QEMU
acknowledges an IOTLB miss only after it has had an answer on the main socket: who waited for it would wait
for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from vhostuser.errors import FramingError
from vhostuser.wire.connection import Connection, Incoming
from vhostuser.wire.constants import BackendRequest
from vhostuser.wire.features import ProtocolFeature
from vhostuser.wire.messages import U64, Payload
from vhostuser.wire.requests import BACKEND_REQUESTS, ReplyKind


@dataclass(frozen=True, slots=True)
class Ack:
    """The front-end's word on one request of ours, with what was asked."""

    request: BackendRequest
    payload: Payload
    value: int
    fds: tuple[int, ...] = ()
    """The receiver's to close; only SHARED_OBJECT_LOOKUP brings one."""

    @property
    def is_fine(self) -> bool:
        return self.value == 0


class BackendChannel:
    """The back-end's end of that socket: bytes to send come out, answers go in as with `Connection`."""

    def __init__(self, acked: ProtocolFeature) -> None:
        self._acked = acked
        self._connection = Connection(BACKEND_REQUESTS, Incoming.REPLIES)
        self._unanswered: deque[tuple[BackendRequest, Payload]] = deque()
        self._stray_fds: list[int] = []

    @property
    def bytes_wanted(self) -> int:
        return self._connection.bytes_wanted

    @property
    def unanswered(self) -> int:
        """How many requests the front-end still owes an answer."""
        return len(self._unanswered)

    def encode(self, request: BackendRequest, payload: Payload, want_ack: bool = False) -> bytes:
        """The bytes of a request, to be sent in one sendmsg with its fds.

        An answer comes only if it is asked for *and* REPLY_ACK was negotiated, or if the request always has
        one.
        """
        asks = want_ack and ProtocolFeature.REPLY_ACK in self._acked
        if asks or BACKEND_REQUESTS[request].reply is ReplyKind.ALWAYS_U64:
            self._unanswered.append((request, payload))
        return self._connection.encode_request(request, payload, need_reply=asks)

    def receive(self, chunk: bytes, fds: Sequence[int] = ()) -> None:
        """As `Connection.receive`; raises FramingError."""
        self._connection.receive(chunk, fds)

    def next_ack(self) -> Ack | None:
        """The next answer that is there whole. Raises FramingError for one that nobody asked for.

        After a FramingError the fds are in `pending_fds`, and the channel is of no use any more.
        """
        reply = self._connection.next_reply()
        if reply is None:
            return None
        expected = self._unanswered.popleft() if self._unanswered else None
        if expected is None or expected[0] is not reply.request or not isinstance(reply.payload, U64):
            awaited = expected[0].name if expected is not None else "nothing"
            self._stray_fds += reply.fds
            raise FramingError(f"the front-end answers {reply.request!r} where {awaited} waits for an answer")
        return Ack(*expected, reply.payload.value, reply.fds)

    def pending_fds(self) -> list[int]:
        """The fds of an answer that will not be finished; they are the caller's to close."""
        stray, self._stray_fds = self._stray_fds, []
        return stray + self._connection.pending_fds()
