"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import os
import re
import struct

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from tests.frontend.check.test_negotiation import Deaf, Ends
from vhostuser.wire.constants import REPLY_FLAGS, Request

RX, TX = 0, 1


class StartsAtAddr(Fault):
    """Rings run as soon as their addresses are known, and are polled."""

    def request(self, line: Line, said: Said) -> None:
        index = said.word() if said.request == Request.SET_VRING_ADDR else None
        line.up(said)
        if index is not None:
            line.up(Said(Request.SET_VRING_KICK, 1, struct.pack("=Q", index | 0x100)))
            line.up(Said(Request.SET_VRING_ENABLE, 1, struct.pack("=II", index, 1)))


class NeedsKick(Fault):
    """SET_VRING_KICK reaches the server only when the fd has been written to."""

    def begin(self, line: Line) -> None:
        self.kept: list[Said] = []

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_KICK:
            line.swallow(Said(said.request, said.flags, said.body))
            self.kept.append(said)
            line.on_close = self.forget
        else:
            line.up(said)

    def forget(self) -> None:
        for said in self.kept:
            said.close()


class EnabledAtOnce(Fault):
    """Rings are enabled from the start, and nothing disables them."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_ENABLE:
            line.swallow(said)
        elif said.request == Request.SET_FEATURES:
            said.body = struct.pack("=Q", said.number() & ~(1 << 30))
            line.up(said)
        else:
            line.up(said)


class SleepsThroughEnable(Fault):
    """A ring is enabled when its kick fd is written to, and not before."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_ENABLE and said.word(4):
            line.swallow(said)
        else:
            line.up(said)


class StopsWhenDisabled(Fault):
    """A disabled ring is not served at all."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_ENABLE and not said.word(4):
            line.quietly(Said(Request.GET_VRING_BASE, 1, said.body))
            line.swallow(said)
        else:
            line.up(said)


class NeverStops(Fault):
    """GET_VRING_BASE has an answer and no effect."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.GET_VRING_BASE:
            line.answer(said, struct.pack("=II", said.word(), 0))
        else:
            line.up(said)


class StartsWhenEnabled(Fault):
    """A stopped ring runs on when it is enabled: its stop was put off until then."""

    def begin(self, line: Line) -> None:
        self.kicks: dict[int, int] = {}
        line.on_close = self.forget

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_KICK and said.word() not in self.kicks:
            self.kicks[said.word()] = os.dup(said.fds[0])
        index, enables = (said.word(), said.word(4)) if said.request == Request.SET_VRING_ENABLE else (0, 0)
        line.up(said)
        if enables and index in self.kicks:
            fds = [os.dup(self.kicks[index])]
            line.up(Said(Request.SET_VRING_KICK, 1, struct.pack("=Q", index), fds))

    def forget(self) -> None:
        for fd in self.kicks.values():
            os.close(fd)


class Forgets(Fault):
    """GET_VRING_BASE answers 0 for a ring that has moved."""

    def reply(self, line: Line, said: Said) -> None:
        if said.request == Request.GET_VRING_BASE:
            said.body = struct.pack("=II", said.word(), 0)
        line.down(said)


class OtherRing(Fault):
    """GET_VRING_BASE answers for ring 0 whatever it is asked."""

    def reply(self, line: Line, said: Said) -> None:
        if said.request == Request.GET_VRING_BASE:
            said.body = struct.pack("=II", 0, said.word(4))
        line.down(said)


class Grows(Fault):
    """Each GET_VRING_BASE answers one more."""

    def begin(self, line: Line) -> None:
        self.more = 0

    def reply(self, line: Line, said: Said) -> None:
        if said.request == Request.GET_VRING_BASE:
            self.more += 1
            said.body = struct.pack("=II", said.word(), said.word(4) + self.more)
        line.down(said)


