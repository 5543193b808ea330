"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import re

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from tests.frontend.check.test_connections import DiesAfter
from tests.frontend.check.test_negotiation import Deaf
from vhostuser.wire.constants import Request


class NeverTakesBack(Fault):
    """An invalidation is acknowledged, and what was told stays in use."""

    def request(self, line: Line, said: Said) -> None:
        if said.request == Request.IOTLB_MSG and said.body[25:26] == b"\3":
            line.swallow(said)
        else:
            line.up(said)


class MuteWhileItRuns(Fault):
    """As a loop that waits for a translation itself: nothing more is answered once rings are enabled."""

    def begin(self, line: Line) -> None:
        self.runs = False

    def request(self, line: Line, said: Said) -> None:
        self.runs |= said.request == Request.SET_VRING_ENABLE
        if not self.runs or said.request != Request.GET_FEATURES:
            line.up(said)


@pytest.mark.parametrize(
    ("check", "fault", "seen"),
    [
        ("iommu-silence", MuteWhileItRuns(), "reply|answer|time"),
        ("iommu-refused", DiesAfter(2), "the back-end ended"),
        ("iommu-asked", Deaf(Request.SET_BACKEND_REQ_FD), "still out|none"),
        ("iommu-asked-packed", Deaf(Request.IOTLB_MSG), "still out|none"),
        ("iommu-told", Deaf(Request.IOTLB_MSG), "still out|none"),
        ("iommu-told-packed", Deaf(Request.IOTLB_MSG), "still out|none"),
        ("iommu-moved-packed", NeverTakesBack(), "another frame|still out|no frame|bytes for one|none"),
        ("iommu-moved", NeverTakesBack(), "another frame|still out|no frame|bytes for one|none"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else value,
)
def test_fault_is_found(finds: FindsFault, check: str, fault: Fault, seen: str) -> None:
    assert re.search(seen, finds(check, fault))
