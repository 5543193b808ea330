"""The order as the trace of QEMU 7.2 has it."""

from __future__ import annotations

from tests.frontend.backend_double import BackendDouble
from vhostuser.frontend.check.peer import Offer, Peer
from vhostuser.wire.constants import Request


def test_order_of_one_pair(backend: BackendDouble) -> None:
    with Peer(backend.path, Offer(), 5) as peer, peer.old_qemu() as driver:
        driver.frontend.get_features()
        said = backend.named()[:-1]
        driver.send(bytes(60))
        assert driver.recv(5).frame == bytes(60)
        backend.requests.clear()
        driver.stop()
        assert backend.named() == ["GET_VRING_BASE 0", "GET_VRING_BASE 1"]
    assert said == [
        "GET_FEATURES",
        "GET_PROTOCOL_FEATURES",
        "SET_PROTOCOL_FEATURES",
        "GET_QUEUE_NUM",
        "SET_BACKEND_REQ_FD",
        "SET_OWNER",
        "GET_FEATURES",
        "SET_VRING_CALL 0",
        "SET_VRING_CALL 1",
        "SET_FEATURES",
        "SET_MEM_TABLE",
        *(
            f"SET_VRING_{name} {index}"
            for index in range(2)
            for name in ("NUM", "BASE", "ADDR", "KICK", "CALL")
        ),
        "SET_VRING_ENABLE 0",
        "SET_VRING_ENABLE 1",
    ]


def test_only_what_it_waits_for_asks_for_an_acknowledgement(backend: BackendDouble) -> None:
    with Peer(backend.path, Offer(), 5) as peer, peer.old_qemu(queue_pairs=2):
        asked = {request for request, _, need_reply in backend.requests if need_reply}
    assert asked == {Request.SET_MEM_TABLE, Request.SET_BACKEND_REQ_FD}


def test_it_starts_again_where_it_stopped(backend: BackendDouble) -> None:
    with Peer(backend.path, Offer(), 5) as peer, peer.old_qemu() as driver:
        driver.send(bytes(60))
        driver.recv(5)
        driver.stop()
        driver.start()
        assert [ring.base for ring in driver.nic.rings] == [1, 1]
        driver.send(bytes(60))
        assert driver.recv(5).frame == bytes(60)
