"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from tests.frontend.check.test_framing import Yes
from vhostuser.frontend.check import bad_ring_setup
from vhostuser.wire.constants import Request

CHECKS = bad_ring_setup.GROUP.checks
REFUSALS = [check.name for check in CHECKS if check.must.endswith(" is refused.")]
PLACES = [check.name for check in CHECKS if check.name.startswith("ring-with-")]
FDS = [check.name for check in CHECKS if check.name.startswith("fd-is-")]


class DiesOf(Fault):
    """The process ends at a request, from its `times`th time on."""

    def __init__(self, request: Request, times: int = 1) -> None:
        self.deadly = request
        self.times = times

    def begin(self, line: Line) -> None:
        self.seen = 0

    def request(self, line: Line, said: Said) -> None:
        self.seen += said.request == self.deadly
        if self.seen >= self.times:
            said.close()
            self.meddler.die()
        else:
            line.up(said)


@pytest.mark.parametrize("check", REFUSALS)
def test_what_is_taken_is_found(finds: FindsFault, check: str) -> None:
    assert finds(check, Yes()) == "an acknowledgement of 0"


@pytest.mark.parametrize(
    ("check", "request_", "times"),
    [
        *((check, Request.SET_VRING_ADDR, 2) for check in PLACES),
        *((check, Request.SET_VRING_CALL, 3) for check in FDS),
        ("get-base-far-out", Request.GET_VRING_BASE, 1),
        ("kick-before-all", Request.SET_VRING_KICK, 1),
        ("changed-while-running", Request.SET_VRING_NUM, 3),
        ("header-changed-while-running", Request.SET_FEATURES, 2),
    ],
)
def test_an_end_of_the_process_is_found(finds: FindsFault, check: str, request_: Request, times: int) -> None:
    assert "the back-end ended" in finds(check, DiesOf(request_, times))


def test_every_check_has_its_fault() -> None:
    rest = {check.name for check in CHECKS} - {*REFUSALS, *PLACES, *FDS}
    assert rest == {
        "get-base-far-out",
        "kick-before-all",
        "changed-while-running",
        "header-changed-while-running",
    }
