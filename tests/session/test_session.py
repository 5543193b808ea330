from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.session.fake_device import OFFER, PROTOCOL_OFFER, FakeDevice
from tests.vectors import CAPTURES, load_capture
from vhostuser.errors import RequestError
from vhostuser.session.device import Pending
from vhostuser.session.session import Session
from vhostuser.session.states import RingState
from vhostuser.wire.connection import Connection
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.messages import (
    U64,
    Config,
    Empty,
    FdBag,
    Inflight,
    Iotlb,
    Log,
    Malformed,
    MemoryRegion,
    MemTable,
    Message,
    Payload,
    Rarp,
    Reply,
    SingleRegion,
    TransferState,
    VringAddr,
    VringFd,
    VringState,
)
from vhostuser.wire.requests import FRONTEND_REQUESTS, ReplyKind

R, S = Request, RingState
REGION = MemoryRegion(0, 0x10000, 0x7F0000000000, 0)
BIT_30 = int(V.PROTOCOL_FEATURES)


class Talk:
    """A front-end without a socket: asks one thing at a time and remembers what the trace said."""

    def __init__(self, device: FakeDevice | None = None) -> None:
        self.device = device or FakeDevice()
        self.traced: list[str] = []
        self.session = Session(self.device, self._note)

    def _note(self, message: Message, error: RequestError | None) -> None:
        self.traced.append(f"{message.name}" if error is None else f"{error}")

    def send(
        self, request: int, payload: Payload | None = None, fds: Iterable[int] = (), need_reply: bool = False
    ) -> Reply | Pending | None:
        self.bag = FdBag(fds)
        return self.session.handle(Message(request, payload or Empty(), need_reply, self.bag))

    def get(self, request: int, payload: Payload | None = None) -> Payload:
        """Ask for what is always answered."""
        reply = self.send(request, payload)
        assert isinstance(reply, Reply)
        assert reply.request == request
        return reply.payload

    def tell(self, request: int, payload: Payload | None = None, fds: Iterable[int] = ()) -> bool:
        """Send what is acknowledged; whether it was served."""
        reply = self.send(request, payload, fds, need_reply=True)
        assert isinstance(reply, Reply)
        assert reply.request == request
        assert isinstance(reply.payload, U64)
        return reply.payload.value == 0

    def refusal(self, request: int, payload: Payload | None = None, fds: Iterable[int] = ()) -> str:
        """Send what is nacked; why."""
        assert not self.tell(request, payload, fds)
        return self.traced[-1]

    def ring_is(self, index: int, state: RingState) -> bool:
        assert self.device.states.get(index, S.STOPPED_DISABLED) is self.session.ring_state(index)
        return self.session.ring_state(index) is state


def addr(index: int, **parts: int) -> VringAddr:
    whole = {"flags": 0, "desc": 0x1000, "used": 0x3000, "avail": 0x2000, "log": 0}
    return VringAddr(index, **(whole | parts))


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


