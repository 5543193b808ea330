from __future__ import annotations

import pytest

from tests.session.fake_device import OFFER, PROTOCOL_OFFER, FakeDevice
from tests.session.talk import BIT_30, REGION, Talk, addr
from tests.vectors import CAPTURES, load_capture
from vhostuser.errors import RequestError
from vhostuser.session.device import Pending
from vhostuser.session.states import RingState
from vhostuser.wire.connection import Connection
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.messages import (
    U64,
    MemTable,
    Reply,
    VringFd,
    VringState,
)

R, S = Request, RingState


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


class TestMemory:
    def test_regions_and_fds_go_to_the_device_together(self, acked: Talk) -> None:
        assert acked.tell(R.SET_MEM_TABLE, MemTable((REGION, REGION)), [5, 6])
        assert acked.device.take_calls() == [("set_mem_table", (REGION, REGION), [5, 6])]
        assert len(acked.bag) == 0

    def test_fds_are_the_devices_also_when_it_refuses(self, acked: Talk) -> None:
        acked.device.refused["set_mem_table"] = "region 0 is empty"
        assert acked.refusal(R.SET_MEM_TABLE, MemTable((REGION,)), [5]) == "SET_MEM_TABLE: region 0 is empty"
        assert acked.device.fds == [5]
        assert len(acked.bag) == 0

    def test_table_that_takes_its_time_is_acknowledged_at_the_end(self, acked: Talk) -> None:
        pending = acked.device.deferred["set_mem_table"] = Pending()
        assert acked.send(R.SET_MEM_TABLE, MemTable((REGION,)), [5], need_reply=True) is pending
        assert acked.session.complete(pending) == Reply(R.SET_MEM_TABLE, U64(0))

    def test_table_that_takes_its_time_may_be_refused_at_the_end(self, acked: Talk) -> None:
        pending = acked.device.deferred["set_mem_table"] = Pending()
        acked.send(R.SET_MEM_TABLE, MemTable((REGION,)), [5], need_reply=True)
        assert acked.session.complete(pending, RequestError("mmap failed")) == Reply(R.SET_MEM_TABLE, U64(1))
        assert acked.traced[-1] == "SET_MEM_TABLE: mmap failed"


class TestPending:
    def test_nothing_is_handled_meanwhile(self, acked: Talk) -> None:
        acked.device.deferred["set_mem_table"] = Pending()
        acked.send(R.SET_MEM_TABLE, MemTable((REGION,)), [5])
        with pytest.raises(AssertionError, match="waits for its result"):
            acked.send(R.GET_FEATURES)

    def test_of_a_closed_session_is_forgotten(self, acked: Talk) -> None:
        pending = acked.device.deferred["set_mem_table"] = Pending()
        acked.send(R.SET_MEM_TABLE, MemTable((REGION,)), [5], need_reply=True)
        acked.session.close()
        assert acked.session.complete(pending) is None

    def test_of_somebody_else_is_forgotten(self, acked: Talk) -> None:
        pending = acked.device.deferred["set_mem_table"] = Pending()
        acked.send(R.SET_MEM_TABLE, MemTable((REGION,)), [5], need_reply=True)
        assert acked.session.complete(Pending()) is None
        assert acked.session.complete(pending) is not None

    def test_is_traced_when_it_is_decided(self, acked: Talk) -> None:
        pending = acked.device.deferred["set_mem_table"] = Pending()
        acked.traced.clear()
        acked.send(R.SET_MEM_TABLE, MemTable((REGION,)), [5])
        assert acked.traced == []
        acked.session.complete(pending)
        assert acked.traced == ["SET_MEM_TABLE"]


@pytest.mark.parametrize("capture", CAPTURES)
class TestRealFrontends:
    """Whole conversations, answered as they were answered when the front-end went on with them."""

    def test_each_message_is_served_and_answered_the_same(self, capture: str) -> None:
        talk, connection = Talk(), Connection()
        for captured in load_capture(capture):
            connection.receive(captured.content[:12], range(captured.fds))
            connection.receive(captured.content[12:])
            message = connection.next_message()
            assert message is not None
            reply = talk.session.handle(message)
            assert not isinstance(reply, Pending)
            assert (connection.encode(reply) if reply is not None else b"") == captured.answer
            assert talk.traced[-1] == captured.name
            assert len(message.fds) == 0

    def test_rings_ran_and_were_stopped(self, capture: str) -> None:
        talk, connection = Talk(), Connection()
        for captured in load_capture(capture):
            connection.receive(captured.content[:12], range(captured.fds))
            connection.receive(captured.content[12:])
            message = connection.next_message()
            assert message is not None
            talk.session.handle(message)
        ran = {call[1] for call in talk.device.calls if call[-1] is S.STARTED_ENABLED}
        assert ran >= {0, 1}
        assert not any(talk.session.ring_state(index).is_started for index in range(256))
