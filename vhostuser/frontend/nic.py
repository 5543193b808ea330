"""The network device of a front-end, as a message order knows it: what is brought up, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.ring_position import FIRST_BASE
from vhostuser.frontend.virtqueue_base import RingPlace
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.payloads import Inflight, MemoryRegion

if TYPE_CHECKING:
    from vhostuser.frontend.orders import Order


@dataclass
class Ring:
    """One ring as the messages know it. Fds are borrowed; None means that none is sent."""

    index: int
    size: int
    kick_fd: int | None
    call_fd: int | None
    err_fd: int | None
    masked_fd: int | None
    """What QEMU passes as call fd until the guest has set its interrupts up."""
    place: RingPlace | None = None
    """As SET_VRING_ADDR says it; has to be known before `start`."""
    base: int = 0
    """Where the ring starts, and after `stop` where it stopped: as SET_VRING_BASE and its answer say it."""


@dataclass
class Nic:
    """What is brought up, and what came of it."""

    order: Order
    wanted: V
    """Features to acknowledge where the back-end offers them."""
    pairs: int
    rings: Sequence[Ring]
    """Two a pair, by index; one more behind them is the control ring."""
    memory: GuestMemory
    channel_fd: int | None = None
    """For SET_BACKEND_REQ_FD, when that is negotiated."""
    mtu: int | None = None
    protocol_wanted: P | None = None
    """Protocol features to acknowledge where offered; None: those that the order's front-end does."""
    told: list[MemoryRegion] = field(default_factory=list)
    """The regions that the back-end has been given; one that is new has none."""
    big_endian: bool = False
    """The guest is a legacy one of the other byte order."""
    inflight: tuple[Inflight, int] | None = None
    """The region that this front-end keeps, and its fd, which is the Nic's."""
    offered: V = field(default=V(0))
    features: V = field(default=V(0))
    protocol: P = field(default=P(0))
    config: bytes = b""
    owned: bool = False

    @property
    def packed(self) -> bool:
        """Whether the rings are packed ones."""
        return V.RING_PACKED in self.features

    def begin_anew(self) -> None:
        """Every ring's base is that of a new ring."""
        for ring in self.rings:
            ring.base = FIRST_BASE if self.packed else 0

    def drop_inflight(self) -> None:
        """What it says is of rings that are no more: a new one is asked for at the next start."""
        if self.inflight is not None:
            os.close(self.inflight[1])
            self.inflight = None

    def pair(self, number: int) -> Sequence[Ring]:
        """The receive and the transmit ring of a pair."""
        return self.rings[2 * number : 2 * number + 2]

    @property
    def groups(self) -> list[Sequence[Ring]]:
        """The rings of each pair, and at the end the control ring by itself, if there is one."""
        return [self.pair(number) for number in range((len(self.rings) + 1) // 2)]
