"""One sentence on what a device has carried, or a worker has done, for the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Protocol


class RingCounters(Protocol):
    """What `datapath.vring.VringCounters` has of use here."""

    @property
    def packets(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def bases_corrected(self) -> int: ...
    @property
    def drops(self) -> dict[str, int]: ...


class WorkerTimes(Protocol):
    """What `datapath.worker.WorkerCounters` has."""

    @property
    def turns(self) -> int: ...
    @property
    def sleeps(self) -> int: ...
    @property
    def busy_ns(self) -> int: ...
    @property
    def idle_ns(self) -> int: ...


def summarise_worker(done: WorkerTimes) -> str:
    """Its times are known where it polls."""
    text = f"{done.turns} turns, asleep {done.sleeps} times"
    awake = done.busy_ns + done.idle_ns
    if not awake:
        return text
    return f"{text}, busy {done.busy_ns / 1e9:.3f} s, {done.busy_ns / awake:.1%} of its time awake"


def summarise(counters: Mapping[int, RingCounters]) -> str:
    """By direction: frames, bytes, drops with their reasons. Odd ring indices are what the guest sends.

    And how often a ring was not where the front-end said: its front-end loses positions when we die.
    """
    text = "; ".join(
        _direction(name, [ring for index, ring in counters.items() if index % 2 == odd])
        for odd, name in ((1, "from the guest"), (0, "to the guest"))
    )
    corrected = sum(ring.bases_corrected for ring in counters.values())
    return f"{text}; start positions corrected: {corrected}" if corrected else text


def _direction(name: str, rings: list[RingCounters]) -> str:
    drops: Counter[str] = Counter()
    for ring in rings:
        drops.update(ring.drops)
    frames, length = sum(ring.packets for ring in rings), sum(ring.bytes for ring in rings)
    text = f"{frames} frames ({length} bytes) {name}"
    if drops:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(drops.items()))
        text += f", dropped: {reasons}"
    return text
