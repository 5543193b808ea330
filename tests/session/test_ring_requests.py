from __future__ import annotations

import pytest

from tests.session.fake_device import INFLIGHT_OFFER, OFFER, PROTOCOL_OFFER, FakeDevice
from tests.session.talk import BIT_30, Talk, addr
from vhostuser.errors import RequestError
from vhostuser.session.device import Pending
from vhostuser.session.states import RingState
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.messages import (
    U64,
    Payload,
    Reply,
    VringFd,
    VringState,
)

R, S = Request, RingState


class TestRings:
    @pytest.mark.parametrize(
        ("request_", "payload", "fds"),
        [
            (R.SET_VRING_NUM, VringState(8, 256), []),
            (R.SET_VRING_BASE, VringState(8, 0), []),
            (R.SET_VRING_ADDR, addr(8), []),
            (R.SET_VRING_ENABLE, VringState(8, 1), []),
            (R.SET_VRING_KICK, VringFd(8), [5]),
            (R.SET_VRING_CALL, VringFd(8), [5]),
            (R.SET_VRING_ERR, VringFd(8), [5]),
        ],
    )
    def test_index_out_of_range_is_refused(
        self, acked: Talk, request_: Request, payload: Payload, fds: list[int]
    ) -> None:
        acked.device.vrings = 8
        assert acked.refusal(request_, payload, fds) == (
            f"{request_.name} ring 8: index out of range, this device serves 8 rings"
        )
        assert acked.device.take_calls() == []
        assert acked.bag.drain() == fds

    @pytest.mark.parametrize("index", [300, 65536, 0xFFFFFFFF])
    def test_index_is_compared_in_full_width(self, acked: Talk, index: int) -> None:
        assert acked.refusal(R.SET_VRING_NUM, VringState(index, 256)) == (
            f"SET_VRING_NUM ring {index}: index out of range, this device serves 256 rings"
        )

    def test_values_that_no_ring_can_have_are_refused(self, acked: Talk) -> None:
        for request, payload, reason in (
            (R.SET_VRING_NUM, VringState(1, 0), "SET_VRING_NUM ring 1: size 0, expected 1 to 32768"),
            (R.SET_VRING_NUM, VringState(1, 3), "ring 1: size 3 is not a power of two"),
            (R.SET_VRING_BASE, VringState(1, 65536), "ring 1: base 0x10000"),
            (R.SET_VRING_ADDR, addr(1, desc=0x1001), "ring 1: desc at 0x1001 is not aligned to 16"),
            (R.SET_VRING_ENABLE, VringState(1, 2), "SET_VRING_ENABLE ring 1: 2 is neither 0"),
        ):
            assert reason in acked.refusal(request, payload)
        assert acked.device.take_calls() == []

    def test_packed_rings_have_other_limits(self) -> None:
        talk = Talk(FakeDevice(features=OFFER | V.RING_PACKED))
        talk.send(R.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER)))
        talk.send(R.SET_FEATURES, U64(int(V.VERSION_1 | V.RING_PACKED) | BIT_30))
        assert talk.tell(R.SET_VRING_NUM, VringState(0, 1000))
        assert talk.tell(R.SET_VRING_BASE, VringState(0, 0x80008000))
        assert "avail at 0x2002" in talk.refusal(R.SET_VRING_ADDR, addr(0, avail=0x2002))

    def test_each_item_reaches_the_device(self, acked: Talk) -> None:
        acked.tell(R.SET_VRING_NUM, VringState(3, 1024))
        acked.tell(R.SET_VRING_BASE, VringState(3, 17))
        acked.tell(R.SET_VRING_ADDR, addr(3))
        acked.tell(R.SET_VRING_CALL, VringFd(3), [31])
        acked.tell(R.SET_VRING_ERR, VringFd(3), [32])
        acked.tell(R.SET_VRING_KICK, VringFd(3), [33])
        acked.tell(R.SET_VRING_ENABLE, VringState(3, 1))
        assert acked.device.take_calls() == [
            ("set_vring_num", 3, 1024),
            ("set_vring_base", 3, 17),
            ("set_vring_addr", addr(3)),
            ("set_vring_call", 3, 31),
            ("set_vring_err", 3, 32),
            ("set_vring_kick", 3, 33),
            ("set_vring_state", 3, S.STARTED_DISABLED),
            ("set_vring_state", 3, S.STARTED_ENABLED),
        ]

    def test_nofd_is_told_as_none(self, acked: Talk) -> None:
        for request in (R.SET_VRING_KICK, R.SET_VRING_CALL, R.SET_VRING_ERR):
            acked.tell(request, VringFd(1, has_fd=False))
        calls = [call for call in acked.device.take_calls() if call[0] != "set_vring_state"]
        assert calls == [("set_vring_kick", 1, None), ("set_vring_call", 1, None), ("set_vring_err", 1, None)]
        assert acked.ring_is(1, S.STARTED_DISABLED)

    def test_enable_before_everything(self, talk: Talk) -> None:
        """QEMU, before SET_FEATURES and before any memory table."""
        talk.send(R.SET_VRING_ENABLE, VringState(0, 1))
        talk.send(R.SET_VRING_ENABLE, VringState(2, 0))
        assert talk.ring_is(0, S.STOPPED_ENABLED)
        assert talk.device.take_calls() == [("set_vring_state", 0, S.STOPPED_ENABLED)]

    def test_kick_before_everything_else_of_its_ring(self, acked: Talk) -> None:
        assert acked.tell(R.SET_VRING_KICK, VringFd(0), [20])
        assert acked.tell(R.SET_VRING_NUM, VringState(0, 256))
        assert acked.tell(R.SET_VRING_ADDR, addr(0))
        assert acked.tell(R.SET_VRING_BASE, VringState(0, 0))

    def test_kick_again_gives_the_new_fd_and_starts_nothing(self, started: Talk) -> None:
        assert started.tell(R.SET_VRING_KICK, VringFd(0), [21])
        assert started.device.take_calls() == [("set_vring_kick", 0, 21)]

    def test_kick_that_the_device_refuses_does_not_start_the_ring(self, acked: Talk) -> None:
        acked.device.refused["set_vring_kick"] = "fd 20 is a directory"
        text = acked.refusal(R.SET_VRING_KICK, VringFd(0), [20])
        assert text == "SET_VRING_KICK ring 0: fd 20 is a directory"
        assert acked.ring_is(0, S.STOPPED_DISABLED)
        assert acked.device.fds == [20]

    @pytest.mark.parametrize("request_", [R.SET_VRING_NUM, R.SET_VRING_BASE])
    def test_size_and_base_stay_while_the_ring_is_started(self, started: Talk, request_: Request) -> None:
        assert started.refusal(request_, VringState(0, 128)) == (
            f"{request_.name} ring 0: comes while the ring is started; stop it with GET_VRING_BASE first"
        )
        started.get(R.GET_VRING_BASE, VringState(0, 0))
        assert started.tell(request_, VringState(0, 128))

    def test_log_flag_toggles_while_the_ring_is_started(self, started: Talk) -> None:
        assert started.tell(R.SET_VRING_ADDR, addr(0, flags=1, log=0x9000))
        assert started.tell(R.SET_VRING_ADDR, addr(0))
        assert len(started.device.take_calls()) == 2

    def test_ring_does_not_move_while_it_is_started(self, started: Talk) -> None:
        text = started.refusal(R.SET_VRING_ADDR, addr(0, used=0x4000))
        assert text == "SET_VRING_ADDR ring 0: used moves from 0x3000 to 0x4000 while the ring is started"
        assert started.device.take_calls() == []
        started.get(R.GET_VRING_BASE, VringState(0, 0))
        assert started.tell(R.SET_VRING_ADDR, addr(0, used=0x4000))

    def test_item_that_the_device_refused_is_not_remembered(self, acked: Talk) -> None:
        acked.device.refused["set_vring_addr"] = "not mapped"
        assert not acked.tell(R.SET_VRING_ADDR, addr(0))
        acked.device.refused.clear()
        acked.tell(R.SET_VRING_KICK, VringFd(0), [20])
        assert acked.tell(R.SET_VRING_ADDR, addr(0, desc=0x8000))


