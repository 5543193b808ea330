"""Words that a user types."""

from __future__ import annotations

import pytest

from vhostuser.errors import UsageError
from vhostuser.options import near_match, parse_number, parse_switch, split_pairs


@pytest.mark.parametrize(
    ("text", "value"), [("on", True), ("YES", True), ("1", True), ("off", False), ("False", False)]
)
def test_switches(text: str, value: bool) -> None:
    assert parse_switch("up", text) is value


@pytest.mark.parametrize("text", ["", "o", "2", "onn"])
def test_what_is_no_switch(text: str) -> None:
    with pytest.raises(UsageError, match=f"up={text} is neither on nor off"):
        parse_switch("up", text)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "0x10", "\u0661", " 1", "9" * 5000])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(UsageError, match="is not a number from 0 to 9"):
        parse_number("queues", text, 0, 9)


def test_pairs_keep_their_order_and_values_their_equals_signs() -> None:
    assert split_pairs("it", "b=1,a=x=y", ("a", "b")) == [("b", "1"), ("a", "x=y")]


@pytest.mark.parametrize("text", ["a", "a=", "a=1,", ",a=1", "a=1,,b=2"])
def test_pairs_that_are_incomplete(text: str) -> None:
    with pytest.raises(UsageError, match=r"^it: "):
        split_pairs("it", text, ("a", "b"))


def test_a_near_match_has_the_spelling_that_is_known() -> None:
    assert near_match("sokcet_path", ["socket-path", "mac"]) == " (did you mean 'socket-path'?)"
    assert near_match("guest_tso", ["GUEST_TSO4"]) == " (did you mean 'GUEST_TSO4'?)"
    assert near_match("zzz", ["mac"]) == ""
