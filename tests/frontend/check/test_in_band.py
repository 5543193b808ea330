"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import re

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from tests.frontend.check.test_negotiation import Deaf
from vhostuser.wire.constants import Request


class StartsAtOnce(Fault):
    """A ring runs from SET_VRING_ADDR on, polled."""

    def request(self, line: Line, said: Said) -> None:
        line.up(said)
        if said.request == Request.SET_VRING_ADDR:
            line.up(Said(Request.SET_VRING_KICK, 1, (said.body[0] | 0x100).to_bytes(8, "little")))


class TakesAnything(Fault):
    """The features are thought to need nothing."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_PROTOCOL_FEATURES:
            line.swallow(said)
        else:
            line.up(said)


@pytest.mark.parametrize(
    ("check", "fault", "seen"),
    [
        ("in-band-alone", TakesAnything(), "it goes on"),
        ("in-band-kick", Deaf(Request.VRING_KICK), "still out"),
        ("in-band-kick", StartsAtOnce(), "given back"),
        ("in-band-call", Deaf(Request.SET_BACKEND_REQ_FD), "none"),
        ("in-band-err", Deaf(Request.SET_BACKEND_REQ_FD), "none"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else value,
)
def test_fault_is_found(finds: FindsFault, check: str, fault: Fault, seen: str) -> None:
    assert re.search(seen, finds(check, fault))
