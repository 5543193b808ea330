from __future__ import annotations

import pytest

from tests.session.fake_device import INFLIGHT_OFFER, OFFER, PROTOCOL_OFFER, FakeDevice
from tests.session.talk import BIT_30, Talk, addr
from vhostuser.errors import RequestError
from vhostuser.session.states import RingState
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.messages import U64, VringFd, VringState

R, S = Request, RingState

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8


@pytest.mark.parametrize(
    ("acked", "lacking"),
    [
        (P.INBAND_NOTIFICATIONS | P.REPLY_ACK, "BACKEND_REQ"),
        (P.INBAND_NOTIFICATIONS, "REPLY_ACK, BACKEND_REQ"),
        (P.GET_VRING_BASE_INFLIGHT, "INFLIGHT_SHMFD"),
        (P.INFLIGHT_SHMFD | P.GET_VRING_BASE_SKIP_DRAIN, "GET_VRING_BASE_INFLIGHT"),
    ],
)
def test_protocol_feature_without_what_it_needs_ends_the_connection(acked: P, lacking: str) -> None:
    talk = Talk(FakeDevice(protocol_features=INFLIGHT_OFFER | P.INBAND_NOTIFICATIONS))
    talk.send(R.SET_PROTOCOL_FEATURES, U64(int(P.REPLY_ACK)))
    with pytest.raises(RequestError, match=f"without {lacking}$"):
        talk.tell(R.SET_PROTOCOL_FEATURES, U64(int(acked)))


class TestFeatures:
    def test_offer_is_the_devices_and_bit_30(self, talk: Talk) -> None:
        assert talk.get(R.GET_FEATURES) == U64(int(OFFER) | BIT_30)

    def test_offer_is_told_at_any_time(self, started: Talk) -> None:
        """Without REPLY_ACK, QEMU uses GET_FEATURES as a barrier while rings run."""
        assert started.get(R.GET_FEATURES) == U64(int(OFFER) | BIT_30)

    def test_acked_bits_reach_the_device(self, talk: Talk) -> None:
        wanted = V.VERSION_1 | V.PROTOCOL_FEATURES
        talk.send(R.SET_FEATURES, U64(int(wanted)))
        assert talk.device.take_calls() == [("set_features", wanted)]
        assert talk.session.acked_features == wanted

    def test_bits_that_were_not_offered_are_refused(self, acked: Talk) -> None:
        before = acked.session.acked_features
        text = acked.refusal(R.SET_FEATURES, U64(int(V.RING_PACKED | V.LOG_ALL) | BIT_30))
        assert text == "SET_FEATURES: 0x444000000 has what was not offered: LOG_ALL, RING_PACKED"
        assert acked.session.acked_features == before
        assert acked.device.take_calls() == []

    def test_the_device_may_refuse(self, acked: Talk) -> None:
        acked.device.refused["set_features"] = "GUEST_TSO4 needs GUEST_CSUM"
        before = acked.session.acked_features
        assert acked.refusal(R.SET_FEATURES, U64(0)) == "SET_FEATURES: GUEST_TSO4 needs GUEST_CSUM"
        assert acked.session.acked_features == before

    def test_without_bit_30_every_ring_is_enabled(self) -> None:
        talk = Talk(FakeDevice(vrings=4))
        talk.send(R.SET_FEATURES, U64(int(V.VERSION_1)))
        assert all(talk.ring_is(index, S.STOPPED_ENABLED) for index in range(4))
        assert [call[0] for call in talk.device.calls] == ["set_features"] + ["set_vring_state"] * 4

    def test_with_bit_30_rings_stay_as_they_are(self, started: Talk) -> None:
        started.tell(R.SET_FEATURES, U64(int(started.session.acked_features)))
        assert started.ring_is(0, S.STARTED_ENABLED)
        assert started.ring_is(1, S.STOPPED_DISABLED)

    def test_logging_toggles_while_a_ring_runs(self) -> None:
        """How migration begins; the rings are not touched."""
        talk = Talk(FakeDevice(features=OFFER | V.LOG_ALL))
        features = U64(int(OFFER) | BIT_30)
        logging = U64(features.value | int(V.LOG_ALL))
        talk.send(R.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER)))
        talk.tell(R.SET_FEATURES, features)
        talk.tell(R.SET_VRING_KICK, VringFd(0), [20])
        talk.device.take_calls()

        assert talk.tell(R.SET_FEATURES, logging)
        assert talk.tell(R.SET_FEATURES, features)
        assert [call[0] for call in talk.device.calls] == ["set_features", "set_features"]

    @pytest.mark.parametrize("feature", [V.MRG_RXBUF, V.VERSION_1, V.EVENT_IDX])
    def test_header_and_ring_layout_stay_while_a_ring_runs(self, started: Talk, feature: V) -> None:
        less = U64(int(started.session.acked_features & ~feature))
        assert started.refusal(R.SET_FEATURES, less).endswith("can change only while every ring is stopped")
        started.get(R.GET_VRING_BASE, VringState(0, 0))
        assert started.tell(R.SET_FEATURES, less)

    def test_the_same_features_again_are_fine_while_a_ring_runs(self, started: Talk) -> None:
        """QEMU sends them for each queue pair, the second time with the first pair running."""
        assert started.tell(R.SET_FEATURES, U64(int(started.session.acked_features)))

    def test_first_features_may_come_after_the_kick(self, talk: Talk) -> None:
        talk.send(R.SET_VRING_KICK, VringFd(0), [20])
        talk.send(R.SET_FEATURES, U64(int(V.VERSION_1) | BIT_30))
        assert talk.session.acked_features == V.VERSION_1 | V.PROTOCOL_FEATURES


