"""The blocking front-end: the driver's end of a vhost-user socket, one method for each request.

It can connect, listen for one back-end, or take a socket that is connected. Bytes and fds can also be sent as
they are, right or wrong. `async_frontend.py` is the same for an event loop.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from vhostuser.errors import PeerError
from vhostuser.frontend import calls
from vhostuser.frontend.calls import Call
from vhostuser.frontend.dialogue import DEFAULT_TIMEOUT, Dialogue, Script, ancillary, listening, receive
from vhostuser.frontend.timeouts import Deadline
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature
from vhostuser.wire.messages import Reply

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(make: Callable[P, Call[T]]) -> Callable[Concatenate[Frontend, P], T]:
    @functools.wraps(make)
    def method(self: Frontend, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.run(make(*args, **kwargs))

    return method


class Frontend:
    """A blocking front-end. Owns its socket; a context manager.

    Everything that goes wrong with the back-end is a PeerError: it refuses, answers something else, does not
    answer within `timeout`, or closes.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        acks: Container[Request] = frozenset(Request),
    ) -> None:
        """`acks` names the requests that ask for an acknowledgement once REPLY_ACK is negotiated."""
        self.socket = sock
        self.timeout = timeout
        self.dialogue = Dialogue(acks)
        sock.setblocking(True)

    @classmethod
    def connect(cls, path: str | Path, *, timeout: float = DEFAULT_TIMEOUT) -> Self:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(Deadline(timeout).left)
            sock.connect(os.fspath(path))
        except OSError as error:
            sock.close()
            raise PeerError(f"cannot connect to {path}: {error.strerror or error}") from error
        return cls(sock, timeout=timeout)

    @classmethod
    def listen(cls, path: str | Path, *, timeout: float = DEFAULT_TIMEOUT) -> Self:
        """Wait for one back-end to connect; the socket file is gone again when it has."""
        with listening(path) as listener:
            listener.settimeout(Deadline(timeout).left)
            try:
                sock, _ = listener.accept()
            except TimeoutError as error:
                raise PeerError(f"no back-end connected to {path} within {timeout} s") from error
        return cls(sock, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket, which ends the session at the back-end, and fds of a half-read reply."""
        for fd in self.dialogue.connection.pending_fds():
            os.close(fd)
        self.socket.close()

    @property
    def protocol_features(self) -> ProtocolFeature:
        """What was acknowledged with SET_PROTOCOL_FEATURES on this connection."""
        return self.dialogue.protocol_features

    def run(self, call: Call[T], *, need_reply: bool | None = None) -> T:
        """Send one request, wait for its reply if one is due, and read it.

        `need_reply` overrides what `acks` says for this message.
        """
        encoded, due = self.dialogue.encode(call, need_reply)
        self.send_raw(encoded, call.fds)
        return self.dialogue.conclude(call, self.receive_reply(call.request.name) if due else None)

    def run_script(self, script: Script[T]) -> T:
        """Run every call of a script in turn."""
        answer: Any = None
        while True:
            try:
                call = script.send(answer)
            except StopIteration as stop:
                result: T = stop.value
                return result
            answer = self.run(call)

    def send_raw(self, content: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes as they are; the fds go with the first of them."""
        try:
            self.socket.settimeout(Deadline(self.timeout).left)
            sent = self.socket.sendmsg([content], ancillary(fds))
            if sent < len(content):
                self.socket.sendall(content[sent:])
        except OSError as error:
            raise PeerError(f"back-end is gone: {error.strerror or error}") from error

    def receive_reply(self, what: str = "a request") -> Reply:
        """The next reply on the stream, whatever it answers. Its fds are the caller's."""
        deadline = Deadline(self.timeout)
        connection = self.dialogue.connection
        while (reply := connection.next_reply()) is None:
            try:
                self.socket.settimeout(max(deadline.left, 1e-6))
                content, fds = receive(self.socket, connection.bytes_wanted)
            except TimeoutError as error:
                raise PeerError(f"no reply to {what} within {deadline.seconds:g} s") from error
            except OSError as error:
                raise PeerError(f"no reply to {what}: {error.strerror or error}") from error
            connection.receive(content, fds)
            if not content:
                raise PeerError(f"back-end closed the connection instead of replying to {what}")
        return reply

    def wait_closed(self, timeout: float | None = None) -> bytes:
        """Wait until the back-end closes the connection; what it sent before that.

        PeerError when it keeps the connection open.
        """
        deadline = Deadline(self.timeout if timeout is None else timeout)
        received = bytearray()
        while True:
            try:
                self.socket.settimeout(max(deadline.left, 1e-6))
                content, fds = receive(self.socket, 4096)
            except TimeoutError as error:
                raise PeerError(f"connection still open after {deadline.seconds:g} s") from error
            except ConnectionError:
                return bytes(received)
            for fd in fds:
                os.close(fd)
            if not content:
                return bytes(received)
            received += content

    get_features = _blocking(calls.get_features)
    set_features = _blocking(calls.set_features)
    get_protocol_features = _blocking(calls.get_protocol_features)
    set_protocol_features = _blocking(calls.set_protocol_features)
    set_owner = _blocking(calls.set_owner)
    reset_owner = _blocking(calls.reset_owner)
    reset_device = _blocking(calls.reset_device)
    get_queue_num = _blocking(calls.get_queue_num)
    get_status = _blocking(calls.get_status)
    set_status = _blocking(calls.set_status)
    set_backend_req_fd = _blocking(calls.set_backend_req_fd)
    set_mem_table = _blocking(calls.set_mem_table)
    add_mem_reg = _blocking(calls.add_mem_reg)
    rem_mem_reg = _blocking(calls.rem_mem_reg)
    get_max_mem_slots = _blocking(calls.get_max_mem_slots)
    set_log_base = _blocking(calls.set_log_base)
    set_log_fd = _blocking(calls.set_log_fd)
    iotlb_msg = _blocking(calls.iotlb_msg)
    set_vring_num = _blocking(calls.set_vring_num)
    set_vring_addr = _blocking(calls.set_vring_addr)
    set_vring_base = _blocking(calls.set_vring_base)
    get_vring_base = _blocking(calls.get_vring_base)
    get_vring_base_skip_drain = _blocking(calls.get_vring_base_skip_drain)
    set_vring_kick = _blocking(calls.set_vring_kick)
    set_vring_call = _blocking(calls.set_vring_call)
    set_vring_err = _blocking(calls.set_vring_err)
    set_vring_enable = _blocking(calls.set_vring_enable)
    set_vring_endian = _blocking(calls.set_vring_endian)
    vring_kick = _blocking(calls.vring_kick)
    send_rarp = _blocking(calls.send_rarp)
    net_set_mtu = _blocking(calls.net_set_mtu)
    get_config = _blocking(calls.get_config)
    set_config = _blocking(calls.set_config)
    get_inflight_fd = _blocking(calls.get_inflight_fd)
    set_inflight_fd = _blocking(calls.set_inflight_fd)
    set_device_state_fd = _blocking(calls.set_device_state_fd)
    check_device_state = _blocking(calls.check_device_state)
    postcopy_advise = _blocking(calls.postcopy_advise)
    postcopy_listen = _blocking(calls.postcopy_listen)
    map_mem_table = _blocking(calls.map_mem_table)
    confirm_mem_table = _blocking(calls.confirm_mem_table)
    postcopy_end = _blocking(calls.postcopy_end)
