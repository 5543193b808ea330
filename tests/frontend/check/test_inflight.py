"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import os
import re

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from tests.frontend.check.test_negotiation import Deaf
from vhostuser.wire.constants import Request


class OneQueueLess(Fault):
    """The region is for fewer rings than were asked for."""

    def reply(self, line: Line, said: Said) -> None:
        if said.request == Request.GET_INFLIGHT_FD:
            said.body = said.body[:16] + bytes([said.body[16] - 1]) + said.body[17:]
        line.down(said)


class FileTooShort(Fault):
    """The file ends before the region does."""

    def reply(self, line: Line, said: Said) -> None:
        if said.request == Request.GET_INFLIGHT_FD:
            said.close()
            said.fds = [os.memfd_create("short")]
        line.down(said)


class FullOfOld(Fault):
    """Chains of another life are in a region that was just made."""

    def reply(self, line: Line, said: Said) -> None:
        if said.request == Request.GET_INFLIGHT_FD:
            os.pwrite(said.fds[0], b"\1" * 512, 64)
        line.down(said)


@pytest.mark.parametrize(
    ("check", "fault", "seen"),
    [
        ("inflight-made", OneQueueLess(), r"\(1, 64\)"),
        ("inflight-made-packed", FileTooShort(), "^0$"),
        ("inflight-made", FullOfOld(), "bytes that are not 0"),
        ("inflight-used", Deaf(Request.SET_VRING_ENABLE), "still out|none"),
        ("inflight-used-packed", Deaf(Request.SET_VRING_ENABLE), "still out|none"),
        ("inflight-bad-size", Deaf(Request.SET_INFLIGHT_FD), "."),
        ("inflight-bad-offset", Deaf(Request.SET_INFLIGHT_FD), "."),
        ("inflight-bad-overflow", Deaf(Request.SET_INFLIGHT_FD), "."),
        ("inflight-bad-small", Deaf(Request.SET_INFLIGHT_FD), "."),
        ("inflight-bad-nothing", Deaf(Request.SET_INFLIGHT_FD), "."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else value,
)
def test_fault_is_found(finds: FindsFault, check: str, fault: Fault, seen: str) -> None:
    assert re.search(seen, finds(check, fault))
