"""The front-end on an event loop; each test runs on uvloop and on asyncio's own."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.peer import Peer
from vhostuser.errors import PeerError
from vhostuser.frontend import calls
from vhostuser.frontend.async_frontend import AsyncFrontend
from vhostuser.frontend.dialogue import Script
from vhostuser.frontend.frontend import Frontend
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature, VirtioFeature
from vhostuser.wire.messages import U64, Inflight


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        peer.ours.setblocking(False)
        yield peer


async def test_answer_that_is_there_already_is_read(peer: Peer) -> None:
    peer.reply(Request.GET_FEATURES, U64(VirtioFeature.VERSION_1))
    async with AsyncFrontend(peer.theirs) as frontend:
        assert await frontend.get_features() == VirtioFeature.VERSION_1
    assert peer.received() == (Request.GET_FEATURES, 0x1, b"", 0)


async def test_loop_goes_on_while_an_answer_is_awaited(peer: Peer) -> None:
    async with AsyncFrontend(peer.theirs) as frontend:
        asking = asyncio.create_task(frontend.get_queue_num())
        await asyncio.get_running_loop().sock_recv(peer.ours, 1)
        assert not asking.done()
        peer.reply(Request.GET_QUEUE_NUM, U64(128))
        assert await asking == 128


async def test_acknowledgement_is_awaited_once_it_is_negotiated(peer: Peer) -> None:
    async with AsyncFrontend(peer.theirs) as frontend:
        await frontend.set_protocol_features(ProtocolFeature.REPLY_ACK)
        assert frontend.protocol_features == ProtocolFeature.REPLY_ACK
        peer.reply(Request.SET_OWNER, U64(1))
        with pytest.raises(PeerError, match="refused SET_OWNER"):
            await frontend.set_owner()


async def test_fds_go_both_ways(peer: Peer) -> None:
    fd = os.eventfd(0)
    peer.reply(Request.GET_INFLIGHT_FD, Inflight(4096, 0, 2, 256), (fd,))
    async with AsyncFrontend(peer.theirs) as frontend:
        await frontend.set_vring_kick(3, fd)
        _, region = await frontend.get_inflight_fd(2, 256)
    os.close(fd)
    os.close(region)
    assert peer.received() == (Request.SET_VRING_KICK, 0x1, (3).to_bytes(8, "little"), 1)


async def test_no_answer_in_time_says_to_what(peer: Peer) -> None:
    async with AsyncFrontend(peer.theirs, timeout=0.01) as frontend:
        with pytest.raises(PeerError, match="no reply to GET_FEATURES within"):
            await frontend.get_features()


async def test_peer_that_closes_instead_of_answering_is_named(peer: Peer) -> None:
    peer.ours.shutdown(socket.SHUT_WR)
    async with AsyncFrontend(peer.theirs) as frontend:
        with pytest.raises(PeerError, match="instead of replying to GET_FEATURES"):
            await frontend.get_features()


async def test_sending_to_a_peer_that_is_gone_is_its_fault(peer: Peer) -> None:
    peer.ours.close()
    async with AsyncFrontend(peer.theirs) as frontend:
        with pytest.raises(PeerError, match="back-end is gone"):
            await frontend.set_owner()


async def test_peer_that_reads_nothing_makes_sending_wait_then_fail(peer: Peer) -> None:
    async with AsyncFrontend(peer.theirs, timeout=0.05) as frontend:
        with pytest.raises(PeerError, match="back-end is gone"):
            await frontend.send_raw(bytes(64 << 20))


async def test_cancelled_wait_leaves_no_watch_behind(peer: Peer) -> None:
    async with AsyncFrontend(peer.theirs) as frontend:
        asking = asyncio.create_task(frontend.get_features())
        await asyncio.get_running_loop().sock_recv(peer.ours, 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert not asyncio.get_running_loop().remove_reader(frontend.socket.fileno())


async def test_script_is_sent_every_answer(peer: Peer) -> None:
    def script() -> Script[int]:
        pairs = yield calls.get_queue_num()
        yield calls.set_owner()
        return int(pairs) + 1

    peer.reply(Request.GET_QUEUE_NUM, U64(4))
    async with AsyncFrontend(peer.theirs) as frontend:
        assert await frontend.run_script(script()) == 5


async def test_listen_takes_the_first_back_end(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    listening = asyncio.create_task(AsyncFrontend.listen(path))
    with await asyncio.to_thread(Peer.connected, path) as back_end:
        async with await listening as frontend:
            await frontend.send_raw(b"x")
            assert back_end.recv(1) == b"x"
    assert not path.exists()


async def test_connect_reaches_who_listens(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.sock"))
        listener.listen()
        async with await AsyncFrontend.connect(tmp_path / "s.sock") as frontend:
            await frontend.send_raw(b"x")
            with listener.accept()[0] as accepted:
                assert accepted.recv(1) == b"x"


async def test_connect_to_nobody_says_where(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="cannot connect to"):
        await AsyncFrontend.connect(tmp_path / "none")


def test_both_faces_have_the_same_requests() -> None:
    blocking = {name for name in vars(Frontend) if name in vars(calls)}
    awaited = {name for name in vars(AsyncFrontend) if name in vars(calls)}
    assert blocking == awaited
    assert len(awaited) >= 40
