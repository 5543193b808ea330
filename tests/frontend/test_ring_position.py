"""Positions in packed rings, alone and in pairs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhostuser.errors import PeerError
from vhostuser.frontend.ring_position import FIRST, FIRST_BASE, RingPosition, build_base, parse_base

positions = st.builds(RingPosition, st.integers(0, 32767), st.booleans())


def test_new_ring_begins_at_slot_0_with_wrap_counter_1() -> None:
    assert (FIRST.slot, FIRST.wrap, FIRST.word, FIRST_BASE) == (0, True, 0x8000, 0x8000_8000)


@given(positions)
def test_word_is_parsed_as_built(position: RingPosition) -> None:
    assert RingPosition.parse(position.word) == position


@given(st.integers(1, 40), st.lists(st.integers(1, 40)))
def test_position_follows_a_count_of_descriptors(size: int, steps: list[int]) -> None:
    position, total = FIRST, 0
    for step in steps:
        position, total = position.moved(min(step, size), size), total + min(step, size)
    assert position == RingPosition(total % size, total // size % 2 == 0)


@given(positions, positions)
def test_base_is_parsed_as_built(avail: RingPosition, used: RingPosition) -> None:
    expected = (avail, used if used.word else avail)
    assert parse_base(build_base(avail, used), 32768) == expected


def test_base_of_one_half_is_both_positions() -> None:
    assert parse_base(0x8005, 6) == (RingPosition(5, True), RingPosition(5, True))


@pytest.mark.parametrize("base", [0x8006, 0x8000_0006, 0x0006_8000, 0xFFFF_FFFF])
def test_base_outside_the_ring_is_the_back_ends_fault(base: int) -> None:
    with pytest.raises(PeerError, match=f"{base:#010x} lies outside a packed ring of 6"):
        parse_base(base, 6)
