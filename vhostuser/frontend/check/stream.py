"""One connection as bytes and fds: messages right and wrong, and every reply looked at to the last bit.

Not here: what messages mean (`calls.py`), or a stream that may be trusted (`frontend.py`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios
import time
from collections.abc import Iterator, Sequence

from vhostuser.errors import PeerError
from vhostuser.frontend.check.model import CheckFailedError, expect
from vhostuser.frontend.dialogue import ancillary, receive
from vhostuser.frontend.timeouts import Deadline
from vhostuser.wire.constants import FLAG_NEED_REPLY, REPLY_FLAGS, VERSION, Request
from vhostuser.wire.features import ProtocolFeature

HEADER = struct.Struct("=III")
ASKING = VERSION | FLAG_NEED_REPLY
U64_SIZE = 8
_TAKEN_WITHIN = 0.05


def u64(value: int) -> bytes:
    return struct.pack("=Q", value)


def number(content: bytes) -> int:
    """What `u64` made; CheckFailedError for a reply of another size."""
    expect(len(content) == U64_SIZE, "a reply of 8 bytes", f"{len(content)} bytes")
    (value,) = struct.unpack("=Q", content)
    return int(value)


def state(index: int, num: int) -> bytes:
    """Index and number: the payload of SET_VRING_NUM and its kind."""
    return struct.pack("=II", index, num)


def address(index: int, desc: int, used: int, avail: int, flags: int = 0) -> bytes:
    return struct.pack("=IIQQQQ", index, flags, desc, used, avail, 0)


def table(*regions: tuple[int, int, int, int], count: int | None = None) -> bytes:
    """Regions as gpa, size, uva, offset; `count` is what the table says of their number."""
    said = len(regions) if count is None else count
    return struct.pack("=II", said, 0) + b"".join(struct.pack("=QQQQ", *region) for region in regions)


def message(request: int, body: bytes = b"", flags: int = VERSION, size: int | None = None) -> bytes:
    return HEADER.pack(request, flags, len(body) if size is None else size) + body


def name_of(request: int) -> str:
    try:
        return Request(request).name
    except ValueError:
        return f"request {request}"


@contextlib.contextmanager
def eventfds(count: int = 1) -> Iterator[list[int]]:
    fds = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(count)]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


@contextlib.contextmanager
def memfds(count: int = 1, size: int = 4096) -> Iterator[list[int]]:
    fds = []
    try:
        for _ in range(count):
            fds.append(os.memfd_create("guest"))
            os.ftruncate(fds[-1], size)
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


class Stream:
    """A connection. Whoever opened it closes it; PeerError when the back-end goes away."""

    def __init__(self, sock: socket.socket, patience: float) -> None:
        self.socket = sock
        self.patience = patience
        self.acks = False
        """Whether REPLY_ACK is negotiated, so that a refusal can be seen."""

    def close(self) -> None:
        self.socket.close()

    # Sending

    def send(
        self,
        request: int,
        body: bytes = b"",
        fds: Sequence[int] = (),
        *,
        flags: int = VERSION,
        size: int | None = None,
    ) -> None:
        self.send_bytes(message(request, body, flags, size), fds)

    def send_bytes(self, content: bytes, fds: Sequence[int] = ()) -> None:
        """As they are; the fds ride on the first byte."""
        try:
            self.socket.settimeout(Deadline(self.patience).left)
            sent = self.socket.sendmsg([content], ancillary(fds))
            if sent < len(content):
                self.socket.sendall(content[sent:])
        except OSError as error:
            raise PeerError(f"the back-end has closed the connection ({error.strerror or error})") from error

    def wait_taken(self) -> None:
        """Until the back-end has read all that was sent, or some milliseconds, for it may never."""
        deadline = Deadline(_TAKEN_WITHIN)
        while deadline.left:
            (unread,) = struct.unpack("i", fcntl.ioctl(self.socket, termios.TIOCOUTQ, bytes(4)))
            if not unread:
                return
            time.sleep(0.0002)

    # What comes back

    def receive(self, what: str) -> tuple[int, bytes] | None:
        """Request and payload of the next reply, whose flags are right; None at the end of the stream."""
        header = self._exactly(HEADER.size, what)
        if header is None:
            return None
        request, flags, size = HEADER.unpack(header)
        expect(flags == REPLY_FLAGS, f"flags {REPLY_FLAGS:#x} in the reply to {what}", f"flags {flags:#x}")
        expect(size <= 4096, f"a reply to {what} of a sane size", f"{size} bytes announced")
        payload = self._exactly(size, what) if size else b""
        if payload is None:
            raise CheckFailedError(f"a whole reply to {what}", "the end of the connection inside it")
        return request, payload

    def _exactly(self, size: int, what: str) -> bytes | None:
        deadline, content = Deadline(self.patience), b""
        while len(content) < size:
            try:
                self.socket.settimeout(max(deadline.left, 1e-6))
                part, fds = receive(self.socket, size - len(content))
            except TimeoutError:
                raise CheckFailedError(
                    f"a reply to {what} within {deadline.seconds:g} s",
                    f"{len(content)} of {size} bytes" if content else "nothing",
                ) from None
            except ConnectionError:
                part, fds = b"", []
            for fd in fds:
                os.close(fd)
            if not part:
                return None
            content += part
        return content

    def reply(self, request: int) -> bytes:
        """The payload of the next reply, which is one to `request`."""
        what = name_of(request)
        found = self.receive(what)
        if found is None:
            raise CheckFailedError(f"a reply to {what}", "the end of the connection")
        expect(found[0] == request, f"a reply to {what}", f"one to {name_of(found[0])}")
        return found[1]

    def ask(self, request: int, body: bytes = b"", fds: Sequence[int] = (), *, flags: int = VERSION) -> bytes:
        self.send(request, body, fds, flags=flags)
        return self.reply(request)

    def do(self, request: int, body: bytes = b"", fds: Sequence[int] = ()) -> None:
        """A request that has to be accepted: acknowledged with 0, or, without REPLY_ACK, survived."""
        if not self.acks:
            self.send(request, body, fds)
            self.assert_silent(request)
            return
        value = number(self.ask(request, body, fds, flags=ASKING))
        expect(value == 0, f"{name_of(request)} to be accepted", f"it was refused with {value:#x}")

    def assert_silent(self, request: int) -> None:
        """What was sent is not answered, and the connection goes on: the next reply is to GET_FEATURES."""
        what = name_of(request)
        try:
            self.send(Request.GET_FEATURES)
            found = self.receive(what)
        except PeerError:
            found = None
        if found is None:
            raise CheckFailedError(f"the connection to go on after {what}", "its end")
        expect(
            found[0] == Request.GET_FEATURES,
            f"no reply to {what}",
            f"a reply to {name_of(found[0])} of {len(found[1])} bytes",
        )

    def refuses(self, request: int, body: bytes = b"", fds: Sequence[int] = ()) -> None:
        """A request that has to be refused: with a number that is not 0, or by the end of the connection.

        Without REPLY_ACK a refusal cannot be told from silence; then all that counts is that nothing
        answers.
        """
        try:
            self.send(request, body, fds, flags=ASKING if self.acks else VERSION)
            found = self.receive(name_of(request)) if self.acks else None
        except PeerError:
            return
        if found is not None:
            value = number(found[1])
            expect(value != 0, f"{name_of(request)} to be refused", "an acknowledgement of 0")

    def is_over(self) -> bool:
        """Whether the back-end closes the connection within a moment."""
        try:
            self.send(Request.GET_FEATURES)
            return self.receive("GET_FEATURES") is None
        except PeerError:
            return True

    def survive_bad(self, request: int, body: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Any answer or none is fine, as is the end: what counts comes after it, on a new connection."""
        with contextlib.suppress(PeerError):
            self.send(request, body, fds)

    # Set-up

    def negotiate(self, protocol: ProtocolFeature, features: int | None = None) -> None:
        """Protocol features out of `protocol` that are offered, then features if any."""
        if protocol:
            offered = ProtocolFeature(number(self.ask(Request.GET_PROTOCOL_FEATURES)))
            self.send(Request.SET_PROTOCOL_FEATURES, u64(int(offered & protocol)))
            self.acks = ProtocolFeature.REPLY_ACK in offered & protocol
        if features is not None:
            self.do(Request.SET_FEATURES, u64(features))
