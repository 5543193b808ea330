from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.frontend.backend_double import BackendDouble
from vhostuser.frontend.check import traffic
from vhostuser.frontend.check.model import CheckFailedError
from vhostuser.frontend.check.peer import Offer, Peer

OFFER = Offer(echoes=True)


@pytest.fixture
def peer(backend: BackendDouble) -> Iterator[Peer]:
    with Peer(backend.path, OFFER, 0.5) as peer:
        yield peer


def test_frames_differ_and_have_the_wanted_size() -> None:
    assert len({traffic.frame(n) for n in range(300)}) == 300
    assert len(traffic.frame(1, 1514)) == 1514
    assert traffic.frame(1)[14:18] == traffic.MARK


def test_frames_pass_on_every_pair(peer: Peer) -> None:
    with peer.driver(queue_pairs=2) as driver:
        traffic.settle(peer, driver)
        came = traffic.pass_frames(peer, driver, 9, pair=1)
    assert [received.frame for received in came] == [traffic.frame(n) for n in range(9)]


def test_a_lost_frame_is_found(backend: BackendDouble, peer: Peer) -> None:
    with peer.driver() as driver:
        traffic.settle(peer, driver)
        backend.swallow = 1
        with pytest.raises(
            CheckFailedError, match=r"saw a frame of 60 bytes|saw another frame|no frame of ours"
        ):
            traffic.pass_frames(peer, driver, 1)


def test_a_changed_byte_is_named(backend: BackendDouble, peer: Peer) -> None:
    with peer.driver() as driver:
        traffic.settle(peer, driver)
        backend.change = lambda frame: frame[:30] + b"\xff" + frame[31:]
        with pytest.raises(CheckFailedError, match=r"byte 30 is 0xff, not 0x"):
            traffic.pass_frames(peer, driver, 1)
        backend.change = lambda frame: frame + b"x"
        with pytest.raises(CheckFailedError, match="a frame of 61 bytes for one of 60"):
            traffic.pass_frames(peer, driver, 1)


def test_others_frames_are_passed_over(backend: BackendDouble, peer: Peer) -> None:
    with peer.driver() as driver:
        driver.send(bytes(60))
        driver.send(traffic.frame(1))
        assert traffic.await_frame(peer, driver, traffic.frame(1)).frame == traffic.frame(1)


def test_chains_that_are_kept_are_counted(backend: BackendDouble, peer: Peer) -> None:
    with peer.driver() as driver:
        driver.enable(0, False)
        driver.send(traffic.frame(1))
        traffic.assert_untouched(driver, "while disabled")
        with pytest.raises(CheckFailedError, match="1 of 1 still out"):
            traffic.wait_used(peer, driver)


def test_chains_given_back_are_found(backend: BackendDouble, peer: Peer) -> None:
    with peer.driver() as driver:
        driver.send(traffic.frame(1))
        with pytest.raises(CheckFailedError, match="no chain given back at rest, saw 1 given back"):
            traffic.assert_untouched(driver, "at rest")


def test_frames_are_not_waited_for_where_none_come_back(backend: BackendDouble, peer: Peer) -> None:
    backend.swallow = 1 << 30
    quiet = Peer(backend.path, replace(OFFER, echoes=False), 0.5)
    with quiet, quiet.driver() as driver:
        traffic.settle(quiet, driver)
        assert traffic.pass_frames(quiet, driver, 4) == []
    with pytest.raises(CheckFailedError, match=r"frames back within .* of a start"), peer.driver() as driver:
        traffic.settle(peer, driver)
