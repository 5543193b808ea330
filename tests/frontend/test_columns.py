"""Rows in columns."""

from __future__ import annotations

from vhostuser.frontend.columns import align


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert align([("what", "n", ""), ("a", "1234", "x"), ("longer", "5", "")], {1}).splitlines() == [
        "what       n",
        "---------------",
        "a       1234  x",
        "longer     5",
    ]
