"""The blocking front-end against a peer whose bytes are written by hand."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.peer import Peer
from vhostuser.errors import FramingError, PeerError
from vhostuser.frontend import calls
from vhostuser.frontend.dialogue import Script
from vhostuser.frontend.frontend import Frontend
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature, VirtioFeature
from vhostuser.wire.messages import U64, Empty, Inflight


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


@pytest.fixture
def frontend(peer: Peer) -> Iterator[Frontend]:
    with Frontend(peer.theirs, timeout=5.0) as frontend:
        yield frontend


def test_get_features_asks_and_reads_the_answer(peer: Peer, frontend: Frontend) -> None:
    peer.reply(Request.GET_FEATURES, U64(VirtioFeature.VERSION_1))
    assert frontend.get_features() == VirtioFeature.VERSION_1
    assert peer.received() == (Request.GET_FEATURES, 0x1, b"", 0)


def test_request_without_a_reply_returns_at_once(peer: Peer, frontend: Frontend) -> None:
    frontend.set_features(0x12)
    assert peer.received() == (Request.SET_FEATURES, 0x1, (0x12).to_bytes(8, "little"), 0)


def test_fds_go_with_the_request_and_stay_ours(peer: Peer, frontend: Frontend) -> None:
    fd = os.eventfd(0)
    frontend.set_vring_call(1, fd)
    os.close(fd)
    assert peer.received() == (Request.SET_VRING_CALL, 0x1, (1).to_bytes(8, "little"), 1)


def test_acknowledgement_is_awaited_once_it_is_negotiated(peer: Peer, frontend: Frontend) -> None:
    frontend.set_protocol_features(ProtocolFeature.REPLY_ACK)
    peer.reply(Request.SET_OWNER, U64(0))
    frontend.set_owner()
    assert peer.received()[1] == 0x1
    assert peer.received()[:2] == (Request.SET_OWNER, 0x9)


def test_refusal_is_raised_and_the_next_request_works(peer: Peer, frontend: Frontend) -> None:
    frontend.set_protocol_features(ProtocolFeature.REPLY_ACK)
    peer.reply(Request.NET_SET_MTU, U64(1))
    with pytest.raises(PeerError, match="refused NET_SET_MTU"):
        frontend.net_set_mtu(0)
    peer.reply(Request.GET_FEATURES, U64(0))
    assert frontend.get_features() == 0


def test_reply_in_single_bytes_is_put_together(peer: Peer, frontend: Frontend) -> None:
    encoded = peer.encoded(Request.GET_QUEUE_NUM, U64(128))
    sender = threading.Thread(target=lambda: [peer.ours.send(bytes([byte])) for byte in encoded])
    sender.start()
    assert frontend.get_queue_num() == 128
    sender.join()


def test_fds_of_a_reply_are_the_callers(peer: Peer, frontend: Frontend) -> None:
    fd = os.eventfd(0)
    peer.reply(Request.GET_INFLIGHT_FD, Inflight(4096, 0, 2, 256), (fd,))
    os.close(fd)
    layout, region = frontend.get_inflight_fd(2, 256)
    assert layout.mmap_size == 4096
    os.close(region)


def test_no_answer_in_time_says_to_what(peer: Peer, frontend: Frontend) -> None:
    frontend.timeout = 0.01
    with pytest.raises(PeerError, match="no reply to GET_FEATURES within"):
        frontend.get_features()


def test_peer_that_closes_instead_of_answering_is_named(peer: Peer, frontend: Frontend) -> None:
    peer.ours.shutdown(socket.SHUT_WR)
    with pytest.raises(PeerError, match="closed the connection instead of replying to GET_FEATURES"):
        frontend.get_features()


def test_sending_to_a_peer_that_is_gone_is_its_fault(peer: Peer, frontend: Frontend) -> None:
    peer.ours.close()
    with pytest.raises(PeerError, match="back-end is gone"):
        frontend.set_owner()


def test_reply_with_wrong_flags_ends_the_conversation(peer: Peer, frontend: Frontend) -> None:
    """The flags of a reply are 5 and nothing else: virtio-user and QEMU compare for equality."""
    peer.ours.send(peer.encoded(Request.GET_FEATURES, U64(0)).replace(b"\x05\0\0\0", b"\x0d\0\0\0", 1))
    with pytest.raises(FramingError):
        frontend.get_features()


def test_fds_of_a_reply_that_is_cut_short_are_closed(peer: Peer, frontend: Frontend) -> None:
    fd = os.eventfd(0)
    peer.send(peer.encoded(Request.GET_INFLIGHT_FD, Inflight(4096, 0, 2, 256))[:14], (fd,))
    os.close(fd)
    peer.ours.shutdown(socket.SHUT_WR)
    with pytest.raises(PeerError, match="GET_INFLIGHT_FD"):
        frontend.get_inflight_fd(2, 256)


def test_raw_bytes_go_out_as_they_are(peer: Peer, frontend: Frontend) -> None:
    frontend.send_raw(b"\xff" * 11)
    assert peer.ours.recv(100) == b"\xff" * 11


def test_wait_closed_gives_what_came_before_the_end(peer: Peer, frontend: Frontend) -> None:
    peer.ours.send(b"last words")
    peer.ours.close()
    assert frontend.wait_closed() == b"last words"


def test_wait_closed_complains_of_a_connection_that_stays(peer: Peer, frontend: Frontend) -> None:
    with pytest.raises(PeerError, match="still open after"):
        frontend.wait_closed(0.01)


def test_script_is_sent_every_answer(peer: Peer, frontend: Frontend) -> None:
    def script() -> Script[int]:
        pairs = yield calls.get_queue_num()
        yield calls.set_owner()
        return int(pairs) + 1

    peer.reply(Request.GET_QUEUE_NUM, U64(4))
    assert frontend.run_script(script()) == 5
    assert [peer.received()[0], peer.received()[0]] == [Request.GET_QUEUE_NUM, Request.SET_OWNER]


def test_connect_reaches_who_listens(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with Frontend.connect(path) as frontend, listener.accept()[0] as accepted:
            frontend.send_raw(b"x")
            assert accepted.recv(1) == b"x"


def test_connect_to_nobody_says_where(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match=f"cannot connect to {tmp_path}/none: No such file"):
        Frontend.connect(tmp_path / "none")


def test_listen_takes_the_first_back_end(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    made: list[Frontend] = []
    listener = threading.Thread(target=lambda: made.append(Frontend.listen(path)))
    listener.start()
    with Peer.connected(path):
        listener.join()
        with made[0] as frontend:
            assert not path.exists()
            frontend.set_owner()


def test_listen_for_nobody_ends(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="no back-end connected"):
        Frontend.listen(tmp_path / "s.sock", timeout=0.01)


def test_every_call_is_a_method() -> None:
    for name, member in vars(calls).items():
        if callable(member) and getattr(member, "__module__", "") == calls.__name__ and name[0].islower():
            assert name == "memory_table" or getattr(Frontend, name).__doc__ == member.__doc__


def test_empty_payload_stays_empty(peer: Peer, frontend: Frontend) -> None:
    peer.reply(Request.POSTCOPY_ADVISE, Empty())
    assert frontend.postcopy_advise() is None
