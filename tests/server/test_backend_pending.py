"""Requests that a device answers later: the reader is unplugged meanwhile; the connection may end first."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from tests.server.conftest import until
from tests.session.fake_device import FakeDevice
from vhostuser.errors import RequestError
from vhostuser.server import backend
from vhostuser.server.backend import Backend
from vhostuser.server.transport import Transport
from vhostuser.session.device import Pending
from vhostuser.wire.constants import Request

LOG = logging.LoggerAdapter(logging.getLogger("vhostuser"), {})
HEADER = struct.Struct("=III")
STATE = struct.Struct("=II")


@dataclass
class LateDevice(FakeDevice):
    """A FakeDevice that a connection can be made with; ``deferred`` names what it answers later."""

    disconnected: int = 0
    is_quiet: bool = True
    work: Callable[[], None] = lambda: None
    """What `when_quiet` was last given."""

    def when_quiet(self, work: Callable[[], None]) -> None:
        self.work = work
        if self.is_quiet:
            work()

    def part(self, then: Callable[[], None]) -> None:
        then()

    def idle_reasons(self) -> dict[int, str]:
        return {}

    def disconnect(self) -> None:
        self.disconnected += 1


@dataclass
class Served:
    sock: socket.socket
    device: LateDevice
    backend: Backend
    ends: list[str] = field(default_factory=list)

    def ask(self, request: Request, payload: bytes = b"", flags: int = 0x9) -> None:
        self.sock.sendall(HEADER.pack(request, flags, len(payload)) + payload)

    async def reply(self) -> tuple[int, bytes]:
        loop = asyncio.get_running_loop()
        request, flags, size = HEADER.unpack(await loop.sock_recv(self.sock, HEADER.size))
        assert flags == 5
        return request, await loop.sock_recv(self.sock, size)

    async def ask_late(self) -> Pending:
        """GET_VRING_BASE of ring 3, until the device has been asked."""
        pending = self.device.deferred["get_vring_base"] = Pending()
        self.ask(Request.GET_VRING_BASE, STATE.pack(3, 0))
        await until(lambda: ("get_vring_base", 3) in self.device.calls)
        return pending

    def assert_silent(self) -> None:
        with pytest.raises(BlockingIOError):
            self.sock.recv(1)


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    device, ends = LateDevice(), list[str]()
    backend = Backend(Transport(theirs), device, LOG, ends.append)
    yield Served(mine, device, backend, ends)
    backend.close()
    mine.close()


async def turn() -> None:
    """Lets the loop look at every socket once."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_answer_that_comes_later_is_sent_and_the_reader_goes_on(served: Served) -> None:
    pending = await served.ask_late()
    served.assert_silent()

    pending.resolve(77)

    assert await served.reply() == (Request.GET_VRING_BASE, STATE.pack(3, 77))
    served.ask(Request.GET_FEATURES)
    assert (await served.reply())[0] == Request.GET_FEATURES


async def test_answer_that_is_there_at_once_is_sent(served: Served) -> None:
    pending = served.device.deferred["get_vring_base"] = Pending()
    pending.resolve(5)

    served.ask(Request.GET_VRING_BASE, STATE.pack(3, 0))

    assert await served.reply() == (Request.GET_VRING_BASE, STATE.pack(3, 5))


async def test_nothing_is_read_meanwhile(served: Served) -> None:
    pending = await served.ask_late()
    served.ask(Request.GET_FEATURES)
    served.ask(Request.GET_QUEUE_NUM)
    served.device.take_calls()
    await turn()
    served.assert_silent()

    pending.resolve(0)

    assert (await served.reply())[0] == Request.GET_VRING_BASE
    assert (await served.reply())[0] == Request.GET_FEATURES


async def test_refusal_that_comes_later_is_a_nack(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    served.ask(Request.SET_PROTOCOL_FEATURES, struct.pack("=Q", 1 << 3), flags=0x1)
    pending = served.device.deferred["set_mem_table"] = Pending()
    served.ask(Request.SET_MEM_TABLE, STATE.pack(0, 0))
    await until(lambda: any(call[0] == "set_mem_table" for call in served.device.calls))

    pending.resolve(RequestError("the table of 0 regions is too late"))

    request, content = await served.reply()
    assert (request, content != bytes(8)) == (Request.SET_MEM_TABLE, True)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        "refused: SET_MEM_TABLE: the table of 0 regions is too late"
    ]


async def test_refusal_without_a_nack_ends_the_connection(served: Served) -> None:
    pending = await served.ask_late()

    pending.resolve(RequestError("no base of 3"))

    assert served.ends == ["GET_VRING_BASE ring 3: no base of 3"]
    assert served.device.disconnected == 1


async def test_result_for_a_connection_that_closed_is_forgotten(served: Served) -> None:
    pending = await served.ask_late()
    served.backend.close("the server ends")

    pending.resolve(77)

    assert served.ends == ["the server ends"]
    assert served.sock.recv(1) == b""


async def test_front_end_that_goes_away_meanwhile_is_noticed_with_the_result(served: Served) -> None:
    pending = await served.ask_late()
    served.sock.close()
    await turn()
    assert served.ends == []
    assert served.backend.is_gone()

    pending.resolve(77)
    await until(lambda: bool(served.ends))

    assert served.device.disconnected == 1


async def test_result_that_never_comes_ends_the_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "RESULT_SECONDS", 0.05)
    pending = await served.ask_late()

    await until(lambda: bool(served.ends))

    assert served.ends == ["there is no result of GET_VRING_BASE after 0.05 s"]
    pending.resolve(77)
    assert served.device.disconnected == 1


async def test_mistake_of_ours_in_the_result_costs_this_connection_alone(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    pending = await served.ask_late()

    pending.resolve(None)  # GET_VRING_BASE has to have a number

    assert served.ends == ["internal error"]
    assert "our own bug" in caplog.text


async def test_message_waits_until_the_device_is_quiet_and_questions_do_not(served: Served) -> None:
    served.device.is_quiet = False
    served.ask(Request.GET_FEATURES)
    assert (await served.reply())[0] == Request.GET_FEATURES
    served.ask(Request.GET_VRING_BASE, STATE.pack(3, 0))
    served.ask(Request.GET_PROTOCOL_FEATURES)
    await turn()
    served.assert_silent()

    served.device.is_quiet = True
    served.device.work()

    assert (await served.reply())[0] == Request.GET_VRING_BASE
    assert (await served.reply())[0] == Request.GET_PROTOCOL_FEATURES


async def test_mistake_in_a_message_that_waited_ends_the_connection(served: Served) -> None:
    served.device.is_quiet = False
    served.ask(Request.GET_VRING_BASE, STATE.pack(256, 0))
    await turn()
    served.device.work()

    assert served.ends == ["GET_VRING_BASE ring 256: index out of range, this device serves 256 rings"]


async def test_front_end_that_goes_away_is_noticed_while_its_message_waits(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "HANG_UP_SECONDS", 0.01)
    served.device.is_quiet = False
    eventfd = os.eventfd(0)
    socket.send_fds(served.sock, [HEADER.pack(Request.SET_VRING_KICK, 1, 8) + bytes(8)], [eventfd])
    os.close(eventfd)
    await turn()
    served.sock.close()
    await until(lambda: bool(served.ends))
    served.device.work()

    assert served.ends == ["it went away while memory of its was waited for"]
    assert ("set_vring_kick", 0) not in [call[:2] for call in served.device.calls]
