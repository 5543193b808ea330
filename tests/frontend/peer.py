"""The other end of a front-end's socket, played by hand: replies can lie there before they are asked for."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from vhostuser.frontend.dialogue import ancillary, receive
from vhostuser.wire.connection import Connection
from vhostuser.wire.constants import Request
from vhostuser.wire.messages import Payload, Reply

HEADER = struct.Struct("=III")


class Peer:
    """A context manager around a socket pair; `theirs` is for the front-end, which owns it."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    @staticmethod
    def connected(path: Path) -> socket.socket:
        """A connection to `path`, which may come into being only in a moment."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        while True:
            try:
                sock.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.001)
            else:
                return sock

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.ours.close()
        self.theirs.close()

    def encoded(self, request: Request, payload: Payload) -> bytes:
        return Connection().encode(Reply(request, payload))

    def reply(self, request: Request, payload: Payload, fds: Sequence[int] = ()) -> None:
        self.send(self.encoded(request, payload), fds)

    def send(self, content: bytes, fds: Sequence[int] = ()) -> None:
        self.ours.sendmsg([content], ancillary(fds))

    def received(self) -> tuple[int, int, bytes, int]:
        """Request, flags, payload and number of fds of the next message; the fds are closed."""
        self.ours.settimeout(10)
        content, fds = receive(self.ours, HEADER.size)
        for fd in fds:
            os.close(fd)
        request, flags, size = HEADER.unpack(content)
        return request, flags, self.ours.recv(size) if size else b"", len(fds)
