"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest

from tests.frontend.backend_double import BackendDouble
from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from tests.frontend.check.test_message_orders import CallNeedsNoKick, Seen
from tests.frontend.check.test_negotiation import Deaf
from tests.frontend.check.test_ring_states import FirstKickOnly
from tests.frontend.lockstep import LockstepDevice, RingDevice
from tests.frontend.packed_lockstep import PackedLockstepDevice
from vhostuser.wire.constants import Request


class NeverPolls(Fault):
    """A ring without a kick fd is not started."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_KICK and not said.fds:
            line.swallow(said)
        else:
            line.up(said)


class WaitsForCall(Seen):
    """No ring starts without a call fd."""

    def is_lost(self, said: Said) -> bool:
        return said.request == Request.SET_VRING_KICK and self.seen.count(Request.SET_VRING_CALL) < 3


class NeedsCallFd(Fault):
    """A call fd that does not come ends the connection."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_CALL and not said.fds:
            line.hang_up()
        else:
            line.up(said)


class DeafToKicks(Fault):
    """Another fd is watched than the one that was sent."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_KICK and said.fds:
            said.close()
            said.fds = [os.eventfd(0, os.EFD_NONBLOCK)]
        line.up(said)


@pytest.mark.parametrize(
    ("check", "fault", "seen"),
    [
        ("call-flags", Deaf(Request.SET_VRING_CALL), "none|still out"),
        ("call-event-idx", Deaf(Request.SET_VRING_CALL), "none|still out"),
        ("call-packed-flags", Deaf(Request.SET_VRING_CALL), "none|still out"),
        ("call-packed-event-idx", Deaf(Request.SET_VRING_CALL), "none|still out"),
        ("call-for-received", Deaf(Request.SET_VRING_CALL), "none|still out"),
        ("kick-wakes", DeafToKicks(), "none|still out"),
        ("polled", NeverPolls(), "none|still out"),
        ("uncalled", NeedsCallFd(), "no reply|gone|closed"),
        ("without-call", WaitsForCall(), "1 chains still out"),
        ("call-fd-replaced", CallNeedsNoKick(), "none"),
        ("call-fd-late", CallNeedsNoKick(), "none"),
        ("kick-fd-replaced", FirstKickOnly(), "1 of 1 still out"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else value,
)
def test_fault_is_found(finds: FindsFault, check: str, fault: Fault, seen: str) -> None:
    assert re.search(seen, finds(check, fault))


FindsInDouble = Callable[[str], str]


@pytest.mark.parametrize(
    ("check", "device", "seen"),
    [
        ("no-call-flags", LockstepDevice, "[1-8]"),
        ("no-call-event-idx", LockstepDevice, "[1-8]"),
        ("no-call-packed-flags", PackedLockstepDevice, "[1-8]"),
        ("no-call-packed-event-idx", PackedLockstepDevice, "[1-8]"),
        ("event-idx-far", LockstepDevice, "[1-5]"),
    ],
)
def test_calls_that_nobody_wants_are_found(
    finds_in_double: FindsInDouble,
    check: str,
    device: type[RingDevice],
    seen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "wants_call", lambda self: True)
    assert re.fullmatch(seen, finds_in_double(check))


def test_a_call_that_comes_too_late_is_found(
    finds_in_double: FindsInDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    wants = LockstepDevice.wants_call
    asked: list[bool] = []

    def wants_seldom(self: LockstepDevice) -> bool:
        asked.append(wants(self))
        return asked[-1] and len(asked) < 20

    monkeypatch.setattr(LockstepDevice, "wants_call", wants_seldom)
    assert re.search("none|still out", finds_in_double("call-event-idx"))


def test_a_call_for_each_chain_is_found(
    finds_in_double: FindsInDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver = BackendDouble._deliver

    def deliver_and_call(self: BackendDouble, receiver: RingDevice, content: bytes) -> None:
        deliver(self, receiver, content)
        call = self.rings[1].call
        if call is not None:
            os.eventfd_write(call, 1)

    monkeypatch.setattr(BackendDouble, "_deliver", deliver_and_call)
    assert re.fullmatch(r"3\d", finds_in_double("few-calls"))