class StopsBoth(Fault):
    """GET_VRING_BASE of one ring stops its neighbour, too."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.GET_VRING_BASE:
            line.quietly(Said(Request.GET_VRING_BASE, 1, struct.pack("=II", said.word() ^ 1, 0)))
        line.up(said)


class KeepsCall(Fault):
    """The call fd stays open after GET_VRING_BASE."""

    def begin(self, line: Line) -> None:
        self.kept: list[int] = []
        line.on_close = self.forget

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_CALL:
            self.kept += map(os.dup, said.fds)
        line.up(said)

    def forget(self) -> None:
        for fd in self.kept:
            os.close(fd)


class FirstKickOnly(Fault):
    """A ring is looked at when it is started, and a second SET_VRING_KICK is acknowledged only."""

    def begin(self, line: Line) -> None:
        self.seen: set[int] = set()

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_KICK:
            if said.word() in self.seen:
                line.swallow(said)
                return
            self.seen.add(said.word())
        line.up(said)


class Calls(Fault):
    """A call comes when the ring has been stopped."""

    def begin(self, line: Line) -> None:
        self.fds: dict[int, int] = {}
        line.on_close = self.forget

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_CALL and said.fds:
            self.forget_one(said.word() & 0xFF)
            self.fds[said.word() & 0xFF] = os.dup(said.fds[0])
        line.up(said)

    def reply(self, line: Line, said: Said) -> None:
        index = said.word()
        line.down(said)
        if said.request == Request.GET_VRING_BASE and index in self.fds:
            self.meddler.pause()
            self.meddler.pause()
            os.eventfd_write(self.fds[index], 1)

    def forget_one(self, index: int) -> None:
        if index in self.fds:
            os.close(self.fds.pop(index))

    def forget(self) -> None:
        for index in list(self.fds):
            self.forget_one(index)


@pytest.mark.parametrize(
    ("check", "fault", "seen"),
    [
        ("untouched-before-kick", StartsAtAddr(), "1 given back"),
        ("starts-without-a-kick", NeedsKick(), "1 of 1 still out"),
        ("starts-disabled", EnabledAtOnce(), "1 buffers used"),
        ("enabled-late", SleepsThroughEnable(), "none|still out"),
        ("disabled-transmit", StopsWhenDisabled(), "4 of 4 still out"),
        ("disabled-transmit", EnabledAtOnce(), "one came back"),
        ("disabled-receive", EnabledAtOnce(), "1 buffers used"),
        ("disabled-receive", StopsWhenDisabled(), "none"),
        ("stopped", NeverStops(), "1 given back"),
        ("stopped-stays-stopped", StartsWhenEnabled(), "1 given back"),
        ("quiet-after-stop", NeverStops(), r"\(\d+, \d+\)"),
        ("quiet-after-stop", Calls(), "[12]"),
        ("base", Forgets(), "^0$"),
        ("stop-twice", Grows(), r"\[\d+, \d+, \d+\]"),
        ("base-of-unknown-rings", Ends(Request.GET_VRING_BASE, 2), "end of the connection"),
        ("base-of-unknown-rings", OtherRing(), "0000000000000000"),
        ("start-again", Deaf(Request.SET_VRING_KICK), "still out"),
        ("start-again", FirstKickOnly(), "still out"),
        ("sent-while-stopped", FirstKickOnly(), "1 of 1 still out"),
        ("rings-are-independent", StopsBoth(), "1 of 1 still out"),
        ("fds-closed-at-stop", KeepsCall(), "still open"),
        ("without-bit-30", Deaf(Request.SET_FEATURES), "none|still out"),
        ("started-again-while-running", FirstKickOnly(), "1 of 1 still out"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else value,
)
def test_fault_is_found(finds: FindsFault, check: str, fault: Fault, seen: str) -> None:
    assert re.search(seen, finds(check, fault))


def test_replies_have_the_flags_that_the_meddler_gives() -> None:
    assert Said(1, REPLY_FLAGS, b"").flags == 5
