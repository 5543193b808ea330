"""The `echo` port: every frame goes back to the pair that sent it, unchanged.

The C core does it, and passes a frame on only if the guest acked the offload that the frame needs.
"""

from __future__ import annotations

from typing import ClassVar, Self

from vhostuser.datapath.port_ops import PortCaps, PortKind, PortOps
from vhostuser.ports.base import ALL_OFFLOADS, MAX_FRAME, QuietPort, refuse_options


class EchoPort(QuietPort):
    """Returns frames to their sender. Nothing outside the process is touched, so no privilege is needed."""

    kind: ClassVar[str] = "echo"
    caps: ClassVar[PortCaps] = PortCaps(ALL_OFFLOADS, queues=256, max_frame=MAX_FRAME)

    @classmethod
    def from_options(cls, options: str) -> Self:
        refuse_options(cls.kind, options)
        return cls()

    def open(self, queues: int) -> PortOps:
        del queues
        return PortOps(PortKind.ECHO)
