from __future__ import annotations

import pytest

from tests.session.fake_device import INFLIGHT_OFFER, OFFER, PROTOCOL_OFFER, FakeDevice
from tests.session.talk import BIT_30, Talk, addr
from vhostuser.session.states import RingState
from vhostuser.wire.constants import Request
from vhostuser.wire.messages import (
    U64,
    VringFd,
    VringState,
)

R, S = Request, RingState


@pytest.fixture
def talk() -> Talk:
    """Connected, nothing said."""
    return Talk()


@pytest.fixture
def acked(talk: Talk) -> Talk:
    """Everything that is offered is acknowledged."""
    talk.send(R.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER)))
    talk.send(R.SET_FEATURES, U64(int(OFFER) | BIT_30))
    talk.device.take_calls()
    return talk


@pytest.fixture
def tracking() -> Talk:
    """Everything is acknowledged, inflight regions as well."""
    talk = Talk(FakeDevice(protocol_features=INFLIGHT_OFFER))
    talk.send(R.SET_PROTOCOL_FEATURES, U64(int(INFLIGHT_OFFER)))
    talk.send(R.SET_FEATURES, U64(int(OFFER) | BIT_30))
    talk.device.take_calls()
    return talk


@pytest.fixture
def started(acked: Talk) -> Talk:
    """Ring 0 is set up, started and enabled."""
    acked.tell(R.SET_VRING_NUM, VringState(0, 256))
    acked.tell(R.SET_VRING_BASE, VringState(0, 0))
    acked.tell(R.SET_VRING_ADDR, addr(0))
    acked.tell(R.SET_VRING_KICK, VringFd(0), [20])
    acked.tell(R.SET_VRING_ENABLE, VringState(0, 1))
    assert acked.ring_is(0, S.STARTED_ENABLED)
    acked.device.take_calls()
    return acked
