from __future__ import annotations

from pathlib import Path

import pytest

from vhostuser.errors import PeerError
from vhostuser.frontend.check.peer import Offer, Peer, connect
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature


def test_connect_to_nobody_is_a_peer_error(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="cannot connect"):
        connect(tmp_path / "none.sock", 1)


def test_what_was_opened_is_closed_with_the_peer(echo_path: Path, offer: Offer) -> None:
    with Peer(echo_path, offer, 5) as peer:
        stream, frontend = peer.talk(), peer.frontend()
    assert (stream.socket.fileno(), frontend.socket.fileno()) == (-1, -1)


def test_abort_wakes_whoever_waits(peer: Peer) -> None:
    stream = peer.stream()
    peer.abort()
    assert stream.receive("nothing") is None
    with pytest.raises(PeerError):
        stream.send(Request.GET_FEATURES)


def test_talk_has_acknowledgements(peer: Peer) -> None:
    assert peer.talk().acks
    assert ProtocolFeature.REPLY_ACK in peer.acked_protocol
    assert ProtocolFeature.LOG_SHMFD not in peer.acked_protocol


def test_driver_runs_inside_its_block(peer: Peer) -> None:
    with peer.driver() as driver:
        driver.send(bytes(60))
        assert driver.recv(5).frame == bytes(60)
    assert not driver.running


def test_stepper_has_said_nothing_of_rings(peer: Peer) -> None:
    with peer.stepper() as stepper:
        assert stepper.features
        assert stepper.used() == (0, 0)
        stepper.say_all()
        stepper.send(bytes(60))
        assert stepper.recv(5).frame == bytes(60)
