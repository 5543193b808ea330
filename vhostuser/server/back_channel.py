"""The back-end's own requests on the loop: the socket that SET_BACKEND_REQ_FD brought.

A front-end that closes it, does not read it or answers nonsense loses this channel and nothing else: its
rings and its main connection go on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vhostuser.datapath.reaper import reaper
from vhostuser.errors import FramingError, RequestError
from vhostuser.server.transport import Transport
from vhostuser.session.channel import BackendChannel
from vhostuser.wire.constants import BackendRequest
from vhostuser.wire.features import ProtocolFeature
from vhostuser.wire.payloads import Payload

MOST_UNSENT: Final = 1 << 16
"""Bytes that wait for a front-end to read; it has a socket's buffer of them before that."""
MOST_UNANSWERED: Final = 1024
"""Four for each ring of a device: no more is ever asked for at once."""
_ANSWERS_A_TURN = 64


@dataclass(frozen=True, slots=True, eq=False)
class _Forward:
    fd: int
    request: BackendRequest
    payload: Payload

    def take(self) -> bool:
        """Whether something was written since the last time."""
        try:
            return os.eventfd_read(self.fd) > 0
        except BlockingIOError:
            return False


class SocketBackChannel:
    """Implements `net.back_channel.BackChannel`. ``on_lost`` is called once, unless `close` comes first."""

    def __init__(
        self,
        fd: int,
        acked: ProtocolFeature,
        on_lost: Callable[[], None],
        *,
        log: logging.LoggerAdapter[logging.Logger],
    ) -> None:
        """Takes ``fd``, also when it raises RequestError: when it is not a stream socket."""
        self._transport = Transport(_stream_socket(fd))
        self._channel = BackendChannel(acked)
        self._on_lost = on_lost
        self._log = log
        self._unsent = b""
        self._waiting: deque[Callable[[bool], None]] = deque()
        """Who waits for the answers that are due, in order."""
        self._forwards: dict[int, _Forward] = {}
        self._open = True
        self._loop = asyncio.get_running_loop()
        try:
            self._loop.add_reader(self._transport.fileno(), self._on_readable)
        except OSError as error:
            reaper.close([self._transport.detach()])
            raise RequestError(f"the kernel does not watch this socket: {error.strerror}") from None

    def ask(self, request: BackendRequest, payload: Payload, then: Callable[[bool], None]) -> None:
        if not self._open:
            return
        due = self._channel.unanswered
        content = self._channel.encode(request, payload, want_ack=True)
        if self._channel.unanswered > due:
            self._waiting.append(then)
        if len(self._waiting) > MOST_UNANSWERED:
            self._lose(f"{MOST_UNANSWERED} requests wait for an answer")
        elif len(self._unsent) + len(content) > MOST_UNSENT:
            self._lose("the front-end does not read it")
        else:
            self._send(content)

    def forward(self, fd: int, request: BackendRequest, payload: Payload) -> None:
        if self._open:
            self._forwards[fd] = forward = _Forward(fd, request, payload)
            self._listen_to(forward)

    def withdraw(self, fd: int) -> None:
        forward = self._forwards.pop(fd, None)
        if forward is not None:
            self._loop.remove_reader(fd)
            if forward.take():
                self.ask(forward.request, forward.payload, lambda is_fine: None)

    def _listen_to(self, forward: _Forward) -> None:
        # It may have been withdrawn since, and its number be another's.
        if self._forwards.get(forward.fd) is forward:
            self._loop.add_reader(forward.fd, self._on_written, forward)

    def _on_written(self, forward: _Forward) -> None:
        self._loop.remove_reader(forward.fd)
        forward.take()
        due = self._channel.unanswered
        self.ask(forward.request, forward.payload, lambda is_fine: self._listen_to(forward))
        if self._channel.unanswered == due:
            self._listen_to(forward)  # no answer can be asked for

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        for fd in self._forwards:
            self._loop.remove_reader(fd)
        self._forwards.clear()
        # Both loops go deaf, and uvloop aborts, when an fd is closed before it is removed.
        self._loop.remove_reader(self._transport.fileno())
        self._loop.remove_writer(self._transport.fileno())
        # The front-end's file: closing it may take as long as SO_LINGER says.
        reaper.close([self._transport.detach(), *self._channel.pending_fds()])
        self._waiting.clear()

    def _send(self, content: bytes) -> None:
        is_blocked = bool(self._unsent)
        self._unsent += content
        if not is_blocked:
            self._on_writable()
            if self._open and self._unsent:
                self._loop.add_writer(self._transport.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        try:
            self._unsent = self._unsent[self._transport.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error)
            return
        if not self._unsent:
            self._loop.remove_writer(self._transport.fileno())

    def _on_readable(self) -> None:
        try:
            for _ in range(_ANSWERS_A_TURN):
                if not self._open or not self._read_answer():
                    return
        except BlockingIOError:
            pass
        except FramingError as error:
            self._lose(str(error))
        except OSError as error:
            self._fail(error)

    def _read_answer(self) -> bool:
        while wanted := self._channel.bytes_wanted:
            chunk, fds = self._transport.read(wanted)
            if not chunk:
                reaper.close(fds)
                self._fail(ConnectionResetError())
                return False
            self._channel.receive(chunk, fds)
        answer = self._channel.next_ack()
        assert answer is not None
        reaper.close(answer.fds)
        self._waiting.popleft()(answer.is_fine)
        return True

    def _fail(self, error: OSError) -> None:
        """No complaint where it is closed: that comes with the end of each connection, before or after it."""
        if isinstance(error, ConnectionError):
            self._lose("the front-end has closed it", logging.INFO)
        else:
            self._lose(error.strerror or str(error))

    def _lose(self, reason: str, level: int = logging.WARNING) -> None:
        self._log.log(level, "the channel for the back-end's own requests is gone: %s", reason)
        self.close()
        self._on_lost()


def _stream_socket(fd: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        reaper.close([fd])
        raise RequestError(
            f"fd is not a socket, which the back-end's own requests need: {error.strerror}"
        ) from None
    if sock.type != socket.SOCK_STREAM:
        kind = sock.type
        reaper.close([sock.detach()])
        raise RequestError(f"fd is a socket of type {kind}, the back-end's own requests need a stream")
    return sock
