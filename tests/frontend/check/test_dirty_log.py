"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import os
import re
import struct

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from tests.frontend.check.test_ring_formats import Without
from vhostuser.wire.constants import Request
from vhostuser.wire.features import VirtioFeature as V

LOG_ALL = int(V.LOG_ALL)


class OtherBase(Fault):
    """The log is not where it was said to be."""

    def __init__(self, size: int | None = None, offset: int = 0) -> None:
        self.size = size
        self.offset = offset

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_LOG_BASE:
            size, _ = struct.unpack("=QQ", said.body)
            said.body = struct.pack("=QQ", self.size or size, self.offset)
        line.up(said)


class FirstLogOnly(Fault):
    """A second log is acknowledged, and the first one written on."""

    def begin(self, line: Line) -> None:
        self.logs = 0

    def request(self, line: Line, said: Said) -> None:
        self.logs += said.request == Request.SET_LOG_BASE
        if said.request == Request.SET_LOG_BASE and self.logs > 1:
            line.answer(said, said.body)
        else:
            line.up(said)


class NoRingFlag(Fault):
    """What is written to used rings is not logged."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_ADDR:
            said.body = struct.pack("=II", said.word(), 0) + said.body[8:]
        line.up(said)


class LogsForEver(Fault):
    """Logging cannot be switched off."""

    def begin(self, line: Line) -> None:
        self.on = False

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_FEATURES:
            self.on = self.on or bool(said.number() & LOG_ALL)
            said.body = struct.pack("=Q", said.number() | (LOG_ALL if self.on else 0))
        line.up(said)


class MarksAll(Fault):
    """A log is filled with ones when it comes."""

    def request(self, line: Line, said: Said) -> None:
        fd = os.dup(said.fds[0]) if said.request == Request.SET_LOG_BASE else None
        line.up(said)
        if fd is not None:
            self.fd = fd
            line.on_close = lambda: os.close(fd)

    def reply(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_ADDR and hasattr(self, "fd"):
            os.pwrite(self.fd, b"\xff" * 64, 32)
        line.down(said)


class MarksLater(MarksAll):
    """A page is marked when the ring has been stopped already."""

    def reply(self, line: Line, said: Said) -> None:
        line.down(said)
        if said.request == Request.GET_VRING_BASE and said.word() == 1:
            self.meddler.pause()
            self.meddler.pause()
            os.pwrite(self.fd, b"\xff", 32)


class Shifted(Fault):
    """Guest addresses lose what is beyond 4 GiB when they are logged."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_LOG_BASE:
            size, offset = struct.unpack("=QQ", said.body)
            said.body = struct.pack("=QQ", min(size, 1 << 17), offset)
        line.up(said)


NOT_MARKED = "not marked"


@pytest.mark.parametrize(
    ("check", "fault", "seen"),
    [
        ("log-frames", Without(V.LOG_ALL), NOT_MARKED),
        ("log-frames", OtherBase(size=1), NOT_MARKED),
        ("log-packed-frames", Without(V.LOG_ALL), NOT_MARKED),
        ("log-used-ring", NoRingFlag(), NOT_MARKED),
        ("log-high-memory", Shifted(), NOT_MARKED),
        ("log-offset", OtherBase(), NOT_MARKED),
        ("log-offset-within-a-page", OtherBase(offset=4096), NOT_MARKED),
        ("log-without-base", Without(V.LOG_ALL), NOT_MARKED),
        ("log-cancelled", LogsForEver(), "[0-9]+ pages"),
        ("log-replaced", FirstLogOnly(), NOT_MARKED),
        ("log-nothing-else", MarksAll(), "marked, too"),
        ("log-when-stopped", MarksLater(), "[0-9]+ pages"),
        ("log-when-stopped", Without(V.LOG_ALL), NOT_MARKED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else value,
)
def test_fault_is_found(finds: FindsFault, check: str, fault: Fault, seen: str) -> None:
    assert re.search(seen, finds(check, fault))
