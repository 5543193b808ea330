"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.test_bad_ring_setup import DiesOf
from tests.frontend.check.test_dirty_log import OtherBase
from vhostuser.frontend.check import bad_dirty_log
from vhostuser.wire.constants import Request


@pytest.mark.parametrize("check", [check.name for check in bad_dirty_log.GROUP.checks])
def test_an_end_of_the_process_is_found(finds: FindsFault, check: str) -> None:
    assert "the back-end ended" in finds(check, DiesOf(Request.SET_LOG_BASE))


def test_marks_beyond_the_log_are_found(finds: FindsFault) -> None:
    assert finds("log-of-8-pages", OtherBase(size=1024)) == "something"