class TestGetVringBase:
    def test_stops_the_ring_before_it_asks_for_the_base(self, started: Talk) -> None:
        started.device.bases[0] = 77
        assert started.get(R.GET_VRING_BASE, VringState(0, 0)) == VringState(0, 77)
        assert started.device.take_calls() == [
            ("set_vring_state", 0, S.STOPPED_ENABLED),
            ("get_vring_base", 0),
        ]

    def test_of_a_ring_that_was_never_set_up_is_0(self, talk: Talk) -> None:
        """QEMU, for pairs that the guest does not use."""
        assert talk.get(R.GET_VRING_BASE, VringState(6, 0)) == VringState(6, 0)

    def test_num_of_the_request_means_nothing(self, talk: Talk) -> None:
        """DPDK virtio-user does not clear it."""
        assert talk.get(R.GET_VRING_BASE, VringState(0, 0xDEADBEEF)) == VringState(0, 0)

    def test_twice_is_fine(self, started: Talk) -> None:
        first = started.get(R.GET_VRING_BASE, VringState(0, 0))
        assert started.get(R.GET_VRING_BASE, VringState(0, 0)) == first

    def test_out_of_range_ends_the_connection(self, talk: Talk) -> None:
        with pytest.raises(RequestError, match="GET_VRING_BASE ring 256: index out of range"):
            talk.send(R.GET_VRING_BASE, VringState(256, 0))

    def test_that_takes_its_time_is_answered_at_the_end(self, started: Talk) -> None:
        pending = started.device.deferred["get_vring_base"] = Pending()
        assert started.send(R.GET_VRING_BASE, VringState(0, 0)) is pending
        assert started.session.complete(pending, 99) == Reply(R.GET_VRING_BASE, VringState(0, 99))

    def test_that_fails_at_the_end_ends_the_connection(self, started: Talk) -> None:
        pending = started.device.deferred["get_vring_base"] = Pending()
        started.send(R.GET_VRING_BASE, VringState(0, 0))
        with pytest.raises(RequestError, match="GET_VRING_BASE ring 0: gone"):
            started.session.complete(pending, RequestError("gone"))

    def test_completed_without_a_base_is_our_own_mistake(self, started: Talk) -> None:
        pending = started.device.deferred["get_vring_base"] = Pending()
        started.send(R.GET_VRING_BASE, VringState(0, 0))
        with pytest.raises(AssertionError, match="without a base"):
            started.session.complete(pending)


