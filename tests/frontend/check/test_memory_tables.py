"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from tests.frontend.check.test_negotiation import Ends
from vhostuser.wire.constants import Request

Row = tuple[int, int, int, int]
"""gpa, size, uva, offset"""


def rows(said: Said) -> list[Row]:
    return list(struct.iter_unpack("=QQQQ", said.body[8:]))


class Changed(Fault):
    """Every row of a table is understood in a wrong way."""

    def __init__(self, change: Callable[[Row], Row]) -> None:
        self.change = change

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_MEM_TABLE:
            changed = b"".join(struct.pack("=QQQQ", *self.change(row)) for row in rows(said))
            said.body = said.body[:8] + changed
        line.up(said)


class Refused(Fault):
    """Tables are refused for no good reason."""

    def __init__(self, when: Callable[[list[Row]], bool]) -> None:
        self.when = when

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_MEM_TABLE and self.when(rows(said)):
            line.swallow(said, 1)
        else:
            line.up(said)


class DropsRegions(Fault):
    """Only the first region of a table counts."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_MEM_TABLE:
            for fd in said.fds[1:]:
                os.close(fd)
            said.fds = said.fds[:1]
            said.body = struct.pack("=II", 1, 0) + said.body[8:40]
        line.up(said)


class FirstTableOnly(Fault):
    def begin(self, line: Line) -> None:
        self.tables = 0

    def request(self, line: Line, said: Said) -> None:
        self.tables += said.request == Request.SET_MEM_TABLE
        if said.request == Request.SET_MEM_TABLE and self.tables > 1:
            line.swallow(said)
        else:
            line.up(said)


class ForgetsWhenRefusing(Fault):
    """A table that is refused takes the one before with it."""

    def begin(self, line: Line) -> None:
        self.tables = 0

    def request(self, line: Line, said: Said) -> None:
        self.tables += said.request == Request.SET_MEM_TABLE
        if said.request == Request.SET_MEM_TABLE and self.tables > 1:
            line.swallow(said, 1)
            fd = os.memfd_create("other")
            os.ftruncate(fd, 4096)
            body = struct.pack("=IIQQQQ", 1, 0, 1 << 40, 4096, 1 << 40, 0)
            line.up(Said(Request.SET_MEM_TABLE, 1, body, [fd]))
        else:
            line.up(said)


class DiesOfTables(Fault):
    """The process does not survive so many tables of one connection."""

    def __init__(self, most: int) -> None:
        self.most = most

    def begin(self, line: Line) -> None:
        self.tables = 0

    def request(self, line: Line, said: Said) -> None:
        self.tables += said.request == Request.SET_MEM_TABLE
        if self.tables > self.most:
            said.close()
            self.meddler.die()
        else:
            line.up(said)


LOST = "still out|none|no frame of ours|refused"


@pytest.mark.parametrize(
    ("check", "fault", "seen"),
    [
        ("high-memory", Changed(lambda row: (row[0] & 0xFFFFFFFF, *row[1:])), LOST),
        ("equal-addresses", Refused(lambda rows: rows[0][0] == rows[0][2]), "refused"),
        ("one-file-in-two-regions", Changed(lambda row: (*row[:3], 0)), LOST),
        ("offset-within-a-page", Changed(lambda row: (*row[:3], row[3] & ~4095)), LOST),
        ("unordered-regions", Refused(lambda rows: rows != sorted(rows)), "refused"),
        ("eight-regions", Refused(lambda rows: len(rows) > 7), "refused"),
        ("eight-regions", DropsRegions(), LOST),
        ("32-regions", Refused(lambda rows: len(rows) > 8), "refused"),
        ("sent-across-regions", DropsRegions(), LOST),
        ("received-across-regions", DropsRegions(), LOST),
        ("same-table-in-traffic", Ends(Request.SET_MEM_TABLE, 3), "no reply|gone|closed"),
        ("plugged-in-traffic", FirstTableOnly(), LOST),
        ("plugged-while-disabled", FirstTableOnly(), LOST),
        ("refused-table-in-traffic", ForgetsWhenRefusing(), LOST),
        ("rings-outside-the-table", DiesOfTables(1), "the back-end ended"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else value,
)
def test_fault_is_found(finds: FindsFault, check: str, fault: Fault, seen: str) -> None:
    assert re.search(seen, finds(check, fault))
