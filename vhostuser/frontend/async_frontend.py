"""The front-end on an event loop: `Frontend`'s methods, awaited."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from collections.abc import Callable, Container, Coroutine, Sequence
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


def _awaited(make: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncFrontend, P], Coroutine[Any, Any, T]]:
    @functools.wraps(make)
    async def method(self: AsyncFrontend, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.run(make(*args, **kwargs))

    return method


class AsyncFrontend:
    """What `Frontend` is, on an event loop. Owns its socket; an async context manager.

    One request at a time: a reply belongs to the request before it. `timeout` bounds each exchange; how long
    connecting or waiting for a back-end may take is for the caller's own `asyncio.timeout`.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        acks: Container[Request] = frozenset(Request),
    ) -> None:
        self.socket = sock
        self.timeout = timeout
        self.dialogue = Dialogue(acks)
        sock.setblocking(False)

    @classmethod
    async def connect(cls, path: str | Path) -> Self:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await asyncio.get_running_loop().sock_connect(sock, os.fspath(path))
        except OSError as error:
            sock.close()
            raise PeerError(f"cannot connect to {path}: {error.strerror or error}") from error
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    @classmethod
    async def listen(cls, path: str | Path) -> Self:
        """Wait for one back-end to connect; the socket file is gone again when it has."""
        with listening(path) as listener:
            listener.setblocking(False)
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
        return cls(sock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        for fd in self.dialogue.connection.pending_fds():
            os.close(fd)
        self.socket.close()

    @property
    def protocol_features(self) -> ProtocolFeature:
        return self.dialogue.protocol_features

    async def run(self, call: Call[T], *, need_reply: bool | None = None) -> T:
        encoded, due = self.dialogue.encode(call, need_reply)
        await self.send_raw(encoded, call.fds)
        return self.dialogue.conclude(call, await self.receive_reply(call.request.name) if due else None)

    async def run_script(self, script: Script[T]) -> T:
        answer: Any = None
        while True:
            try:
                call = script.send(answer)
            except StopIteration as stop:
                result: T = stop.value
                return result
            answer = await self.run(call)

    async def send_raw(self, content: bytes, fds: Sequence[int] = ()) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(Deadline(self.timeout).left):
                sent = 0
                while not sent and content:
                    try:
                        sent = self.socket.sendmsg([content], ancillary(fds))
                    except BlockingIOError:
                        await self._ready(loop.add_writer, loop.remove_writer)
                await loop.sock_sendall(self.socket, content[sent:])
        except OSError as error:
            raise PeerError(f"back-end is gone: {error.strerror or error}") from error

    async def receive_reply(self, what: str = "a request") -> Reply:
        loop = asyncio.get_running_loop()
        connection = self.dialogue.connection
        deadline = Deadline(self.timeout)
        try:
            async with asyncio.timeout(deadline.left):
                while (reply := connection.next_reply()) is None:
                    try:
                        content, fds = receive(self.socket, connection.bytes_wanted)
                    except BlockingIOError:
                        await self._ready(loop.add_reader, loop.remove_reader)
                        continue
                    connection.receive(content, fds)
                    if not content:
                        raise PeerError(f"back-end closed the connection instead of replying to {what}")
        except TimeoutError as error:
            raise PeerError(f"no reply to {what} within {deadline.seconds:g} s") from error
        except OSError as error:
            raise PeerError(f"no reply to {what}: {error.strerror or error}") from error
        return reply

    async def _ready(self, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        """Wait for readiness. recvmsg with fds is no call of asyncio's, so the socket is watched by hand.

        The watch is gone again before anybody can close the socket: uvloop aborts the process otherwise.
        """
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        fd = self.socket.fileno()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        add(fd, wake)
        try:
            await ready
        finally:
            remove(fd)

    get_features = _awaited(calls.get_features)
    set_features = _awaited(calls.set_features)
    get_protocol_features = _awaited(calls.get_protocol_features)
    set_protocol_features = _awaited(calls.set_protocol_features)
    set_owner = _awaited(calls.set_owner)
    reset_owner = _awaited(calls.reset_owner)
    reset_device = _awaited(calls.reset_device)
    get_queue_num = _awaited(calls.get_queue_num)
    get_status = _awaited(calls.get_status)
    set_status = _awaited(calls.set_status)
    set_backend_req_fd = _awaited(calls.set_backend_req_fd)
    set_mem_table = _awaited(calls.set_mem_table)
    add_mem_reg = _awaited(calls.add_mem_reg)
    rem_mem_reg = _awaited(calls.rem_mem_reg)
    get_max_mem_slots = _awaited(calls.get_max_mem_slots)
    set_log_base = _awaited(calls.set_log_base)
    set_log_fd = _awaited(calls.set_log_fd)
    iotlb_msg = _awaited(calls.iotlb_msg)
    set_vring_num = _awaited(calls.set_vring_num)
    set_vring_addr = _awaited(calls.set_vring_addr)
    set_vring_base = _awaited(calls.set_vring_base)
    get_vring_base = _awaited(calls.get_vring_base)
    get_vring_base_skip_drain = _awaited(calls.get_vring_base_skip_drain)
    set_vring_kick = _awaited(calls.set_vring_kick)
    set_vring_call = _awaited(calls.set_vring_call)
    set_vring_err = _awaited(calls.set_vring_err)
    set_vring_enable = _awaited(calls.set_vring_enable)
    set_vring_endian = _awaited(calls.set_vring_endian)
    vring_kick = _awaited(calls.vring_kick)
    send_rarp = _awaited(calls.send_rarp)
    net_set_mtu = _awaited(calls.net_set_mtu)
    get_config = _awaited(calls.get_config)
    set_config = _awaited(calls.set_config)
    get_inflight_fd = _awaited(calls.get_inflight_fd)
    set_inflight_fd = _awaited(calls.set_inflight_fd)
    set_device_state_fd = _awaited(calls.set_device_state_fd)
    check_device_state = _awaited(calls.check_device_state)
    postcopy_advise = _awaited(calls.postcopy_advise)
    postcopy_listen = _awaited(calls.postcopy_listen)
    map_mem_table = _awaited(calls.map_mem_table)
    confirm_mem_table = _awaited(calls.confirm_mem_table)
    postcopy_end = _awaited(calls.postcopy_end)
