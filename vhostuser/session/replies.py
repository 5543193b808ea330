"""What is answered to a request, decided in one place.

One reply too many or too few puts a front-end out of step for good, and QEMU waits for each with its big lock
held. So nobody else makes a reply: the row of the request says which kind it has, `ask` notes what was
negotiated when the request came, and `decide` turns what came of it into the reply.
"""

from __future__ import annotations

from dataclasses import dataclass

from vhostuser.errors import RequestError
from vhostuser.wire.features import ProtocolFeature
from vhostuser.wire.messages import U64, Message, Payload, Reply
from vhostuser.wire.requests import ReplyKind, RequestRow


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and what its reply depends on as that was when it came."""

    message: Message
    kind: ReplyKind
    wants_ack: bool
    acceptance: int
    refusal: int


@dataclass(frozen=True, slots=True)
class WithFds:
    """A payload and the fds that go with it. They belong to the answer, that is to whoever sends it."""

    payload: Payload
    fds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Served, and not to be answered whatever kind its request has: the front-end's own acknowledgement."""


Answer = Payload | WithFds | Unanswered


class RefusedWith(RequestError):
    """A refusal that is told with an answer of the request's own kind; the connection goes on."""

    def __init__(self, reason: str, answer: Payload) -> None:
        super().__init__(reason)
        self.answer = answer


class EndsConnection(RequestError):
    """A refusal after which the connection has to end, whatever kind of reply its request has."""


def ask(
    message: Message, row: RequestRow | None, acked: ProtocolFeature, *, in_postcopy: bool = False
) -> Asked:
    """Note how ``message`` is to be answered; ``row`` is None for a request that does not exist.

    Called before the request is served: SET_PROTOCOL_FEATURES is acknowledged by what was negotiated before
    it.
    """
    wants_ack = message.need_reply and ProtocolFeature.REPLY_ACK in acked
    if row is None:
        return Asked(message, ReplyKind.ACK, wants_ack, acceptance=0, refusal=1)
    kind = row.reply
    if kind is ReplyKind.OWN_WITH_LOG_SHMFD:
        kind = ReplyKind.OWN if ProtocolFeature.LOG_SHMFD in acked else ReplyKind.ACK
    elif kind is ReplyKind.OWN_IN_POSTCOPY:
        kind = ReplyKind.OWN if in_postcopy else ReplyKind.ACK
    return Asked(message, kind, wants_ack, row.acceptance, row.refusal)


def decide(asked: Asked, outcome: Answer | RequestError | None) -> Reply | None:
    """The reply to a request that was served with ``outcome``: its own payload, a u64 (0 says yes, but for
    SET_DEVICE_STATE_FD), or none.

    Raises the refusal of a request that is answered with a payload of its own. There is no payload that says
    no, and a front-end that gets nothing hangs: the connection has to end. Raises `EndsConnection` as well.
    """
    request = asked.message.request
    if isinstance(outcome, EndsConnection):
        raise outcome
    if asked.kind is ReplyKind.OWN:
        if isinstance(outcome, RefusedWith):
            return Reply(request, outcome.answer)
        if isinstance(outcome, RequestError):
            raise outcome
        assert outcome is not None, "a request with a reply of its own was served without one"
        if isinstance(outcome, Unanswered):
            return None
        if isinstance(outcome, WithFds):
            return Reply(request, outcome.payload, outcome.fds)
        return Reply(request, outcome)
    if asked.kind is ReplyKind.ACK and not asked.wants_ack:
        return None
    is_refused = isinstance(outcome, RequestError)
    return Reply(request, U64(asked.refusal if is_refused else asked.acceptance))
