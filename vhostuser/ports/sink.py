"""The `sink` port: every frame is counted and dropped; for measuring what a guest can send."""

from __future__ import annotations

from typing import ClassVar, Self

from vhostuser.datapath.port_ops import PortCaps, PortKind, PortOps
from vhostuser.ports.base import ALL_OFFLOADS, MAX_FRAME, QuietPort, refuse_options


class SinkPort(QuietPort):
    """Takes whatever is sent and never sends anything."""

    kind: ClassVar[str] = "sink"
    caps: ClassVar[PortCaps] = PortCaps(ALL_OFFLOADS, queues=256, max_frame=MAX_FRAME)

    @classmethod
    def from_options(cls, options: str) -> Self:
        refuse_options(cls.kind, options)
        return cls()

    def open(self, queues: int) -> PortOps:
        del queues
        return PortOps(PortKind.SINK)
