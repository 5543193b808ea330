"""Every group in the order in which it runs, and which checks a user's words mean.

Whatever may end a back-end comes last, so that the rest is known by then.
"""

from __future__ import annotations

from collections.abc import Sequence

from vhostuser.errors import UsageError
from vhostuser.frontend.check import (
    bad_chains,
    bad_dirty_log,
    bad_frames,
    bad_memory_tables,
    bad_packed_chains,
    bad_ring_setup,
    connections,
    device_requests,
    device_state,
    dirty_log,
    framing,
    hostile_messages,
    in_band,
    inflight,
    iommu,
    memory_slots,
    memory_tables,
    message_orders,
    negotiation,
    notifications,
    postcopy,
    ring_formats,
    ring_states,
    stray_fds,
)
from vhostuser.frontend.check.model import Check, Group
from vhostuser.options import near_match

GROUPS: tuple[Group, ...] = tuple(
    module.GROUP
    for module in (
        framing,
        negotiation,
        device_requests,
        ring_states,
        message_orders,
        memory_tables,
        memory_slots,
        ring_formats,
        notifications,
        in_band,
        iommu,
        inflight,
        dirty_log,
        device_state,
        postcopy,
        connections,
        bad_memory_tables,
        bad_dirty_log,
        bad_ring_setup,
        bad_frames,
        bad_chains,
        bad_packed_chains,
        stray_fds,
        hostile_messages,
    )
)


def select(words: Sequence[str]) -> list[Check]:
    """The checks of these groups or names, in their order; all of them for no words.

    UsageError for a word that is neither.
    """
    every = [check for group in GROUPS for check in group.checks]
    known = {group.name for group in GROUPS} | {check.name for check in every}
    for word in words:
        if word not in known:
            hint = near_match(word, known) or f"; the groups are {', '.join(g.name for g in GROUPS)}"
            raise UsageError(f"--only {word}: there is no such group or check{hint}")
    return [check for check in every if not words or {check.group, check.name} & set(words)]