class TestEndian:
    """A legacy guest's byte order, said before its ring is started."""

    @pytest.fixture
    def crossing(self) -> Talk:
        talk = Talk(FakeDevice(protocol_features=PROTOCOL_OFFER | P.CROSS_ENDIAN))
        talk.send(R.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER | P.CROSS_ENDIAN)))
        talk.device.take_calls()
        return talk

    @pytest.mark.parametrize("num", [0, 1])
    def test_is_told_to_the_device(self, crossing: Talk, num: int) -> None:
        assert crossing.tell(R.SET_VRING_ENDIAN, VringState(3, num))
        assert crossing.device.take_calls() == [("set_vring_endian", 3, bool(num))]

    @pytest.mark.parametrize("num", [2, 0xFFFFFFFF])
    def test_other_values_are_refused(self, crossing: Talk, num: int) -> None:
        reason = crossing.refusal(R.SET_VRING_ENDIAN, VringState(3, num))
        assert reason.startswith(f"SET_VRING_ENDIAN ring 3: {num} is neither 0")

    @pytest.mark.parametrize("modern", [V.VERSION_1, V.VERSION_1 | V.RING_PACKED])
    def test_modern_guest_is_little_endian(self, modern: V) -> None:
        device = FakeDevice(features=OFFER | modern, protocol_features=PROTOCOL_OFFER | P.CROSS_ENDIAN)
        talk = Talk(device)
        talk.send(R.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER | P.CROSS_ENDIAN)))
        talk.send(R.SET_FEATURES, U64(int(modern) | BIT_30))
        assert "VERSION_1" in talk.refusal(R.SET_VRING_ENDIAN, VringState(0, 1))
        assert talk.tell(R.SET_VRING_ENDIAN, VringState(0, 0))

    def test_started_ring_refuses_it_also_the_first_time(self, crossing: Talk) -> None:
        crossing.tell(R.SET_VRING_KICK, VringFd(0, has_fd=False))
        assert "comes while the ring is started" in crossing.refusal(R.SET_VRING_ENDIAN, VringState(0, 1))
        crossing.send(R.GET_VRING_BASE, VringState(0, 0))
        assert crossing.tell(R.SET_VRING_ENDIAN, VringState(0, 1))

    def test_needs_to_be_negotiated(self, acked: Talk) -> None:
        assert "CROSS_ENDIAN" in acked.refusal(R.SET_VRING_ENDIAN, VringState(0, 1))


