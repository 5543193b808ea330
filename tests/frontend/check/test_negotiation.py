"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import os
import re
import struct

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from tests.frontend.check.test_framing import OtherReplies, Yes
from vhostuser.wire.constants import Request


class Shrinks(Fault):
    """Every connection is offered one feature fewer."""

    def __init__(self) -> None:
        self.connections = 0

    def begin(self, line: Line) -> None:
        self.connections += 1

    def reply(self, line: Line, said: Said) -> None:
        if said.request == Request.GET_FEATURES and self.connections > 1:
            said.body = struct.pack("=Q", said.number() & ~0x8000)
        line.down(said)


class Lacks(Fault):
    """Some features are not offered."""

    is_in_the_offer = True

    def __init__(self, features: int) -> None:
        self.features = features

    def reply(self, line: Line, said: Said) -> None:
        if said.request == Request.GET_FEATURES:
            said.body = struct.pack("=Q", said.number() & ~self.features)
        line.down(said)


class Ends(Fault):
    """A request ends the connection: always, or from its second time on."""

    def __init__(self, request: Request, times: int = 1) -> None:
        self.deadly = request
        self.times = times

    def begin(self, line: Line) -> None:
        self.seen = 0

    def request(self, line: Line, said: Said) -> None:
        self.seen += said.request == self.deadly
        if self.seen >= self.times:
            said.close()
            line.hang_up()
        else:
            line.up(said)


class Deaf(Fault):
    """A request is acknowledged and nothing done."""

    def __init__(self, request: Request) -> None:
        self.ignored = request

    def request(self, line: Line, said: Said) -> None:
        if said.request == self.ignored:
            line.swallow(said)
        else:
            line.up(said)


class NeedsGet(Fault):
    """SET_PROTOCOL_FEATURES counts after GET_PROTOCOL_FEATURES only."""

    def begin(self, line: Line) -> None:
        self.asked = False

    def request(self, line: Line, said: Said) -> None:
        self.asked = self.asked or said.request == Request.GET_PROTOCOL_FEATURES
        if said.request == Request.SET_PROTOCOL_FEATURES and not self.asked:
            said.close()
        else:
            line.up(said)


class Keeps(Fault):
    """Keeps the fds that a request brings, for ever."""

    def __init__(self, request: Request) -> None:
        self.kept_request = request
        self.kept: list[int] = []

    def request(self, line: Line, said: Said) -> None:
        if said.request == self.kept_request:
            self.kept += map(os.dup, said.fds)
        line.up(said)

    def close(self) -> None:
        for fd in self.kept:
            os.close(fd)


@pytest.mark.parametrize(
    ("check", "fault", "seen"),
    [
        ("bit-30", Lacks(1 << 30), "0x"),
        ("version-1", Lacks(1 << 32), "0x"),
        ("stable-offer", Shrinks(), "0x"),
        ("protocol-features-first", Ends(Request.GET_PROTOCOL_FEATURES, 2), "end of the connection"),
        ("protocol-features-unasked", NeedsGet(), "nothing"),
        ("protocol-features-again", Ends(Request.SET_PROTOCOL_FEATURES, 3), "no reply|gone|closed"),
        ("features-not-offered", Yes(), "an acknowledgement of 0"),
        ("protocol-features-not-offered", Yes(), "an acknowledgement of 0"),
        ("queue-num", OtherReplies(Request.GET_QUEUE_NUM, struct.pack("=Q", 0)), "0"),
        ("queue-num", OtherReplies(Request.GET_QUEUE_NUM, struct.pack("=Q", 1 << 32)), "4294967296"),
        ("queue-num-of-a-pair", OtherReplies(Request.GET_QUEUE_NUM, struct.pack("=Q", 1)), "1"),
        ("owner-again", Ends(Request.SET_OWNER, 2), "end of the connection"),
        ("reset-owner", Ends(Request.RESET_OWNER), "its end"),
        ("reset-device", Deaf(Request.RESET_DEVICE), "1 given back"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else value,
)
def test_fault_is_found(finds: FindsFault, check: str, fault: Fault, seen: str) -> None:
    assert re.search(seen, finds(check, fault))


@pytest.mark.parametrize(
    ("check", "request_"),
    [
        ("backend-channel", Request.SET_BACKEND_REQ_FD),
        ("fds-are-closed", Request.SET_VRING_CALL),
    ],
)
def test_fds_that_are_kept_are_found(finds: FindsFault, check: str, request_: Request) -> None:
    fault = Keeps(request_)
    try:
        assert "still open" in finds(check, fault)
    finally:
        fault.close()


def test_a_channel_that_is_closed_at_once_is_found(finds: FindsFault) -> None:
    assert "closed at once" in finds("backend-channel", Deaf(Request.SET_BACKEND_REQ_FD))
