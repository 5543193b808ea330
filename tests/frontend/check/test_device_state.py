"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import os
import re
import struct

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from tests.frontend.check.test_bad_ring_setup import DiesOf
from tests.frontend.check.test_framing import OtherReplies
from tests.frontend.check.test_ring_states import FirstKickOnly
from vhostuser.wire.constants import REPLY_FLAGS, TRANSFER_LOAD, Request


class KeepsWriter(Fault):
    """The state has no end: the fd stays open."""

    def __init__(self) -> None:
        self.kept: list[int] = []

    def begin(self, line: Line) -> None:
        line.on_close = self.close

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_DEVICE_STATE_FD:
            self.kept += map(os.dup, said.fds)
        line.up(said)

    def close(self) -> None:
        while self.kept:
            os.close(self.kept.pop())


class LoadsNothing(Fault):
    """Loading always goes well, for nothing is looked at; or never."""

    def __init__(self, result: int) -> None:
        self.result = result

    def begin(self, line: Line) -> None:
        self.loads = False

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_DEVICE_STATE_FD and said.word() == TRANSFER_LOAD:
            self.loads = True
        line.up(said)

    def reply(self, line: Line, said: Said) -> None:
        if said.request == Request.CHECK_DEVICE_STATE and self.loads:
            said.body = struct.pack("=Q", self.result)
        line.down(said)


class RefusesTransfers(Fault):
    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_DEVICE_STATE_FD:
            said.close()
            line.down(Said(said.request, REPLY_FLAGS, struct.pack("=Q", 0x101)))
        else:
            line.up(said)


@pytest.mark.parametrize(
    ("check", "fault", "seen"),
    [
        ("state-saved", KeepsWriter(), "no end"),
        ("state-saved", OtherReplies(Request.CHECK_DEVICE_STATE, struct.pack("=Q", 1)), "0x1"),
        ("state-saved", RefusesTransfers(), "0x101"),
        ("state-loaded", LoadsNothing(1), "0x1"),
        ("state-of-a-stopped-device", FirstKickOnly(), "still out|none"),
        ("state-of-nonsense", LoadsNothing(0), "^0$"),
        ("state-that-nobody-takes", DiesOf(Request.CHECK_DEVICE_STATE), "the back-end ended"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else value,
)
def test_fault_is_found(finds: FindsFault, check: str, fault: Fault, seen: str) -> None:
    assert re.search(seen, finds(check, fault))
