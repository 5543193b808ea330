"""What one front-end has said so far: the part of it that decides which requests are legal.

The groups of requests (`feature_requests` and the others) share one `Conversation` and change it; the device
is told in the same breath. No request is served here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from vhostuser.session.device import Device, Pending
from vhostuser.session.states import INITIAL, TRANSITIONS, RingEvent, RingState
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature, VirtioFeature
from vhostuser.wire.messages import Payload, VringAddr, VringState


@dataclass(slots=True)
class Ring:
    """What was said about one ring."""

    state: RingState = INITIAL
    items: dict[Request, VringState | VringAddr] = field(default_factory=dict)
    """The last size, addresses and base, by the request that brought them."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """What a request returns when its device said Pending, with the way from result to answer."""

    pending: Pending
    finish: Callable[[int | None], Payload | None]


class Conversation:
    """Made with the connection; `forget` ends it."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.features = VirtioFeature(0)
        self.has_features = False
        self.protocol_features = ProtocolFeature(0)
        self.status = 0
        self.rings: dict[int, Ring] = {}
        self.is_advised = False
        """POSTCOPY_ADVISE was answered with an fd."""
        self.in_postcopy = False
        """Between POSTCOPY_LISTEN and POSTCOPY_END."""
        self.table_is_unconfirmed = False
        """The front-end has been told where we mapped its table and has not said yet that it may be used."""

    def offer(self) -> VirtioFeature:
        return self.device.offered_features() | VirtioFeature.PROTOCOL_FEATURES

    @property
    def is_packed(self) -> bool:
        return VirtioFeature.RING_PACKED in self.features

    def ring(self, index: int) -> Ring:
        return self.rings.setdefault(index, Ring())

    def step(self, indices: Iterable[int], event: RingEvent) -> None:
        """Moves these rings and tells the device of those whose state changed, at once."""
        changed = {}
        for index in indices:
            ring = self.ring(index)
            after = TRANSITIONS[ring.state, event]
            if after is not ring.state:
                changed[index] = ring.state = after
        if changed:
            self.device.set_vring_states(changed)

    def reset_rings(self) -> None:
        """Every ring is stopped and disabled, and forgotten."""
        self.step(sorted(self.rings), RingEvent.RESET)
        self.rings.clear()
        self.device.reset_device()

    def forget(self) -> None:
        """The connection is gone."""
        self.reset_rings()
        self.features = VirtioFeature(0)
        self.has_features = False
        self.protocol_features = ProtocolFeature(0)
        self.status = 0
        self.is_advised = self.in_postcopy = self.table_is_unconfirmed = False
