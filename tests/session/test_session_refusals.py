from __future__ import annotations

import pytest

from tests.session.fake_device import OFFER, PROTOCOL_OFFER, FakeDevice
from tests.session.talk import BIT_30, REGION, Talk
from vhostuser.errors import RequestError
from vhostuser.session.session import Session
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.messages import (
    U64,
    Empty,
    Inflight,
    Iotlb,
    Log,
    Malformed,
    Message,
    Payload,
    SingleRegion,
    TransferState,
    VringState,
)
from vhostuser.wire.requests import FRONTEND_REQUESTS, ReplyKind

R = Request


UNSERVED: list[tuple[Request, Payload]] = [
    (R.SET_LOG_BASE, Log(4096, 0)),
    (R.SET_VRING_ENDIAN, VringState(0, 0)),
    (R.CLOSE_CRYPTO_SESSION, U64(0)),
    (R.POSTCOPY_LISTEN, Empty()),
    (R.SET_INFLIGHT_FD, Inflight(0, 0, 0, 0)),
    (R.GPU_SET_SOCKET, Empty()),
    (R.VRING_KICK, VringState(0, 0)),
    (R.ADD_MEM_REG, SingleRegion(REGION)),
    (R.REM_MEM_REG, SingleRegion(REGION)),
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
        talk = Talk(FakeDevice(protocol_features=PROTOCOL_OFFER | P.CRYPTO_SESSION))
        talk.send(R.SET_PROTOCOL_FEATURES, U64(int(PROTOCOL_OFFER | P.CRYPTO_SESSION)))
        assert talk.refusal(R.CLOSE_CRYPTO_SESSION, U64(0)) == (
            "CLOSE_CRYPTO_SESSION: is not served by this version"
        )

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
