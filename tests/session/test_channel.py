from __future__ import annotations

import pytest

from vhostuser.errors import FramingError
from vhostuser.session.channel import Ack, BackendChannel
from vhostuser.wire.connection import Connection
from vhostuser.wire.constants import BackendRequest
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.messages import U64, Iotlb, Message, Payload, Reply, SharedObject, VringState
from vhostuser.wire.requests import BACKEND_REQUESTS

B = BackendRequest
MISS = Iotlb(0x1000, 0, 0, 1, 1)
LOOKUP = SharedObject(bytes(16))


def front_end_reads(content: bytes) -> Message:
    front_end = Connection(BACKEND_REQUESTS)
    front_end.receive(content[:12])
    front_end.receive(content[12:])
    message = front_end.next_message()
    assert message is not None
    return message


def deliver(channel: BackendChannel, request: BackendRequest, payload: Payload, *fds: int) -> None:
    content = Connection().encode(Reply(request, payload))
    channel.receive(content[:12], fds)
    channel.receive(content[12:])


def test_acks_are_matched_in_order() -> None:
    channel = BackendChannel(P.BACKEND_REQ | P.REPLY_ACK)
    assert front_end_reads(channel.encode(B.IOTLB_MSG, MISS, want_ack=True)).need_reply
    channel.encode(B.VRING_CALL, VringState(0, 0), want_ack=True)
    assert channel.unanswered == 2

    deliver(channel, B.IOTLB_MSG, U64(0))
    assert channel.next_ack() == Ack(B.IOTLB_MSG, MISS, 0)
    deliver(channel, B.VRING_CALL, U64(1))
    ack = channel.next_ack()

    assert ack is not None
    assert not ack.is_fine
    assert channel.unanswered == 0


def test_no_answer_is_waited_for_without_reply_ack() -> None:
    channel = BackendChannel(P.BACKEND_REQ)
    assert not front_end_reads(channel.encode(B.IOTLB_MSG, MISS, want_ack=True)).need_reply
    assert channel.unanswered == 0


def test_lookup_is_always_answered_and_brings_its_fd() -> None:
    channel = BackendChannel(P.BACKEND_REQ)
    channel.encode(B.SHARED_OBJECT_LOOKUP, LOOKUP)
    deliver(channel, B.SHARED_OBJECT_LOOKUP, U64(0), 9)
    ack = channel.next_ack()
    assert ack == Ack(B.SHARED_OBJECT_LOOKUP, LOOKUP, 0, (9,))
    assert ack.is_fine


def test_half_an_answer_is_none_yet() -> None:
    channel = BackendChannel(P.BACKEND_REQ)
    assert channel.bytes_wanted == 12
    assert channel.next_ack() is None


@pytest.mark.parametrize(("asked", "awaited"), [((), "nothing"), ((B.IOTLB_MSG,), "IOTLB_MSG")])
def test_an_answer_that_nobody_waits_for_ends_the_channel(
    asked: tuple[BackendRequest, ...], awaited: str
) -> None:
    channel = BackendChannel(P.REPLY_ACK)
    for request in asked:
        channel.encode(request, MISS, want_ack=True)
    deliver(channel, B.VRING_CALL, U64(0), 9)

    with pytest.raises(FramingError, match=f"VRING_CALL: 4> where {awaited} waits for an answer"):
        channel.next_ack()
    assert channel.pending_fds() == [9]
    assert channel.pending_fds() == []


def test_fds_of_half_an_answer_are_pending() -> None:
    channel = BackendChannel(P.REPLY_ACK)
    channel.receive(b"\1", [9])
    assert channel.pending_fds() == [9]
