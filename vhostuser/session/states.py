"""The states of one ring and every step between them.

1. A step that is not in `TRANSITIONS` does not exist; nothing else changes the state of a ring.
2. This file does not know which message causes an event, nor what a device does about it.

The two bits are independent (vhost-user specification, "Ring states"). Started and enabled: packets move.
Started and disabled: what the guest sends is taken and thrown away, nothing is delivered to it. Stopped: the
ring is not touched, enabled or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final


class RingState(Enum):
    STOPPED_DISABLED = "stopped, disabled"
    STOPPED_ENABLED = "stopped, enabled"
    STARTED_DISABLED = "started, disabled"
    STARTED_ENABLED = "started, enabled"

    @property
    def is_started(self) -> bool:
        return self in (RingState.STARTED_DISABLED, RingState.STARTED_ENABLED)

    @property
    def is_enabled(self) -> bool:
        return self in (RingState.STOPPED_ENABLED, RingState.STARTED_ENABLED)


class RingEvent(Enum):
    START = "start"
    """A kick fd, or the word that there will be none."""
    STOP = "stop"
    """The base is read back."""
    ENABLE = "enable"
    DISABLE = "disable"
    RESET = "reset"
    """The device is reset, or the connection is gone."""


INITIAL: Final = RingState.STOPPED_DISABLED

TRANSITIONS: Final[Mapping[tuple[RingState, RingEvent], RingState]] = MappingProxyType(
    {
        (RingState.STOPPED_DISABLED, RingEvent.START): RingState.STARTED_DISABLED,
        (RingState.STOPPED_DISABLED, RingEvent.STOP): RingState.STOPPED_DISABLED,
        (RingState.STOPPED_DISABLED, RingEvent.ENABLE): RingState.STOPPED_ENABLED,
        (RingState.STOPPED_DISABLED, RingEvent.DISABLE): RingState.STOPPED_DISABLED,
        (RingState.STOPPED_DISABLED, RingEvent.RESET): RingState.STOPPED_DISABLED,
        (RingState.STOPPED_ENABLED, RingEvent.START): RingState.STARTED_ENABLED,
        (RingState.STOPPED_ENABLED, RingEvent.STOP): RingState.STOPPED_ENABLED,
        (RingState.STOPPED_ENABLED, RingEvent.ENABLE): RingState.STOPPED_ENABLED,
        (RingState.STOPPED_ENABLED, RingEvent.DISABLE): RingState.STOPPED_DISABLED,
        (RingState.STOPPED_ENABLED, RingEvent.RESET): RingState.STOPPED_DISABLED,
        (RingState.STARTED_DISABLED, RingEvent.START): RingState.STARTED_DISABLED,
        (RingState.STARTED_DISABLED, RingEvent.STOP): RingState.STOPPED_DISABLED,
        (RingState.STARTED_DISABLED, RingEvent.ENABLE): RingState.STARTED_ENABLED,
        (RingState.STARTED_DISABLED, RingEvent.DISABLE): RingState.STARTED_DISABLED,
        (RingState.STARTED_DISABLED, RingEvent.RESET): RingState.STOPPED_DISABLED,
        (RingState.STARTED_ENABLED, RingEvent.START): RingState.STARTED_ENABLED,
        (RingState.STARTED_ENABLED, RingEvent.STOP): RingState.STOPPED_ENABLED,
        (RingState.STARTED_ENABLED, RingEvent.ENABLE): RingState.STARTED_ENABLED,
        (RingState.STARTED_ENABLED, RingEvent.DISABLE): RingState.STARTED_DISABLED,
        (RingState.STARTED_ENABLED, RingEvent.RESET): RingState.STOPPED_DISABLED,
    }
)
