"""The `source` port: fills every receive buffer with a frame; for measuring what a guest can receive."""

from __future__ import annotations

from typing import ClassVar, Self

from vhostuser.datapath.port_ops import PortCaps, PortKind, PortOps
from vhostuser.options import check_range, parse_number, split_pairs
from vhostuser.ports.base import ALL_OFFLOADS, QuietPort

MIN_SIZE = 60
MAX_SIZE = 9216
DEFAULT_SIZE = 64


class SourcePort(QuietPort):
    """Makes frames of one size as fast as the guest takes them, and drops what the guest sends.

    A frame has no checksum to finish and is never segmented, so a size above the guest's MTU reaches only
    a guest whose buffers hold it.
    """

    kind: ClassVar[str] = "source"

    def __init__(self, size: int = DEFAULT_SIZE) -> None:
        self.size = check_range("size", size, MIN_SIZE, MAX_SIZE)
        self.caps = PortCaps(ALL_OFFLOADS, queues=256, max_frame=size)

    @classmethod
    def from_options(cls, options: str) -> Self:
        size = DEFAULT_SIZE
        for key, value in split_pairs(f"port source:{options}", options, ["size"]) if options else ():
            size = parse_number(key, value, MIN_SIZE, MAX_SIZE)
        return cls(size)

    def open(self, queues: int) -> PortOps:
        del queues
        return PortOps(PortKind.SOURCE, frame_size=self.size)
