"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import struct

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from tests.frontend.check.test_bad_ring_setup import DiesOf
from tests.frontend.check.test_framing import Yes
from vhostuser.frontend.check.hostile_messages import BODIES
from vhostuser.wire.constants import FLAG_NEED_REPLY, FLAG_REPLY, REPLY_FLAGS, Request


class DiesWhen(Fault):
    """The process ends at a message of some kind."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def request(self, line: Line, said: Said) -> None:
        right = BODIES[Request(said.request)] if said.request in BODIES else None
        size = len(said.body)
        deadly = {
            "short": right is not None and size == len(right) - 1,
            "long": right is not None and size == len(right) + 1,
            "missing": right is not None and len(right) > 0 and size == 0,
            "version": said.flags & 3 != 1,
            "reply": bool(said.flags & FLAG_REPLY),
            "flags": bool(said.flags >> 4),
            "zero": said.request == 0,
            "iotlb": said.request == Request.IOTLB_MSG,
        }[self.kind]
        if deadly:
            said.close()
            self.meddler.die()
        else:
            line.up(said)


class DiesOfEnormous(Fault):
    def begin(self, line: Line) -> None:
        line.on_close = lambda: self.meddler.die() if line.is_raw else None


class AnswersAll(Fault):
    """What nobody knows is acknowledged with 0."""

    def request(self, line: Line, said: Said) -> None:
        if said.request > 45 and said.flags & FLAG_NEED_REPLY:
            said.close()
            line.down(Said(said.request, REPLY_FLAGS, struct.pack("=Q", 0)))
        else:
            line.up(said)


@pytest.mark.parametrize(
    ("check", "fault"),
    [
        ("payloads-too-short", DiesWhen("short")),
        ("payloads-too-long", DiesWhen("long")),
        ("payloads-missing", DiesWhen("missing")),
        ("payloads-enormous", DiesOfEnormous()),
        ("wrong-versions", DiesWhen("version")),
        ("replies-as-requests", DiesWhen("reply")),
        ("undefined-flags", DiesWhen("flags")),
        ("not-negotiated", DiesWhen("iotlb")),
        ("zeros", DiesWhen("zero")),
        ("ones", DiesOfEnormous()),
        ("random-messages", DiesWhen("zero")),
        ("ring-that-changes", DiesOf(Request.SET_VRING_ENABLE, 2)),
        ("memory-that-goes-away", DiesOf(Request.SET_VRING_KICK, 4)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else value,
)
def test_an_end_of_the_process_is_found(finds: FindsFault, check: str, fault: Fault) -> None:
    assert "the back-end ended" in finds(check, fault)


@pytest.mark.parametrize("fault", [Yes(), AnswersAll()], ids=lambda fault: type(fault).__name__)
def test_a_request_that_nobody_knows_and_that_is_acknowledged_is_found(
    finds: FindsFault, fault: Fault
) -> None:
    assert finds("unknown-requests", fault) == "an acknowledgement of 0"
