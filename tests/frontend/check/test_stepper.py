from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.frontend.backend_double import FEATURES, BackendDouble
from vhostuser.frontend.check.peer import Offer, Peer
from vhostuser.frontend.check.stepper import RX, TX, Stepper
from vhostuser.wire.constants import Request
from vhostuser.wire.features import VirtioFeature


@pytest.fixture
def stepper(backend: BackendDouble) -> Iterator[Stepper]:
    with Peer(backend.path, Offer(), 5) as peer, peer.stepper() as stepper:
        backend.requests.clear()
        yield stepper


def test_items_come_in_the_usual_order_each_acknowledged(backend: BackendDouble, stepper: Stepper) -> None:
    stepper.say_all()
    said = [name for name in backend.named() if name != "GET_FEATURES"]
    assert said == [
        "SET_FEATURES",
        "SET_MEM_TABLE",
        *(
            f"{name} {index}"
            for name in (
                "SET_VRING_NUM",
                "SET_VRING_BASE",
                "SET_VRING_ADDR",
                "SET_VRING_CALL",
                "SET_VRING_KICK",
                "SET_VRING_ENABLE",
            )
            for index in (RX, TX)
        ),
    ]
    assert all(asked for request, _, asked in backend.requests if request is not Request.GET_FEATURES)


def test_items_can_be_left_out_and_named_for_one_ring(backend: BackendDouble, stepper: Stepper) -> None:
    stepper.say_all("kick", "enable", "features", "memory")
    assert not any("KICK" in name for name in backend.named())
    backend.requests.clear()
    stepper.say("err", TX)
    assert backend.named()[0] == "SET_VRING_ERR 1"


def test_stop_ring_keeps_the_base(backend: BackendDouble, stepper: Stepper) -> None:
    stepper.say_all()
    stepper.send(bytes(60))
    stepper.recv()
    assert stepper.used() == (1, 1)
    assert stepper.stop_ring(TX) == 1
    assert stepper.nic.rings[TX].base == 1


def test_calls_are_counted(backend: BackendDouble, stepper: Stepper) -> None:
    stepper.say_all()
    assert stepper.read_call(TX) == 0
    stepper.send(bytes(60))
    stepper.wait_sent()
    stepper.recv()
    assert stepper.read_call(TX) <= 1
    assert stepper.read_call(TX) == 0


def test_rings_are_not_enabled_without_bit_30(tmp_path: object) -> None:
    path = f"{tmp_path}/legacy.sock"
    with (
        BackendDouble(path, features=FEATURES & ~VirtioFeature.PROTOCOL_FEATURES) as backend,
        Peer(path, Offer(), 5) as peer,
        peer.stepper() as stepper,
    ):
        stepper.say_all()
        assert not any("ENABLE" in name for name in backend.named())