class TestNetwork:
    def test_queue_count(self, acked: Talk) -> None:
        assert acked.get(R.GET_QUEUE_NUM) == U64(128)

    def test_rarp(self, acked: Talk) -> None:
        mac = bytes.fromhex("525400123456")
        assert acked.tell(R.SEND_RARP, Rarp(mac))
        assert acked.device.take_calls() == [("send_rarp", mac)]

    def test_rarp_of_a_multicast_mac_is_refused(self, acked: Talk) -> None:
        assert "01:00:5e:00:00:01 is a multicast address" in acked.refusal(
            R.SEND_RARP, Rarp(bytes.fromhex("01005e000001"))
        )

    def test_mtu(self, acked: Talk) -> None:
        assert acked.tell(R.NET_SET_MTU, U64(9000))
        assert acked.device.take_calls() == [("set_mtu", 9000)]

    @pytest.mark.parametrize("mtu", [0, 67, 65536, 1 << 63])
    def test_mtu_out_of_range_is_refused(self, acked: Talk, mtu: int) -> None:
        assert acked.refusal(R.NET_SET_MTU, U64(mtu)) == f"NET_SET_MTU: MTU {mtu}, expected 68 to 65535"

    def test_mtu_before_set_features(self, talk: Talk) -> None:
        """QEMU, once the guest has acknowledged VIRTIO_NET_F_MTU: the back-end hears of that later."""
        talk.send(R.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER)))
        assert talk.tell(R.NET_SET_MTU, U64(1500))

    def test_mtu_without_the_virtio_bit_offered_is_refused(self) -> None:
        talk = Talk(FakeDevice(features=V.VERSION_1))
        talk.send(R.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER)))
        assert talk.refusal(R.NET_SET_MTU, U64(1500)) == ("NET_SET_MTU: needs MTU, which was not negotiated")

    def test_backend_channel_gets_its_socket(self, acked: Talk) -> None:
        assert acked.tell(R.SET_BACKEND_REQ_FD, fds=[40])
        assert acked.device.take_calls() == [("set_backend_req_fd", 40)]
        assert len(acked.bag) == 0


class TestConfig:
    def test_window_is_read(self, acked: Talk) -> None:
        asked = Config(6, 4, 0, bytes(4))
        assert acked.get(R.GET_CONFIG, asked) == Config(6, 4, 0, bytes([6, 7, 8, 9]))

    @pytest.mark.parametrize(("offset", "size"), [(0, 257), (250, 7), (0xFFFFFFFF, 0xFFFFFFFF)])
    def test_window_that_reaches_beyond_is_answered_with_size_0(
        self, acked: Talk, offset: int, size: int
    ) -> None:
        assert acked.get(R.GET_CONFIG, Config(offset, size, 0, b"")) == Config(offset, 0, 0, b"")
        assert "reach beyond the 256" in acked.traced[-1]

    def test_read_that_the_device_refuses_is_answered_with_size_0(self, acked: Talk) -> None:
        acked.device.refused["get_config"] = "not now"
        assert acked.get(R.GET_CONFIG, Config(0, 4, 0, bytes(4))) == Config(0, 0, 0, b"")
        assert acked.traced[-1] == "GET_CONFIG: not now"

    def test_write(self, acked: Talk) -> None:
        assert acked.tell(R.SET_CONFIG, Config(6, 2, 1, b"\1\0"))
        assert acked.device.take_calls() == [("set_config", 6, b"\1\0", 1)]

    def test_write_of_a_read_only_field_is_the_devices_to_refuse(self, acked: Talk) -> None:
        acked.device.refused["set_config"] = "mac is read-only"
        assert acked.refusal(R.SET_CONFIG, Config(0, 1, 0, b"\0")) == "SET_CONFIG: mac is read-only"

    def test_write_with_a_wrong_size_is_refused(self, acked: Talk) -> None:
        assert "3 bytes came, the size field says 2" in acked.refusal(R.SET_CONFIG, Config(0, 2, 0, b"abc"))
        assert acked.device.take_calls() == []


UNSERVED: list[tuple[Request, Payload]] = [
    (R.SET_LOG_BASE, Log(4096, 0)),
    (R.SET_LOG_FD, Empty()),
    (R.SET_VRING_ENDIAN, VringState(0, 0)),
    (R.CLOSE_CRYPTO_SESSION, U64(0)),
    (R.POSTCOPY_LISTEN, Empty()),
    (R.SET_INFLIGHT_FD, Inflight(0, 0, 0, 0)),
    (R.GPU_SET_SOCKET, Empty()),
    (R.VRING_KICK, VringState(0, 0)),
    (R.ADD_MEM_REG, SingleRegion(REGION)),
    (R.REM_MEM_REG, SingleRegion(REGION)),
    (R.SET_STATUS, U64(1)),
]


