from __future__ import annotations

from dataclasses import replace

from vhostuser.datapath.vring import VringCounters
from vhostuser.net.idle_reasons import PRIVATE_MEMORY, idle_reasons
from vhostuser.net.ring_items import RingItems
from vhostuser.session.states import RingState
from vhostuser.wire.payloads import VringAddr

NOTHING = VringCounters(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
ADDR = VringAddr(index=1, flags=0, desc=0x1000, used=0x3000, avail=0x2000, log=0)


def running(before: VringCounters = NOTHING) -> RingItems:
    return RingItems(RingState.STARTED_ENABLED, 256, 0, ADDR, runs=True, counters_at_start=before)


def test_ring_of_which_nothing_was_said_is_left_out() -> None:
    assert idle_reasons({0: RingItems()}, ["SET_FEATURES"], lambda index: NOTHING) == {}


def test_ring_that_runs_says_what_it_waits_for() -> None:
    reasons = idle_reasons({1: running()}, [], lambda index: NOTHING, lambda index: "an answer")

    assert reasons == {1: "it waits for an answer"}


def test_what_the_ring_lacks_and_what_the_device_lacks_are_named_together() -> None:
    rings = {1: RingItems(state=RingState.STARTED_ENABLED, size=256)}

    reasons = idle_reasons(rings, ["SET_MEM_TABLE"], lambda index: NOTHING)

    assert reasons == {1: "SET_VRING_ADDR and SET_MEM_TABLE has not come yet"}


def test_refusal_of_c_comes_before_what_is_missing() -> None:
    rings = {1: RingItems(RingState.STARTED_ENABLED, 256, 0, ADDR, refusal="it lies nowhere")}

    assert idle_reasons(rings, [], lambda index: NOTHING) == {1: "it lies nowhere"}


def test_kicks_without_chains_since_the_start_mean_private_memory() -> None:
    before = replace(NOTHING, kicks=7, chains=5)
    now = replace(NOTHING, kicks=9, chains=5)

    assert idle_reasons({1: running(before)}, [], lambda index: now) == {1: PRIVATE_MEMORY}


def test_neither_qemus_own_kick_nor_a_receive_ring_means_it() -> None:
    once, often = replace(NOTHING, kicks=1), replace(NOTHING, kicks=9)

    assert idle_reasons({1: running()}, [], lambda index: once) == {}
    assert idle_reasons({0: running()}, [], lambda index: often) == {}
    assert idle_reasons({1: running()}, [], lambda index: replace(often, chains=1)) == {}
