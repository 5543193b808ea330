"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import re
import struct

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from tests.frontend.check.test_bad_ring_setup import DiesOf
from tests.frontend.check.test_framing import OtherReplies, Yes
from tests.frontend.check.test_negotiation import Deaf, Ends
from vhostuser.frontend.check import memory_slots
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P

LOST = "still out|none|no frame of ours|refused|no reply|gone|closed"
REFUSALS = [
    check.name
    for check in memory_slots.GROUP.checks
    if check.must.endswith(" is refused.") and check.name != "slots-all-used"
]


class AddsOnce(Fault):
    """Only the first region of a connection is taken."""

    def begin(self, line: Line) -> None:
        self.added = 0

    def request(self, line: Line, said: Said) -> None:
        self.added += said.request == Request.ADD_MEM_REG
        if said.request == Request.ADD_MEM_REG and self.added > 1:
            line.swallow(said)
        else:
            line.up(said)


class UserAddresses(Fault):
    """GPA_ADDRESSES is acknowledged, and rings lie elsewhere."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.SET_VRING_ADDR:
            index, flags, *places = struct.unpack("=IIQQQQ", said.body)
            said.body = struct.pack("=IIQQQQ", index, flags, *(place + (1 << 40) for place in places))
        line.up(said)


@pytest.mark.parametrize(
    ("check", "fault", "seen"),
    [
        ("max-slots", OtherReplies(Request.GET_MAX_MEM_SLOTS, struct.pack("=Q", 7)), r"\[7\]"),
        ("slots-for-a-table", AddsOnce(), LOST),
        ("slots-for-a-table", Ends(Request.ADD_MEM_REG), LOST),
        ("slots-in-traffic", Deaf(Request.ADD_MEM_REG), LOST),
        ("slots-in-traffic", Ends(Request.REM_MEM_REG), LOST),
        ("slots-after-a-table", Deaf(Request.ADD_MEM_REG), LOST),
        ("slots-all-used", Yes(), "."),
        ("slot-of-running-rings", DiesOf(Request.REM_MEM_REG), "the back-end ended"),
        ("guest-addresses", UserAddresses(), LOST),
        ("guest-addresses-packed", UserAddresses(), LOST),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else value,
)
def test_fault_is_found(finds: FindsFault, check: str, fault: Fault, seen: str) -> None:
    assert re.search(seen, finds(check, fault))


@pytest.mark.parametrize("check", REFUSALS)
def test_what_is_taken_is_found(finds: FindsFault, check: str) -> None:
    assert finds(check, Yes()) == "an acknowledgement of 0"


def test_feature_of_the_group_is_a_protocol_feature() -> None:
    assert all(
        check.protocol & (P.CONFIGURE_MEM_SLOTS | P.GPA_ADDRESSES) for check in memory_slots.GROUP.checks
    )
