"""Planted faults that the checks of the group have to find.

They share all but the chain, so a few stand for all.
"""

from __future__ import annotations

import re

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from tests.frontend.check.test_bad_ring_setup import DiesOf
from vhostuser.wire.constants import Request

NEGOTIATION = 2
"""GET_FEATURES before anything runs; the next comes behind the bad chain."""


class ServesOnce(Fault):
    """No ring runs on any connection but the first."""

    def __init__(self) -> None:
        self.connections = 0

    def begin(self, line: Line) -> None:
        self.connections += 1

    def request(self, line: Line, said: Said) -> None:
        if self.connections > 1 and said.request == Request.SET_VRING_KICK:
            line.swallow(said)
        else:
            line.up(said)


@pytest.mark.parametrize("check", ["self-loop", "avail-jump", "table-in-a-table", "receive-unmapped"])
def test_an_end_of_the_process_is_found(finds: FindsFault, check: str) -> None:
    assert "the back-end ended" in finds(check, DiesOf(Request.GET_FEATURES, NEGOTIATION + 1))


@pytest.mark.parametrize("check", ["empty-loop", "head-far-out", "enormous-frame", "table-not-negotiated"])
def test_a_back_end_that_serves_nobody_else_is_found(finds: FindsFault, check: str) -> None:
    assert re.search("still out|none", finds(check, ServesOnce()))
