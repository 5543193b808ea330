"""Where a device and its port meet: what a port can do (`PortCaps`) and how its frames move (`PortOps`).

The net device reads both and the C core is set up from them; neither imports `ports/`, and no port
imports `net/`. Nothing in here opens, closes or probes anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vhostuser.datapath.switching import Member
from vhostuser.wire.features import VirtioFeature


@dataclass(frozen=True, slots=True)
class PortCaps:
    """What a port of this kind, configured this way, can carry: never the outcome of a probe.

    A device makes its feature offer out of this, and a front-end that comes back after a restart refuses
    a smaller offer, on whatever kernel or interface that restart happened.
    """

    offloads: VirtioFeature
    """The checksum and segmentation bits, both directions, that may be offered with this port."""

    queues: int
    """How many queues `open` can be asked for."""

    max_frame: int
    """The largest frame in bytes, Ethernet header included and virtio-net header excluded."""

    postcopy: bool = True
    """Who touches the guest's memory for this port may wait for a page of it."""


NET_HEADER_SIZE = 12
"""The virtio-net header with num_buffers (virtio 1.2, 5.1.6.1)."""


class PortKind(Enum):
    """How the C core moves frames between a vring pair and the port."""

    FD = "fd"
    """One fd for each queue, `readv`/`writev` of one frame behind a virtio-net header."""

    PACKET = "packet"
    """The same, each a packet socket, read by `recvmmsg` for the VLAN tag that comes beside a frame."""

    ECHO = "echo"
    """Every frame goes back to the pair that it came from."""

    SINK = "sink"
    """Every frame is counted and dropped; nothing comes back."""

    SOURCE = "source"
    """Frames of `PortOps.frame_size` are made for every receive buffer; what the guest sends is dropped."""

    SWITCH = "switch"
    """Frames go to other devices on the switch of `PortOps.member`, each to where its address was seen."""


@dataclass(frozen=True, slots=True)
class PortOps:
    """An open port as the C core needs it.

    `fds` has one entry a queue when `kind` is FD or PACKET and is empty otherwise. The fds stay the port's:
    whoever gets a PortOps uses them until `Port.close` and never closes them. `header_size`: of the
    virtio-net header in front of their frames, little-endian, 12 bytes or the legacy 10.
    """

    kind: PortKind
    fds: tuple[int, ...] = ()
    frame_size: int = 0
    header_size: int = NET_HEADER_SIZE
    member: Member | None = None
