"""A front-end of bytes and fds: nothing of the product's own wire code reads or writes what goes over it."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from vhostuser.frontend.timeouts import scaled

HEADER = struct.Struct("=III")
VERSION, REPLY, NEED_REPLY = 0x1, 0x4, 0x8
GET_FEATURES, SET_FEATURES, SET_PROTOCOL_FEATURES = 1, 2, 16
BIT_30 = 1 << 30
VERSION_1 = 1 << 32
REPLY_ACK = 1 << 3
SERVED_PROTOCOL = (
    1 << 0
    | 1 << 1
    | 1 << 2
    | REPLY_ACK
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 12
    | 1 << 13
    | 1 << 15
    | 1 << 16
    | 1 << 19
    | 1 << 20
    | 1 << 23
)
"""What this version offers without a config space, but for what changes the meaning of addresses."""
IN_BAND = 1 << 14
GPA_ADDRESSES = 1 << 21
GET_INFLIGHT_FD = 31


def u64(value: int) -> bytes:
    return struct.pack("=Q", value)


def state(index: int, num: int) -> bytes:
    return struct.pack("=II", index, num)


def address(index: int, desc: int, used: int, avail: int, flags: int = 0) -> bytes:
    return struct.pack("=IIQQQQ", index, flags, desc, used, avail, 0)


def iotlb(iova: int, size: int, uva: int, access: int, kind: int) -> bytes:
    return struct.pack("=QQQBB6x", iova, size, uva, access, kind)


def table(*regions: tuple[int, int, int, int], count: int | None = None) -> bytes:
    """Regions as gpa, size, uva, offset; ``count`` is what the table says of their number."""
    said = len(regions) if count is None else count
    return struct.pack("=II", said, 0) + b"".join(struct.pack("=QQQQ", *region) for region in regions)


def single(gpa: int, size: int, uva: int, offset: int = 0) -> bytes:
    """The one region of ADD_MEM_REG and REM_MEM_REG."""
    return struct.pack("=QQQQQ", 0, gpa, size, uva, offset)


def inflight(size: int, offset: int, num_queues: int, queue_size: int) -> bytes:
    """The form of 64-bit peers, with the tail that C adds."""
    return struct.pack("=QQHHI", size, offset, num_queues, queue_size, 0)


class PlainFrontend:
    """Connected at once. Every reply is read in one piece and has flags of exactly 5.

    The fds that come with replies are in ``fds``, and closed in the end.
    """

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        try:
            # Without a timeout: that would not wait for room in the backlog.
            self.sock.connect(str(path))
        except BaseException:
            self.sock.close()
            raise
        self.sock.settimeout(scaled(20))
        self.fds: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()
        close_all(self.fds)

    def send(
        self,
        request: int,
        body: bytes = b"",
        fds: Sequence[int] = (),
        *,
        flags: int = VERSION | NEED_REPLY,
        size: int | None = None,
    ) -> None:
        content = HEADER.pack(request, flags, len(body) if size is None else size) + body
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = self.sock.sendmsg([content], rights)
        # Not without content: that fails when the other end is closed, though all was sent.
        if sent < len(content):
            self.sock.sendall(content[sent:])

    def reply(self, request: int) -> bytes:
        """The payload of the next reply, which has to be one to ``request``."""
        content, fds, _, _ = socket.recv_fds(self.sock, 8192, 4)
        self.fds += fds
        assert content, "the connection ended"
        assert len(fds) == (1 if request == GET_INFLIGHT_FD else 0)
        number, flags, size = HEADER.unpack_from(content)
        assert (number, flags, size) == (request, VERSION | REPLY, len(content) - HEADER.size)
        return content[HEADER.size :]

    def ask(
        self, request: int, body: bytes = b"", fds: Sequence[int] = (), *, flags: int = VERSION | NEED_REPLY
    ) -> bytes:
        self.send(request, body, fds, flags=flags)
        return self.reply(request)

    def number(self, request: int, body: bytes = b"", fds: Sequence[int] = ()) -> int:
        """The u64 that the request is answered with: 0 is yes."""
        (value,) = struct.unpack("=Q", self.ask(request, body, fds))
        return int(value)

    def assert_no_reply(self) -> None:
        """What was sent is not answered, and the connection goes on: the next reply is to another request."""
        self.send(GET_FEATURES, flags=VERSION)
        self.reply(GET_FEATURES)

    def assert_ended(self) -> None:
        """The back-end has closed the connection, without another word."""
        # Reset, where it left something unread.
        with contextlib.suppress(ConnectionResetError):
            assert self.sock.recv(64) == b""

    def negotiate(self, protocol: int = SERVED_PROTOCOL, features: int | None = None) -> None:
        """Protocol features, and then features if any; from then on every refusal is an answer."""
        self.ask(GET_FEATURES, flags=VERSION)
        self.send(SET_PROTOCOL_FEATURES, u64(protocol), flags=VERSION)
        if features is not None:
            self.send(SET_FEATURES, u64(features), flags=VERSION)


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