class TestProtocolFeatures:
    def test_offer_is_the_devices(self, talk: Talk) -> None:
        assert talk.get(R.GET_PROTOCOL_FEATURES) == U64(int(PROTOCOL_OFFER))

    def test_set_without_get_and_before_set_features(self, talk: Talk) -> None:
        """Cloud Hypervisor after a reconnect."""
        talk.send(R.SET_PROTOCOL_FEATURES, U64(int(P.MQ)))
        assert talk.session.acked_protocol_features == P.MQ
        assert talk.device.take_calls() == [("set_protocol_features", P.MQ)]

    def test_bits_that_were_not_offered_are_refused(self, acked: Talk) -> None:
        text = acked.refusal(R.SET_PROTOCOL_FEATURES, U64(int(P.MQ | P.LOG_SHMFD)))
        assert text == "SET_PROTOCOL_FEATURES: 0x3 has what was not offered: LOG_SHMFD"
        assert acked.session.acked_protocol_features == PROTOCOL_OFFER

    def test_coming_again_resets_nothing(self, started: Talk) -> None:
        started.tell(R.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER)))
        assert started.ring_is(0, S.STARTED_ENABLED)

    def test_is_acknowledged_by_what_was_negotiated_before(self, talk: Talk) -> None:
        assert talk.send(R.SET_PROTOCOL_FEATURES, U64(int(P.REPLY_ACK)), need_reply=True) is None
        assert talk.tell(R.SET_PROTOCOL_FEATURES, U64(int(P.MQ)))
        assert talk.send(R.SET_OWNER, need_reply=True) is None


class TestOwnerAndReset:
    def test_owner_may_be_set_again(self, acked: Talk) -> None:
        assert acked.tell(R.SET_OWNER)
        assert acked.tell(R.SET_OWNER)

    def test_reset_owner_changes_nothing(self, started: Talk) -> None:
        assert started.tell(R.RESET_OWNER)
        assert started.device.take_calls() == []
        assert started.ring_is(0, S.STARTED_ENABLED)

    def test_reset_device_stops_and_forgets_the_rings(self, started: Talk) -> None:
        assert started.tell(R.RESET_DEVICE)
        assert started.device.take_calls() == [
            ("set_vring_state", 0, S.STOPPED_DISABLED),
            ("reset_device",),
        ]
        assert started.ring_is(0, S.STOPPED_DISABLED)

    def test_reset_device_keeps_what_was_negotiated(self, started: Talk) -> None:
        started.tell(R.RESET_DEVICE)
        assert started.session.acked_protocol_features == PROTOCOL_OFFER

    def test_a_ring_starts_again_after_a_reset(self, started: Talk) -> None:
        started.tell(R.RESET_DEVICE)
        assert started.tell(R.SET_VRING_KICK, VringFd(0), [21])
        assert started.tell(R.SET_VRING_NUM, VringState(0, 512))
        assert started.tell(R.SET_VRING_ADDR, addr(0, desc=0x8000))

    def test_close_drops_everything(self, started: Talk) -> None:
        started.session.close()
        assert started.device.take_calls() == [
            ("set_vring_state", 0, S.STOPPED_DISABLED),
            ("reset_device",),
        ]
        assert started.session.acked_features == V(0)
        assert started.session.acked_protocol_features == P(0)


class TestStatus:
    @pytest.fixture
    def talk(self) -> Talk:
        """STATUS is acknowledged, no features yet."""
        talk = Talk(FakeDevice(protocol_features=PROTOCOL_OFFER | P.STATUS))
        talk.send(R.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER | P.STATUS)))
        talk.device.take_calls()
        return talk

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
            ("reset_driver",),
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
