from __future__ import annotations

import pytest

from tests.session.fake_device import PROTOCOL_OFFER, FakeDevice
from tests.session.talk import Talk
from vhostuser.errors import RequestError
from vhostuser.session.device import Pending
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.messages import U64, Reply, TransferState, VringFd, VringState

R = Request
ACCEPTED, REFUSED = U64(0x100), U64(0x101)
SAVE, LOAD = TransferState(0, 0), TransferState(1, 0)


@pytest.fixture
def talk() -> Talk:
    """DEVICE_STATE is acknowledged, and nothing else was said: no features, no rings."""
    talk = Talk(FakeDevice(protocol_features=PROTOCOL_OFFER | P.DEVICE_STATE))
    talk.send(R.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER | P.DEVICE_STATE)))
    talk.device.take_calls()
    return talk


def set_fd(talk: Talk, transfer: TransferState) -> object:
    reply = talk.send(R.SET_DEVICE_STATE_FD, transfer, [9])
    assert isinstance(reply, Reply)
    return reply.payload


@pytest.mark.parametrize("transfer", [SAVE, LOAD])
def test_transfer_is_accepted_before_anything_else_is_said(talk: Talk, transfer: TransferState) -> None:
    assert set_fd(talk, transfer) == ACCEPTED

    assert talk.device.take_calls() == [("set_device_state_fd", transfer.direction, 9)]
    assert len(talk.bag) == 0


@pytest.mark.parametrize("transfer", [TransferState(2, 0), TransferState(0xFFFFFFFF, 0), TransferState(0, 1)])
def test_direction_or_phase_that_does_not_exist_is_refused(talk: Talk, transfer: TransferState) -> None:
    assert set_fd(talk, transfer) == REFUSED

    assert talk.device.take_calls() == []
    assert len(talk.bag) == 1, "the fd stays in the bag, to be closed"


@pytest.mark.parametrize("transfer", [SAVE, LOAD])
def test_device_with_a_started_ring_is_refused(talk: Talk, transfer: TransferState) -> None:
    talk.send(R.SET_VRING_KICK, VringFd(3, has_fd=False))

    assert set_fd(talk, transfer) == REFUSED
    assert "rings 3 are started" in talk.traced[-1]

    talk.send(R.GET_VRING_BASE, VringState(3, 0))
    assert set_fd(talk, transfer) == ACCEPTED


def test_device_that_refuses_is_told_with_the_word_for_it(talk: Talk) -> None:
    talk.device.refused["set_device_state_fd"] = "no room"

    assert set_fd(talk, SAVE) == REFUSED


def test_check_waits_for_the_device(talk: Talk) -> None:
    pending = talk.device.deferred["check_device_state"] = Pending()

    assert talk.send(R.CHECK_DEVICE_STATE) is pending
    assert talk.session.complete(pending) == Reply(R.CHECK_DEVICE_STATE, U64(0))


def test_check_of_a_transfer_that_failed_is_a_number_and_not_the_end(talk: Talk) -> None:
    pending = talk.device.deferred["check_device_state"] = Pending()
    talk.send(R.CHECK_DEVICE_STATE)

    assert talk.session.complete(pending, RequestError("closed early")) == Reply(R.CHECK_DEVICE_STATE, U64(1))
    assert talk.traced[-1] == "CHECK_DEVICE_STATE: closed early"


def test_check_without_a_transfer_is_answered_at_once(talk: Talk) -> None:
    talk.device.refused["check_device_state"] = "no transfer"

    assert talk.get(R.CHECK_DEVICE_STATE) == U64(1)


@pytest.mark.parametrize(
    ("request_number", "payload", "answer"),
    [(R.SET_DEVICE_STATE_FD, SAVE, REFUSED), (R.CHECK_DEVICE_STATE, None, U64(1))],
)
def test_neither_is_served_unless_negotiated(
    acked: Talk, request_number: Request, payload: TransferState | None, answer: U64
) -> None:
    assert acked.get(request_number, payload) == answer
    assert acked.device.take_calls() == []
