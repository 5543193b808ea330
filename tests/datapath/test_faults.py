"""Every number of C has its words."""

from __future__ import annotations

import re

import pytest

from vhostuser import abi
from vhostuser.datapath import faults
from vhostuser.datapath._datapath import lib

HEADER = (abi.csrc("vhostuser.datapath._datapath") / "error.h").read_text()
ERRORS = {int(number): name for name, number in re.findall(r"VU_ERR_(\w+) = (-\d+)", HEADER)}
DROPS = {int(number): name for name, number in re.findall(r"VU_DROP_(\w+) = (\d+)", HEADER)}


def test_errors_are_named_as_in_the_header() -> None:
    assert len(ERRORS) == 24
    assert {number: name.lower().replace("_", " ") for number, name in ERRORS.items()} == faults.ERROR_NAMES


def test_drops_are_named_in_the_order_of_their_counters() -> None:
    assert sorted(DROPS) == list(range(lib.VU_DROP_COUNT))
    assert tuple(DROPS[i].lower() for i in sorted(DROPS)) == faults.DROP_NAMES


@pytest.mark.parametrize("error", sorted(ERRORS, reverse=True), ids=lambda error: ERRORS[error].lower())
def test_every_error_is_a_sentence_with_its_values(error: int) -> None:
    text = faults.explain(error, (101, 102, 103, 104))

    assert text != faults.ERROR_NAMES[error]
    assert "{" not in text
    assert re.search(r"10[1-4]|0x6[5-8]", text)


def test_number_that_is_not_known() -> None:
    assert faults.explain(-99, (0, 0, 0, 0)) == "error -99"
