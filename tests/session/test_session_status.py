"""SET_STATUS and GET_STATUS, SET_LOG_BASE and SET_LOG_FD."""

from __future__ import annotations

import pytest

from tests.session.fake_device import PROTOCOL_OFFER, FakeDevice
from tests.session.talk import BIT_30, Talk
from vhostuser.session.states import RingState as S
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.messages import U64, Empty, Log, Reply, VringFd

R = Request
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8


@pytest.fixture
def talk() -> Talk:
    """Everything acknowledged that the tests need, no features yet."""
    talk = Talk(FakeDevice(protocol_features=PROTOCOL_OFFER | P.STATUS | P.LOG_SHMFD))
    talk.send(R.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER | P.STATUS | P.LOG_SHMFD)))
    talk.device.take_calls()
    return talk


class TestStatus:
    def test_what_was_set_is_read_back(self, talk: Talk) -> None:
        assert talk.get(R.GET_STATUS) == U64(0)
        assert talk.tell(R.SET_STATUS, U64(ACKNOWLEDGE | DRIVER))
        assert talk.get(R.GET_STATUS) == U64(ACKNOWLEDGE | DRIVER)

    def test_features_ok_shows_only_once_features_were_accepted(self, talk: Talk) -> None:
        talk.tell(R.SET_STATUS, U64(ACKNOWLEDGE | DRIVER | FEATURES_OK))
        assert talk.get(R.GET_STATUS) == U64(ACKNOWLEDGE | DRIVER)
        talk.send(R.SET_FEATURES, U64(int(V.VERSION_1) | BIT_30))
        assert talk.get(R.GET_STATUS) == U64(ACKNOWLEDGE | DRIVER | FEATURES_OK)

    @pytest.mark.parametrize("status", [256, 1 << 32, (1 << 64) - 1])
    def test_more_than_8_bits_are_refused_and_the_old_ones_stay(self, talk: Talk, status: int) -> None:
        talk.tell(R.SET_STATUS, U64(DRIVER))
        assert "8 bits" in talk.refusal(R.SET_STATUS, U64(status))
        assert talk.get(R.GET_STATUS) == U64(DRIVER)

    def test_zero_stops_every_ring_and_leaves_the_rest(self, talk: Talk) -> None:
        talk.send(R.SET_FEATURES, U64(int(V.VERSION_1) | BIT_30))
        for index in range(2):
            talk.send(R.SET_VRING_KICK, VringFd(index, True), [50 + index])
        talk.device.take_calls()

        assert talk.tell(R.SET_STATUS, U64(0))

        assert talk.device.take_calls() == [
            ("set_vring_state", 0, S.STOPPED_DISABLED),
            ("set_vring_state", 1, S.STOPPED_DISABLED),
        ]
        assert talk.session.acked_features == V.VERSION_1 | V.PROTOCOL_FEATURES

    def test_status_says_nothing_about_rings_otherwise(self, talk: Talk) -> None:
        """A legacy guest may use them before DRIVER_OK."""
        talk.tell(R.SET_STATUS, U64(DRIVER_OK))
        assert talk.device.take_calls() == []

    def test_next_front_end_finds_none(self, talk: Talk) -> None:
        talk.tell(R.SET_STATUS, U64(DRIVER))
        talk.session.close()
        talk.send(R.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER | P.STATUS)))
        assert talk.get(R.GET_STATUS) == U64(0)


class TestLog:
    def test_log_is_handed_over_and_told_back(self, talk: Talk) -> None:
        reply = talk.send(R.SET_LOG_BASE, Log(8192, 4096), [60])
        assert isinstance(reply, Reply)
        assert reply.payload == Log(8192, 4096)
        assert talk.device.take_calls() == [("set_log_base", 8192, 4096, 60)]
        assert talk.bag.drain() == []

    def test_log_that_the_device_refuses_ends_the_connection(self, talk: Talk) -> None:
        """There is no answer that says no: QEMU takes any for a yes."""
        talk.device.refused["set_log_base"] = "too short"
        with pytest.raises(Exception, match="SET_LOG_BASE: too short"):
            talk.send(R.SET_LOG_BASE, Log(8192, 4096), [60])

    def test_log_fd_is_left_to_be_closed(self, talk: Talk) -> None:
        assert talk.tell(R.SET_LOG_FD, Empty(), [61])
        assert talk.device.take_calls() == []
        assert talk.bag.drain() == [61]
