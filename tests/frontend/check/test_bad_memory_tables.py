"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.test_framing import Yes
from tests.frontend.check.test_memory_tables import DiesOfTables
from vhostuser.frontend.check import bad_memory_tables

REFUSALS = [check.name for check in bad_memory_tables.GROUP.checks if check.name != "no-table-leaks"]


@pytest.mark.parametrize("check", REFUSALS)
def test_a_table_that_is_taken_is_found(finds: FindsFault, check: str) -> None:
    assert finds(check, Yes()) == "an acknowledgement of 0"


@pytest.mark.parametrize("check", ["table-size-0", "table-on-pipe"])
def test_an_end_of_the_process_is_found(finds: FindsFault, check: str) -> None:
    assert "the back-end ended" in finds(check, DiesOfTables(0))


def test_an_end_after_many_tables_is_found(finds: FindsFault) -> None:
    assert "the back-end ended" in finds("no-table-leaks", DiesOfTables(500))
