"""What the blocking and the asyncio front-end share: which replies are due, and fds on a socket."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections.abc import Container, Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vhostuser.errors import PeerError
from vhostuser.frontend.calls import Call
from vhostuser.wire.connection import Connection, Incoming
from vhostuser.wire.constants import MAX_FDS, Request
from vhostuser.wire.features import ProtocolFeature
from vhostuser.wire.messages import U64, MemTable, Reply
from vhostuser.wire.requests import FRONTEND_REQUESTS, ReplyKind

T = TypeVar("T")

Script = Generator[Call[Any], Any, T]
"""Requests in order: yields a call, is sent its answer, returns what came of it all."""

DEFAULT_TIMEOUT = 5.0
_CONTROL_SPACE = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


class Dialogue:
    """The front-end's end of the stream: which messages ask for a reply, and which replies are due."""

    def __init__(self, acks: Container[Request]) -> None:
        self.connection = Connection(FRONTEND_REQUESTS, Incoming.REPLIES)
        self.acks = acks
        self.protocol_features = ProtocolFeature(0)
        self.in_postcopy = False
        """Memory tables are answered with where the back-end mapped them, and that is acknowledged."""

    def encode(self, call: Call[Any], need_reply: bool | None) -> tuple[bytes, bool]:
        """The bytes of the request, and whether to wait for a reply."""
        row = FRONTEND_REQUESTS[call.request]
        can_ack = ProtocolFeature.REPLY_ACK in self.protocol_features
        asks = (can_ack and call.request in self.acks) if need_reply is None else need_reply
        if self.in_postcopy and row.reply is ReplyKind.OWN_IN_POSTCOPY:
            is_table = isinstance(call.payload, MemTable)
            return self.connection.encode_request(call.request, call.payload, need_reply or False), is_table
        match row.reply:
            case ReplyKind.OWN | ReplyKind.ALWAYS_U64:
                due = True
            case ReplyKind.OWN_WITH_LOG_SHMFD if ProtocolFeature.LOG_SHMFD in self.protocol_features:
                due = True
            case _:
                due = asks and can_ack
        return self.connection.encode_request(call.request, call.payload, asks), due

    def conclude(self, call: Call[T], reply: Reply | None) -> T:
        """What the caller gets; PeerError for a refusal, or a reply to something else."""
        if reply is not None and reply.request != call.request:
            raise PeerError(f"reply to {reply.request!r} where one to {call.request.name} was due")
        answer = call.read(reply)
        if call.request is Request.SET_PROTOCOL_FEATURES and isinstance(call.payload, U64):
            self.protocol_features = ProtocolFeature(call.payload.value)
        if call.request in (Request.POSTCOPY_LISTEN, Request.POSTCOPY_END):
            self.in_postcopy = call.request is Request.POSTCOPY_LISTEN
        return answer


def receive(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """One recvmsg: the bytes, and the fds that came with them, close-on-exec."""
    content, control, _, _ = sock.recvmsg(size, _CONTROL_SPACE, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, part in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(part[: len(part) - len(part) % fds.itemsize])
    return content, fds.tolist()


def ancillary(fds: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


@contextlib.contextmanager
def listening(path: str | Path) -> Generator[socket.socket, None, None]:
    """A listening socket at `path` for as long as the block runs. PeerError when it cannot be made."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(os.fspath(path))
        except OSError as error:
            raise PeerError(f"cannot listen on {path}: {error.strerror or error}") from error
        try:
            listener.listen(1)
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
