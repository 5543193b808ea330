from __future__ import annotations

from itertools import product

import pytest

from vhostuser.session.states import INITIAL, TRANSITIONS, RingEvent, RingState

E, S = RingEvent, RingState

_EFFECT: dict[RingEvent, tuple[bool | None, bool | None]] = {
    E.START: (True, None),
    E.STOP: (False, None),
    E.ENABLE: (None, True),
    E.DISABLE: (None, False),
    E.RESET: (False, False),
}
"""The specification's table: what an event makes of started and of enabled; None leaves it."""


def test_a_ring_begins_stopped_and_disabled() -> None:
    assert not INITIAL.is_started
    assert not INITIAL.is_enabled


def test_every_event_is_defined_in_every_state() -> None:
    assert set(TRANSITIONS) == set(product(RingState, RingEvent))


@pytest.mark.parametrize(("state", "event"), list(product(RingState, RingEvent)))
def test_an_event_sets_its_bit_and_leaves_the_other(state: RingState, event: RingEvent) -> None:
    started, enabled = _EFFECT[event]
    after = TRANSITIONS[state, event]
    assert after.is_started == (state.is_started if started is None else started)
    assert after.is_enabled == (state.is_enabled if enabled is None else enabled)


def test_a_state_reads_as_its_two_bits() -> None:
    for state in RingState:
        started, enabled = state.value.split(", ")
        assert state.is_started == (started == "started")
        assert state.is_enabled == (enabled == "enabled")
