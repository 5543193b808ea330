"""Both ends of a vhost-user stream, without the socket: bytes and fds in, messages out, bytes back.

Rules of this file:

1. It never asks for a byte beyond the current message. Fds ride on bytes: one greedy read would hand the fds
   of the next message to this one.
2. It closes nothing. An fd that it was given is in the bag of a message, in the fds of a reply, or in
   `pending_fds`.
3. `FramingError` is for a stream that is out of step and nothing else. A message that was read whole and
   makes no sense comes out with a `Malformed` payload: whether that is nacked or ends the connection is the
   session's choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto

from vhostuser.errors import FramingError, RequestError
from vhostuser.wire import constants as c
from vhostuser.wire import structs
from vhostuser.wire.messages import FdBag, Message, Reply, request_name
from vhostuser.wire.payloads import Malformed, MemTable, Payload, VringArea, VringFd
from vhostuser.wire.requests import FRONTEND_REQUESTS, Fds, RequestRow


class Incoming(Enum):
    """What the peer sends on this stream."""

    REQUESTS = auto()
    REPLIES = auto()


class Connection:
    """One end of a stream whose requests are those of ``table``.

    The loop of its owner, after each connect and until the peer is gone::

        chunk, fds = read at most connection.bytes_wanted bytes
        connection.receive(chunk, fds)               # may raise FramingError
        message = connection.next_message()          # None: more bytes are needed

    ``bytes_wanted`` is 0 between the last byte of a message and its `next_message`, so two are never open at
    once. When the owner stops, because of an error or an end of file, it closes what `pending_fds` returns.
    """

    def __init__(
        self,
        table: Mapping[int, RequestRow] = FRONTEND_REQUESTS,
        incoming: Incoming = Incoming.REQUESTS,
    ) -> None:
        self._table = table
        self._incoming = incoming
        self._received = bytearray()
        self._header: structs.Header | None = None
        self._fds = FdBag()
        self._has_late_fds = False
        self._failure: FramingError | None = None

    @property
    def bytes_wanted(self) -> int:
        """How many bytes may be read next: the rest of the header, then the rest of the payload, then 0."""
        if self._failure is not None:
            return 0
        return self._size() - len(self._received)

    @property
    def is_between_messages(self) -> bool:
        """Whether an end of file now is a clean end; inside a message it means that the peer died."""
        return not self._received and self._header is None

    def receive(self, chunk: bytes, fds: Sequence[int] = ()) -> None:
        """Take what one read returned: at most `bytes_wanted` bytes, and the fds that came with them.

        Raises FramingError as soon as the header shows that the stream cannot be followed, and again at each
        later call; the fds are kept for `pending_fds` in any case.
        """
        self._fds.add(fds)
        if self._failure is not None:
            raise self._failure
        assert len(chunk) <= self.bytes_wanted, "read beyond the message: fds of the next one may be lost"
        if fds and (self._received or self._header is not None):
            self._has_late_fds = True
        self._received += chunk
        if self._header is None and len(self._received) == c.HEADER_SIZE:
            header = structs.parse_header(bytes(self._received))
            self._check_header(header)
            self._header = header
            self._received.clear()

    def next_message(self) -> Message | None:
        """The request that has been received whole, or None; only for a stream of requests."""
        assert self._incoming is Incoming.REQUESTS
        header = self._complete_header()
        if header is None:
            return None
        row = self._table.get(header.request)
        payload = self._read_request(row, header)
        request = row.request if row is not None else header.request
        message = Message(request, payload, bool(header.flags & c.FLAG_NEED_REPLY), self._fds)
        self._start_over()
        return message

    def next_reply(self) -> Reply | None:
        """The reply that has been received whole, or None; only for a stream of replies.

        Raises FramingError when it answers no request that exists, or with a payload that its request cannot
        have.
        """
        assert self._incoming is Incoming.REPLIES
        header = self._complete_header()
        if header is None:
            return None
        row = self._table.get(header.request)
        if row is None:
            raise self._fail(f"reply to {header.request}, which is no request")
        try:
            payload = structs.parse_payload(row.answer, bytes(self._received))
        except RequestError as error:
            raise self._fail(f"reply to {row.name}: {error.reason}") from error
        reply = Reply(row.request, payload, tuple(self._fds.take_all()))
        self._start_over()
        return reply

    def encode(self, reply: Reply) -> bytes:
        """Header and payload of a reply, to be sent in one sendmsg with its fds.

        DPDK virtio-user reads header and payload with plain receives and does not wait for a second piece.
        """
        return _encode(reply.request, c.REPLY_FLAGS, reply.payload)

    def encode_request(self, request: int, payload: Payload, need_reply: bool = False) -> bytes:
        """Header and payload of a request; its fds go with the first byte, in the same sendmsg."""
        return _encode(request, c.VERSION | (c.FLAG_NEED_REPLY if need_reply else 0), payload)

    def pending_fds(self) -> list[int]:
        """The fds of a message that will not be finished; they are the caller's to close."""
        return self._fds.drain()

    def _size(self) -> int:
        """Length of the part that is being read: header or payload."""
        return c.HEADER_SIZE if self._header is None else self._header.size

    def _complete_header(self) -> structs.Header | None:
        """The header of a message that is there whole."""
        if self._failure is not None:
            raise self._failure
        return self._header if self.bytes_wanted == 0 else None

    def _start_over(self) -> None:
        self._received.clear()
        self._header = None
        self._fds = FdBag()
        self._has_late_fds = False

    def _fail(self, text: str) -> FramingError:
        self._failure = FramingError(text)
        return self._failure

    def _check_header(self, header: structs.Header) -> None:
        what = f"header of {self._name(header)}"
        version = header.flags & c.VERSION_MASK
        if version != c.VERSION:
            raise self._fail(f"{what}: version {version}, expected {c.VERSION} (flags {header.flags:#x})")
        if self._incoming is Incoming.REPLIES and header.flags != c.REPLY_FLAGS:
            raise self._fail(f"{what}: flags {header.flags:#x} of a reply, expected {c.REPLY_FLAGS:#x}")
        if self._incoming is Incoming.REQUESTS and header.flags & c.FLAG_REPLY:
            raise self._fail(f"{what}: a reply where requests are expected (flags {header.flags:#x})")
        if header.size > c.MAX_PAYLOAD:
            raise self._fail(f"{what}: payload of {header.size} bytes, at most {c.MAX_PAYLOAD} are read")

    def _name(self, header: structs.Header) -> str:
        row = self._table.get(header.request)
        return request_name(row.request if row is not None else header.request)

    def _read_request(self, row: RequestRow | None, header: structs.Header) -> Payload:
        """The payload of a request, Malformed when anything about the message is wrong."""
        if row is None:
            return Malformed("unknown request")
        if header.flags & ~c.REQUEST_FLAGS:
            return Malformed(f"flags {header.flags:#x} have bits set that no version defines")
        try:
            payload = structs.parse_payload(row.payload, bytes(self._received))
        except RequestError as error:
            return Malformed(error.reason)
        if self._has_late_fds:
            return Malformed(f"{len(self._fds)} fds came after the first byte of the message")
        lowest, highest = _fds_expected(row.fds, payload)
        if not lowest <= len(self._fds) <= highest:
            expected = f"{lowest}" if lowest == highest else f"{lowest} to {highest}"
            return Malformed(f"{len(self._fds)} fds came with it, expected {expected}")
        return payload


def _encode(request: int, flags: int, payload: Payload) -> bytes:
    content = structs.build_payload(payload)
    return structs.build_header(request, flags, len(content)) + content


def _fds_expected(rule: Fds, payload: Payload) -> tuple[int, int]:
    """The lowest and the highest number of fds that may come with ``payload``."""
    match rule, payload:
        case Fds.UNLESS_NOFD, VringFd(has_fd=has_fd) | VringArea(has_fd=has_fd):
            return int(has_fd), int(has_fd)
        case Fds.PER_REGION, MemTable(regions):
            return len(regions), len(regions)
        case Fds.AT_MOST_ONE, _:
            return 0, 1
        case Fds.ONE, _:
            return 1, 1
        case _:
            return 0, 0
