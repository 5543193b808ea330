"""Why rings do nothing, in words for the log: what has not been said, what was refused, what looks wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vhostuser.datapath.vring import VringCounters
from vhostuser.net.ring_items import RingItems

KICKS_FOR_NOTHING = 2
"""QEMU kicks once by itself at each start. A driver with event index kicks for its first frame, and not
again until that one is taken: so the second kick is all that there will ever be."""
PRIVATE_MEMORY = (
    "the guest kicks it, but it stays empty: guest memory is probably not shared "
    "(QEMU: share=on at the memory backend; Cloud Hypervisor: --memory shared=on)"
)


def idle_reasons(
    rings: Mapping[int, RingItems],
    device_lacks: Sequence[str],
    counters: Callable[[int], VringCounters],
    waits_for: Callable[[int], str] = lambda index: "",
) -> dict[int, str]:
    """By ring index; empty when all is well. ``device_lacks``: what every ring waits for; ``waits_for``: what
    one that runs does.
    """
    reasons = {}
    for index, ring in sorted(rings.items()):
        if ring.runs:
            if waits := waits_for(index):
                reasons[index] = f"it waits for {waits}"
            elif index % 2 == 1 and _seems_private(ring, counters(index)):
                reasons[index] = PRIVATE_MEMORY
        elif ring.is_begun or ring.state.is_started:
            lacking = [*ring.missing(), *device_lacks]
            reasons[index] = ring.refusal or f"{' and '.join(lacking) or 'the port'} has not come yet"
    return reasons


def _seems_private(ring: RingItems, now: VringCounters) -> bool:
    """The guest kicks a transmit ring that stays empty in our view: it writes to another copy."""
    before = ring.counters_at_start
    return (
        before is not None and now.chains == before.chains and now.kicks >= before.kicks + KICKS_FOR_NOTHING
    )
