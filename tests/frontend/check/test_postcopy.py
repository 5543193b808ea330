"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import os
import re
import struct

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from vhostuser.wire.constants import Request

_REGION = struct.Struct("=QQQQ")


class OtherFd(Fault):
    """What comes with the answer to POSTCOPY_ADVISE is no userfaultfd, or nothing comes."""

    def __init__(self, has_fd: bool) -> None:
        self.has_fd = has_fd

    def reply(self, line: Line, said: Said) -> None:
        if said.request == Request.POSTCOPY_ADVISE:
            said.close()
            said = Said(said.request, said.flags, said.body, [os.eventfd(0)] if self.has_fd else [])
        line.down(said)


class OtherRegions(Fault):
    """The table that comes back is not the one that was said: one field is moved."""

    def __init__(self, field: int, by: int) -> None:
        self.field = field
        self.by = by

    def reply(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_MEM_TABLE and len(said.body) > 8:
            regions = list(_REGION.iter_unpack(said.body[8:]))
            moved = [
                [value + self.by * (at == self.field) for at, value in enumerate(region)]
                for region in regions
            ]
            said.body = said.body[:8] + b"".join(_REGION.pack(*region) for region in moved)
        line.down(said)


class Swallows(Fault):
    """A request is acknowledged, and the back-end never hears of it."""

    def __init__(self, request: Request) -> None:
        self.swallowed = request

    def request(self, line: Line, said: Said) -> None:
        if said.request == self.swallowed:
            line.swallow(said)
        else:
            line.up(said)


class WaitsForPages(Fault):
    """While a page is on its way nothing is answered: the driver asks for features after each message, and
    for no reason only then."""

    def begin(self, line: Line) -> None:
        self.is_deaf = False
        self.asked = 0

    def request(self, line: Line, said: Said) -> None:
        self.is_deaf |= said.request == Request.SET_VRING_ENABLE
        self.asked = self.asked + 1 if said.request == Request.GET_FEATURES else 0
        if not self.is_deaf or self.asked < 2:
            line.up(said)


@pytest.mark.parametrize(
    ("check", "fault", "seen"),
    [
        ("postcopy-advise", OtherFd(has_fd=False), "none"),
        ("postcopy-advise", OtherFd(has_fd=True), "eventfd"),
        ("postcopy-table", OtherRegions(0, 4096), r"\("),
        ("postcopy-table", OtherRegions(1, 4096), r"\("),
        ("postcopy-table", Swallows(Request.POSTCOPY_LISTEN), "Reply|reply"),
        ("postcopy-pages", OtherRegions(2, 1 << 40), "one at|no reply"),
        ("postcopy-pages-packed", OtherRegions(2, 1 << 40), "one at|no reply"),
        ("postcopy-end", Swallows(Request.POSTCOPY_END), "asked for"),
        ("postcopy-end-packed", Swallows(Request.POSTCOPY_END), "asked for"),
        ("postcopy-silence", WaitsForPages(), "reply|answer|time"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else value,
)
def test_fault_is_found(finds_in_postcopy: FindsFault, check: str, fault: Fault, seen: str) -> None:
    assert re.search(seen, finds_in_postcopy(check, fault))
