"""Commands on a control queue (virtio 1.x, 5.1.6.5), one at a time, each waited for."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Protocol

from vhostuser.errors import PeerError
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.timeouts import Deadline
from vhostuser.frontend.virtqueue_base import Segment, Virtqueue
from vhostuser.wire.features import VirtioFeature

_WAIT = 5.0
_ACK_UNWRITTEN = 0xFF


class Class(IntEnum):
    """What a command is about."""

    RX = 0
    MAC = 1
    VLAN = 2
    ANNOUNCE = 3
    MQ = 4
    GUEST_OFFLOADS = 5


class RxMode(IntEnum):
    """The commands of `Class.RX`; each has one byte, on or off."""

    PROMISCUOUS = 0
    ALL_MULTICAST = 1
    ALL_UNICAST = 2
    NO_MULTICAST = 3
    NO_UNICAST = 4
    NO_BROADCAST = 5


class Device(Protocol):
    """What a control queue needs of the link that it belongs to."""

    @property
    def memory(self) -> GuestMemory: ...
    def kick(self, index: int) -> None: ...
    def wait_for_call(self, indices: Iterable[int], deadline: Deadline) -> bool: ...


class ControlQueue:
    """The driver's end. Every command returns whether the device said OK; TimeoutError when it says nothing.

    Nothing is checked here: a test may ask for what no driver would.
    """

    def __init__(self, device: Device, queue: Virtqueue[Segment], index: int) -> None:
        self._device = device
        self._queue = queue
        self._index = index

    def command(
        self,
        number: Class | int,
        command: int,
        data: bytes = b"",
        *,
        layout: Sequence[int] | None = None,
        indirect: bool = False,
        timeout: float = _WAIT,
    ) -> bool:
        """Any command. `layout` gives the lengths of the segments in front of the ack, the rest being one
        more; by default header and data are one each, as legacy devices want them."""
        return self.raw(bytes([number, command]) + data, layout=layout, indirect=indirect, timeout=timeout)

    def raw(
        self,
        content: bytes,
        *,
        layout: Sequence[int] | None = None,
        indirect: bool = False,
        timeout: float = _WAIT,
    ) -> bool:
        """Any bytes. PeerError for an ack that is neither OK nor ERR, or is not written."""
        memory = self._device.memory
        at = memory.alloc(len(content) + 1)
        memory.write(at, content + bytes([_ACK_UNWRITTEN]))
        readable = _cut(at, len(content), [2] if layout is None else layout)
        ack = Segment(at + len(content), 1)
        if self._queue.add(readable, (ack,), Segment(at, len(content) + 1), indirect=indirect) is None:
            memory.free(at)
            raise ValueError(
                f"a command in {len(readable) + 1} segments does not fit into ring {self._index}"
            )
        self._queue.publish()
        if self._queue.needs_kick():
            self._device.kick(self._index)
        self._wait(Deadline(timeout))
        answer = memory.read(ack.gpa, 1)[0]
        memory.free(at)
        if answer > 1:
            raise PeerError(f"ring {self._index}: ack {answer:#x} is neither 0 (OK) nor 1 (ERR)")
        return answer == 0

    def _wait(self, deadline: Deadline) -> None:
        while not (done := self._queue.take_used()):
            if not self._queue.enable_calls() and not self._device.wait_for_call([self._index], deadline):
                raise TimeoutError(f"no answer on control ring {self._index} within {deadline.seconds:g} s")
        self._queue.disable_calls()
        if done[0].length != 1:
            raise PeerError(f"ring {self._index}: {done[0].length} bytes written, an ack is 1")

    # The commands by name

    def set_pairs(self, pairs: int) -> bool:
        return self.command(Class.MQ, 0, struct.pack("<H", pairs))

    def set_rx_mode(self, mode: RxMode, on: bool) -> bool:
        return self.command(Class.RX, mode, bytes([on]))

    def set_mac_table(self, unicast: Sequence[bytes], multicast: Sequence[bytes]) -> bool:
        """The whole of both tables."""
        return self.command(Class.MAC, 0, _mac_table(unicast) + _mac_table(multicast))

    def set_mac(self, mac: bytes) -> bool:
        return self.command(Class.MAC, 1, mac)

    def add_vlan(self, vlan: int) -> bool:
        return self.command(Class.VLAN, 0, struct.pack("<H", vlan))

    def delete_vlan(self, vlan: int) -> bool:
        return self.command(Class.VLAN, 1, struct.pack("<H", vlan))

    def ack_announce(self) -> bool:
        return self.command(Class.ANNOUNCE, 0)

    def set_offloads(self, offloads: VirtioFeature) -> bool:
        """The GUEST_* offloads to be on, by their feature bits."""
        return self.command(Class.GUEST_OFFLOADS, 0, struct.pack("<Q", offloads))


def _mac_table(macs: Sequence[bytes]) -> bytes:
    return struct.pack("<I", len(macs)) + b"".join(macs)


def _cut(at: int, length: int, lengths: Sequence[int]) -> list[Segment]:
    """`length` bytes as segments of these lengths and one more with what is left, if anything is."""
    segments = []
    for piece in lengths:
        here = min(piece, length)
        segments.append(Segment(at, here))
        at, length = at + here, length - here
    return [*segments, Segment(at, length)] if length else segments
