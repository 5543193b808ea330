"""What C reports, as sentences for the log. The numbers' meaning stands in csrc/worker.h."""

from __future__ import annotations

import logging
import os

from vhostuser.datapath.faults import explain
from vhostuser.datapath.worker import EventKind, WorkerEvent

_PACKED = 1
_SLOT, _LAP_BIT = 0x7FFF, 15


def describe(event: WorkerEvent, control: int | None = None) -> tuple[int, str]:
    """A logging level and one sentence, without the device's name. ``control``: its control ring."""
    match event.kind:
        case EventKind.RING_STARTED:
            return _started(event, event.ring == control)
        case EventKind.RING_BROKEN:
            text = f"ring {event.ring} is broken until it is reset: {explain(event.error, event.values)}"
            return logging.ERROR, text
        case EventKind.DEVICE_FAULTED:
            return logging.ERROR, f"{explain(event.error, event.values)}, so it is disconnected"
        case EventKind.PORT_GONE:
            return (
                logging.ERROR,
                f"the port's queue of ring {event.ring} is gone: {os.strerror(-event.error)}",
            )
        case EventKind.PORT_DOWN:
            return logging.WARNING, f"the interface behind ring {event.ring} is down, or has gone"
        case EventKind.OVERFLOW:
            return logging.WARNING, "more happened at once than could be reported"
        case EventKind.CONTROL:
            return logging.DEBUG, f"ring {event.ring} brings a command"
        case EventKind.CROWDED:
            return logging.DEBUG, "its worker has more to do than it can"
        case EventKind.IOTLB_MISS:
            return logging.DEBUG, "a ring waits for a translation"


def _started(event: WorkerEvent, is_control: bool) -> tuple[int, str]:
    position, base, used, rest = event.values
    available, again = rest & 0xFFFF_FFFF, rest >> 32
    role = "control" if is_control else "guest sends" if event.ring % 2 else "guest receives"
    text = f"ring {event.ring} ({role}) runs from "
    if event.error == _PACKED:
        text += f"{_slot(position)} of a packed ring"
        correction = f"{_slot(base)}, but the inflight region and the ring say otherwise"
    else:
        text += f"{position}, {(available - position) % 65536} entries waiting"
        correction = f"{base}, but the ring was used up to {used}, so that holds"
    if again:
        text += f"; {again} chains that were in flight are served again"
    if base != used:
        return logging.WARNING, f"{text}; the front-end gave base {correction}"
    return logging.INFO, text


def _slot(half: int) -> str:
    return f"slot {half & _SLOT} with lap bit {half >> _LAP_BIT}"
