from __future__ import annotations

import pytest

from tests.session.fake_device import INFLIGHT_OFFER, FakeDevice
from tests.session.talk import Talk
from vhostuser.errors import RequestError
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.messages import U64, Inflight, Reply, VringFd, VringState

R = Request
WANTED = Inflight(0, 0, 2, 256)


@pytest.mark.parametrize("padded", [True, False])
def test_get_is_answered_with_the_layout_and_an_fd_in_the_form_received(tracking: Talk, padded: bool) -> None:
    wanted = Inflight(0, 0, 2, 256, padded)
    reply = tracking.send(R.GET_INFLIGHT_FD, wanted, need_reply=True)
    assert reply == Reply(R.GET_INFLIGHT_FD, Inflight(4096, 0, 2, 256, padded), (99,))
    assert tracking.device.take_calls() == [("get_inflight_fd", wanted)]


def test_get_that_the_device_refuses_ends_the_connection(tracking: Talk) -> None:
    tracking.device.refused["get_inflight_fd"] = "no"
    with pytest.raises(RequestError, match="GET_INFLIGHT_FD: no"):
        tracking.send(R.GET_INFLIGHT_FD, WANTED)


def test_set_gives_the_fd_to_the_device(tracking: Talk) -> None:
    layout = Inflight(4096, 0, 2, 256)
    assert tracking.tell(R.SET_INFLIGHT_FD, layout, [7])
    assert tracking.device.take_calls() == [("set_inflight_fd", layout, 7)]
    assert len(tracking.bag) == 0


def test_set_that_the_device_refuses_is_nacked(tracking: Talk) -> None:
    tracking.device.refused["set_inflight_fd"] = "too short"
    assert tracking.refusal(R.SET_INFLIGHT_FD, WANTED, [7]) == "SET_INFLIGHT_FD: too short"


@pytest.mark.parametrize("enable", [0, 1])
def test_neither_comes_while_a_ring_is_started(tracking: Talk, enable: int) -> None:
    tracking.tell(R.SET_VRING_KICK, VringFd(3), [20])
    tracking.tell(R.SET_VRING_ENABLE, VringState(3, enable))
    tracking.device.take_calls()
    assert "comes while ring 3 is started" in tracking.refusal(R.SET_INFLIGHT_FD, WANTED, [7])
    assert len(tracking.bag) == 1, "closed by the owner of the message"
    with pytest.raises(RequestError, match="comes while ring 3 is started"):
        tracking.send(R.GET_INFLIGHT_FD, WANTED)
    assert tracking.device.take_calls() == []

    tracking.get(R.GET_VRING_BASE, VringState(3, 0))
    assert tracking.tell(R.SET_INFLIGHT_FD, WANTED, [7])


def test_both_need_the_feature() -> None:
    talk = Talk(FakeDevice(protocol_features=INFLIGHT_OFFER))
    talk.send(R.SET_PROTOCOL_FEATURES, U64(int(P.REPLY_ACK)))
    assert "needs INFLIGHT_SHMFD" in talk.refusal(R.SET_INFLIGHT_FD, WANTED, [7])
    with pytest.raises(RequestError, match="needs INFLIGHT_SHMFD"):
        talk.send(R.GET_INFLIGHT_FD, WANTED)
