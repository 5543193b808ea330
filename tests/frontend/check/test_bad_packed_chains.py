"""Planted faults that the checks of the group have to find.

They share all but the chain, so a few stand for all.
"""

from __future__ import annotations

import re

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.test_bad_chains import NEGOTIATION, ServesOnce
from tests.frontend.check.test_bad_ring_setup import DiesOf
from vhostuser.wire.constants import Request


@pytest.mark.parametrize(
    "check", ["packed-endless-chain", "packed-id-far-out", "packed-table-in-a-table", "packed-event-flags-3"]
)
def test_an_end_of_the_process_is_found(finds: FindsFault, check: str) -> None:
    assert "the back-end ended" in finds(check, DiesOf(Request.GET_FEATURES, NEGOTIATION + 1))


@pytest.mark.parametrize("check", ["packed-empty-chain", "packed-wrong-wrap", "packed-table-and-next"])
def test_a_back_end_that_serves_nobody_else_is_found(finds: FindsFault, check: str) -> None:
    assert re.search("still out|none", finds(check, ServesOnce()))