BASE_FEATURES = (P.INFLIGHT_SHMFD, P.GET_VRING_BASE_INFLIGHT, P.GET_VRING_BASE_SKIP_DRAIN)


class TestGetVringBaseSkipDrain:
    def test_is_as_get_vring_base(self, tracking: Talk) -> None:
        tracking.tell(R.SET_VRING_KICK, VringFd(0), [20])
        tracking.device.bases[0] = 77
        tracking.device.take_calls()
        assert tracking.get(R.GET_VRING_BASE_SKIP_DRAIN, VringState(0, 0xDEAD)) == VringState(0, 77)
        assert tracking.ring_is(0, S.STOPPED_DISABLED)
        assert tracking.device.take_calls() == [
            ("set_vring_state", 0, S.STOPPED_DISABLED),
            ("get_vring_base", 0),
        ]

    def test_needs_all_three_features(self) -> None:
        talk = Talk(FakeDevice(protocol_features=INFLIGHT_OFFER))
        talk.send(R.SET_PROTOCOL_FEATURES, U64(int(P.REPLY_ACK | BASE_FEATURES[0] | BASE_FEATURES[1])))
        with pytest.raises(RequestError, match="needs GET_VRING_BASE_SKIP_DRAIN, which was not negotiated"):
            talk.send(R.GET_VRING_BASE_SKIP_DRAIN, VringState(0, 0))


IN_BAND = P.INBAND_NOTIFICATIONS | P.BACKEND_REQ | P.REPLY_ACK


class TestVringKick:
    @pytest.fixture
    def in_band(self) -> Talk:
        talk = Talk(FakeDevice(protocol_features=PROTOCOL_OFFER | IN_BAND))
        talk.send(R.SET_PROTOCOL_FEATURES, U64(int(IN_BAND)))
        talk.device.take_calls()
        return talk

    def test_starts_the_ring_and_is_told_each_time(self, in_band: Talk) -> None:
        assert in_band.tell(R.VRING_KICK, VringState(1, 0))
        assert in_band.tell(R.VRING_KICK, VringState(1, 0))
        assert in_band.device.take_calls() == [
            ("vring_kick", 1),
            ("set_vring_state", 1, S.STARTED_DISABLED),
            ("vring_kick", 1),
        ]

    def test_reserved_number_is_refused(self, in_band: Talk) -> None:
        assert "reserved and has to be 0" in in_band.refusal(R.VRING_KICK, VringState(1, 1))
        assert in_band.device.take_calls() == []

    def test_needs_to_be_negotiated(self, acked: Talk) -> None:
        assert "INBAND_NOTIFICATIONS" in acked.refusal(R.VRING_KICK, VringState(0, 0))