class TestRefusals:
    @pytest.mark.parametrize(("request_", "payload"), UNSERVED, ids=lambda value: str(value))
    def test_request_of_a_later_version_is_nacked_and_its_fds_left(
        self, acked: Talk, request_: Request, payload: Payload
    ) -> None:
        assert not acked.tell(request_, payload, [50])
        assert acked.bag.drain() == [50]
        assert acked.send(request_, payload) is None

    def test_request_whose_feature_everybody_acked_is_still_not_served(self) -> None:
        """A device that offers what this version does not serve is told so, not crashed."""
        talk = Talk(FakeDevice(protocol_features=PROTOCOL_OFFER | P.STATUS))
        talk.send(R.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER | P.STATUS)))
        assert talk.refusal(R.SET_STATUS, U64(1)) == "SET_STATUS: is not served by this version"

    def test_missing_feature_is_named(self, acked: Talk) -> None:
        assert acked.refusal(R.SET_LOG_BASE, Log(0, 0)) == (
            "SET_LOG_BASE: needs LOG_SHMFD, which was not negotiated"
        )
        acked.get(R.IOTLB_MSG, Iotlb(0, 0, 0, 0, 2))
        assert acked.traced[-1] == "IOTLB_MSG: needs ACCESS_PLATFORM, which was not negotiated"

    @pytest.mark.parametrize(
        "request_",
        [row.request for row in FRONTEND_REQUESTS.values() if row.reply is ReplyKind.OWN and not row.handler],
    )
    def test_request_with_an_own_reply_ends_the_connection(self, acked: Talk, request_: int) -> None:
        """Nothing that could be answered would be understood, and a front-end that gets nothing hangs."""
        with pytest.raises(RequestError, match="which was not negotiated"):
            acked.send(request_)

    def test_request_with_an_own_reply_and_a_wrong_size_ends_the_connection(self, acked: Talk) -> None:
        with pytest.raises(RequestError, match="GET_VRING_BASE: payload of 4 bytes, expected 8"):
            acked.send(R.GET_VRING_BASE, Malformed("payload of 4 bytes, expected 8"))

    def test_queue_num_without_mq_ends_the_connection(self, talk: Talk) -> None:
        with pytest.raises(RequestError, match="GET_QUEUE_NUM: needs MQ, which was not negotiated"):
            talk.send(R.GET_QUEUE_NUM)

    def test_always_u64_is_answered_without_being_asked(self, acked: Talk) -> None:
        assert acked.get(R.IOTLB_MSG, Iotlb(0, 0, 0, 0, 2)) == U64(1)
        assert acked.get(R.POSTCOPY_END) == U64(1)
        assert acked.get(R.SET_DEVICE_STATE_FD, TransferState(0, 0)) == U64(0x101)

    @pytest.mark.parametrize("number", [0, 46, 0x7FFFFFFF])
    def test_unknown_request_is_nacked_and_the_session_goes_on(self, acked: Talk, number: int) -> None:
        assert acked.refusal(number, Malformed("unknown request"), [50]) == (
            f"request {number}: unknown request"
        )
        assert acked.bag.drain() == [50]
        assert acked.get(R.GET_FEATURES) == U64(int(OFFER) | BIT_30)

    def test_malformed_request_is_nacked(self, acked: Talk) -> None:
        assert acked.refusal(R.SET_OWNER, Malformed("1 fds came with it, expected 0"), [50]) == (
            "SET_OWNER: 1 fds came with it, expected 0"
        )
        assert acked.bag.drain() == [50]

    def test_refusal_without_need_reply_is_told_to_the_trace_alone(self, acked: Talk) -> None:
        assert acked.send(R.SET_VRING_NUM, VringState(0, 3)) is None
        assert acked.traced[-1].startswith("SET_VRING_NUM ring 0: size 3")

    def test_session_without_a_trace(self) -> None:
        session = Session(FakeDevice())
        assert session.handle(Message(R.SET_VRING_NUM, VringState(0, 3))) is None


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
