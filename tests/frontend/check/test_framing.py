"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import contextlib
import struct

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from vhostuser.wire.constants import FLAG_NEED_REPLY, REPLY_FLAGS, Request


class Flags(Fault):
    """Replies keep NEED_REPLY of their request, as they must not."""

    def reply(self, line: Line, said: Said) -> None:
        line.down(Said(said.request, REPLY_FLAGS | FLAG_NEED_REPLY, said.body, said.fds))


class InTwoPieces(Fault):
    def reply(self, line: Line, said: Said) -> None:
        with contextlib.suppress(BrokenPipeError):
            line.check.sendall(said.content[:12])
            self.meddler.pause()
            line.check.sendall(said.content[12:])


class Twice(Fault):
    """Every reply to one request comes twice."""

    def __init__(self, request: Request) -> None:
        self.again = request

    def reply(self, line: Line, said: Said) -> None:
        line.down(said)
        if said.request == self.again:
            line.down(said)


class AckUnasked(Fault):
    """A request is acknowledged whether that was asked for or not."""

    def __init__(self, request: Request) -> None:
        self.wrong = request

    def request(self, line: Line, said: Said) -> None:
        was_asked = said.flags & FLAG_NEED_REPLY
        line.up(said)
        if said.request == self.wrong and not was_asked:
            line.down(Said(said.request, REPLY_FLAGS, bytes(8)))


class AckBeforeNegotiated(Fault):
    """Whoever asks is answered, negotiated or not."""

    def begin(self, line: Line) -> None:
        self.negotiated = False

    def request(self, line: Line, said: Said) -> None:
        asked = said.flags & FLAG_NEED_REPLY and said.request != Request.GET_FEATURES
        line.up(said)
        if asked and not self.negotiated:
            line.down(Said(said.request, REPLY_FLAGS, bytes(8)))
        if said.request == Request.SET_PROTOCOL_FEATURES:
            self.negotiated = bool(said.number() & 8)


class Yes(Fault):
    """Nothing is refused."""

    def reply(self, line: Line, said: Said) -> None:
        if said.request not in (Request.GET_FEATURES, Request.GET_PROTOCOL_FEATURES) and len(said.body) == 8:
            said.body = bytes(8)
        line.down(said)


class Swapped(Fault):
    """Replies to requests that come together change places."""

    def begin(self, line: Line) -> None:
        self.kept: Said | None = None

    def reply(self, line: Line, said: Said) -> None:
        if self.kept is None:
            self.kept = said
        else:
            line.down(said)
            line.down(self.kept)
            self.kept = None


class Impatient(Fault):
    is_patient = False


class DeafWhileRunning(Fault):
    """GET_FEATURES has no answer once a ring was started."""

    def begin(self, line: Line) -> None:
        self.runs = False

    def request(self, line: Line, said: Said) -> None:
        self.runs = self.runs or said.request == Request.SET_VRING_KICK
        if self.runs and said.request == Request.GET_FEATURES:
            said.close()
        else:
            line.up(said)


class OtherReplies(Fault):
    """The replies to one request have another payload."""

    def __init__(self, request: Request, body: bytes) -> None:
        self.wrong = request
        self.body = body

    def reply(self, line: Line, said: Said) -> None:
        if said.request == self.wrong:
            said.body = self.body
        line.down(said)


class NoReply(Fault):
    def __init__(self, request: Request) -> None:
        self.unanswered = request

    def reply(self, line: Line, said: Said) -> None:
        if said.request != self.unanswered:
            line.down(said)


@pytest.mark.parametrize(
    ("check", "fault", "seen"),
    [
        ("reply-header", Flags(), "flags 0xd"),
        ("reply-header", OtherReplies(Request.GET_QUEUE_NUM, bytes(4)), "another size"),
        ("reply-in-one-piece", InTwoPieces(), "12"),
        ("one-ack", Twice(Request.SET_VRING_NUM), "a reply to SET_VRING_NUM of 8 bytes"),
        ("one-ack", NoReply(Request.SET_VRING_KICK), "nothing"),
        ("no-ack-unasked", AckUnasked(Request.SET_MEM_TABLE), "a reply to SET_MEM_TABLE of 8 bytes"),
        ("no-ack-before-reply-ack", AckBeforeNegotiated(), "a reply to SET_OWNER of 8 bytes"),
        ("no-ack-on-own-reply", Twice(Request.GET_VRING_BASE), "a reply to GET_VRING_BASE of 8 bytes"),
        ("nack", Yes(), "an acknowledgement of 0"),
        ("bytewise", Impatient(), "end"),
        ("fds-on-first-byte", Impatient(), "end"),
        ("get-features-any-time", DeafWhileRunning(), "no reply to GET_FEATURES"),
        ("log-base-reply", NoReply(Request.SET_LOG_BASE), "nothing"),
        ("log-base-reply", Twice(Request.SET_LOG_BASE), "a reply to SET_LOG_BASE of 16 bytes"),
        ("protocol-features-ack", AckBeforeNegotiated(), "a reply to SET_PROTOCOL_FEATURES"),
        ("pipelined", Swapped(), "one to GET_VRING_BASE"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else value,
)
def test_fault_is_found(finds: FindsFault, check: str, fault: Fault, seen: str) -> None:
    assert seen in finds(check, fault)


def test_number_of_a_said_is_its_payload() -> None:
    assert Said(1, 1, struct.pack("=Q", 7)).number() == 7
