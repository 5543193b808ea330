from __future__ import annotations

import pytest

from vhostuser.errors import RequestError
from vhostuser.session.replies import Answer, RefusedWith, Unanswered, WithFds, ask, decide
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.messages import U64, Config, Empty, Log, Malformed, Message, Reply
from vhostuser.wire.requests import FRONTEND_REQUESTS, ReplyKind

NO = RequestError("no")
ACKS = P.REPLY_ACK


def answer(
    request: int,
    outcome: Answer | RequestError | None,
    *,
    need_reply: bool = True,
    acked: P = ACKS,
) -> Reply | None:
    message = Message(request, Malformed("not looked at"), need_reply)
    return decide(ask(message, FRONTEND_REQUESTS.get(request), acked), outcome)


@pytest.mark.parametrize(("outcome", "value"), [(None, 0), (NO, 1)])
def test_ack_says_0_or_not(outcome: RequestError | None, value: int) -> None:
    assert answer(Request.SET_VRING_NUM, outcome) == Reply(Request.SET_VRING_NUM, U64(value))


@pytest.mark.parametrize("outcome", [None, NO])
@pytest.mark.parametrize(("need_reply", "acked"), [(False, ACKS), (True, P(0)), (False, P(0))])
def test_ack_needs_both_the_flag_and_the_feature(
    outcome: RequestError | None, need_reply: bool, acked: P
) -> None:
    assert answer(Request.SET_VRING_NUM, outcome, need_reply=need_reply, acked=acked) is None


@pytest.mark.parametrize("need_reply", [True, False])
@pytest.mark.parametrize("acked", [P(0), ACKS])
def test_own_payload_is_sent_whatever_was_negotiated_and_nothing_on_top(need_reply: bool, acked: P) -> None:
    reply = answer(Request.GET_FEATURES, U64(5), need_reply=need_reply, acked=acked)
    assert reply == Reply(Request.GET_FEATURES, U64(5))


def test_own_payload_refused_is_raised() -> None:
    with pytest.raises(RequestError, match="no"):
        answer(Request.GET_VRING_BASE, NO)


def test_own_payload_refused_with_an_answer_is_answered() -> None:
    error = Config(300, 0, 0, b"")
    assert answer(Request.GET_CONFIG, RefusedWith("no", error)) == Reply(Request.GET_CONFIG, error)


def test_own_payload_with_fds_takes_them_along() -> None:
    reply = answer(Request.POSTCOPY_ADVISE, WithFds(Empty(), (7,)))
    assert reply == Reply(Request.POSTCOPY_ADVISE, Empty(), (7,))


def test_own_payload_that_is_missing_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="without one"):
        answer(Request.GET_FEATURES, None)


@pytest.mark.parametrize(
    ("request_", "acceptance", "refusal"),
    [(Request.IOTLB_MSG, 0, 1), (Request.POSTCOPY_END, 0, 1), (Request.SET_DEVICE_STATE_FD, 0x100, 0x101)],
)
@pytest.mark.parametrize("need_reply", [True, False])
def test_always_u64_is_sent_without_being_asked_for(
    request_: Request, acceptance: int, refusal: int, need_reply: bool
) -> None:
    assert answer(request_, NO, need_reply=need_reply, acked=P(0)) == Reply(request_, U64(refusal))
    assert answer(request_, None, need_reply=need_reply, acked=P(0)) == Reply(request_, U64(acceptance))


def test_log_base_is_acknowledged_without_log_shmfd_and_answered_with_it() -> None:
    assert answer(Request.SET_LOG_BASE, None, need_reply=False) is None
    assert answer(Request.SET_LOG_BASE, None) == Reply(Request.SET_LOG_BASE, U64(0))
    echo = Log(4096, 0)
    assert answer(Request.SET_LOG_BASE, echo, acked=P.LOG_SHMFD) == Reply(Request.SET_LOG_BASE, echo)


@pytest.mark.parametrize("request_", [Request.SET_MEM_TABLE, Request.ADD_MEM_REG])
def test_memory_is_acknowledged_outside_postcopy(request_: Request) -> None:
    assert ask(Message(request_, Empty()), FRONTEND_REQUESTS[request_], P(0)).kind is ReplyKind.ACK


@pytest.mark.parametrize("request_", [Request.SET_MEM_TABLE, Request.ADD_MEM_REG])
def test_memory_has_an_own_reply_in_postcopy(request_: Request) -> None:
    asked = ask(Message(request_, Empty()), FRONTEND_REQUESTS[request_], P(0), in_postcopy=True)

    assert asked.kind is ReplyKind.OWN
    assert decide(asked, Unanswered()) is None


@pytest.mark.parametrize("number", [0, 46, 0x7FFFFFFF])
def test_request_that_does_not_exist_is_nacked(number: int) -> None:
    assert answer(number, NO) == Reply(number, U64(1))
    assert answer(number, NO, need_reply=False) is None
