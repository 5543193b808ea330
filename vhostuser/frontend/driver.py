"""A virtio-net driver in plain Python: frames in and out, one at a time. `flood.py` is the fast one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

from vhostuser.errors import PeerError
from vhostuser.frontend.control import ControlQueue
from vhostuser.frontend.core import lib
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.link import Link, LinkOptions
from vhostuser.frontend.net_header import PLAIN, NetHeader
from vhostuser.frontend.packed_virtqueue import PackedVirtqueue
from vhostuser.frontend.timeouts import Deadline
from vhostuser.frontend.virtqueue import SplitVirtqueue
from vhostuser.frontend.virtqueue_base import RingPlace, Segment, UsedChain, Virtqueue
from vhostuser.wire.features import VirtioFeature

# The token of a chain is the one buffer that its segments are cut from.
Queue = Virtqueue[Segment]
SplitQueue = SplitVirtqueue[Segment]
PackedQueue = PackedVirtqueue[Segment]

_WAIT = 5.0


@dataclass(frozen=True, slots=True)
class Received:
    """One frame from the device."""

    header: NetHeader
    frame: bytes
    queue: int
    """The pair that it came in on."""
    chains: int = 1
    """How many buffers it took."""


class VirtioNetDriver(Link):
    """Sends and receives frames over any number of queue pairs.

    ::

        with VirtioNetDriver.connect("/run/vm1.sock") as nic:
            nic.send(frame)
            answer = nic.recv().frame

    Right beside a running back-end, for every fence is a real one; slow, for every word is read in Python.
    """

    def __init__(self, frontend: Frontend, **options: Unpack[LinkOptions]) -> None:
        super().__init__(frontend, **options)
        self.virtqueues: list[Queue] = []
        """By ring index: 2n receives, 2n + 1 transmits, the last may be a control queue. Empty before the
        first start."""
        self._arrived: deque[Received] = deque()

    # What lies in a ring differs by its format, so who wants to look at it or to write it says which.

    @property
    def queues(self) -> list[SplitQueue]:
        """`virtqueues` where the rings are split; TypeError where they are packed."""
        split = [queue for queue in self.virtqueues if isinstance(queue, SplitVirtqueue)]
        if len(split) != len(self.virtqueues):
            raise TypeError("the rings are packed: see packed_queues")
        return split

    @property
    def packed_queues(self) -> list[PackedQueue]:
        """`virtqueues` where the rings are packed; TypeError where they are split."""
        packed = [queue for queue in self.virtqueues if isinstance(queue, PackedVirtqueue)]
        if len(packed) != len(self.virtqueues):
            raise TypeError("the rings are split: see queues")
        return packed

    def receive_queue(self, pair: int = 0) -> SplitQueue:
        return self.queues[2 * pair]

    def transmit_queue(self, pair: int = 0) -> SplitQueue:
        return self.queues[2 * pair + 1]

    @property
    def control(self) -> ControlQueue:
        """The control queue; IndexError without the option `control_queue`."""
        index = 2 * self.queue_pairs
        return ControlQueue(self, self.virtqueues[index], index)

    # Sending

    def send(
        self,
        frame: bytes,
        header: NetHeader | bytes = PLAIN,
        *,
        queue: int = 0,
        layout: Sequence[int] | None = None,
        indirect: bool | None = None,
        timeout: float = _WAIT,
    ) -> None:
        """Send one frame on pair `queue`, waiting for room in the ring if there is none.

        `layout` gives the lengths of the chain's segments, header included, the rest being one more.
        TimeoutError when the ring stays full.
        """
        head = (
            header
            if isinstance(header, bytes)
            else header.build(self.header_size, big_endian=self.big_endian)
        )
        content = head + frame
        buffer = Segment(self.memory.alloc(max(len(content), 1)), len(content))
        self.memory.write(buffer.gpa, content)
        cuts = self._cut(len(content)) if layout is None else layout
        pieces = _segments(buffer, cuts)
        through_table = self.indirect if indirect is None else indirect
        deadline = Deadline(timeout)
        ring = self.virtqueues[2 * queue + 1]
        self.reclaim(queue)
        while ring.add(pieces, (), buffer, indirect=through_table) is None:
            self._await_returned(queue, deadline, "has room")
        ring.publish()
        if ring.needs_kick():
            self.kick(2 * queue + 1)

    def reclaim(self, queue: int = 0) -> int:
        """Take back the buffers of sent frames; how many there were."""
        done = self.virtqueues[2 * queue + 1].take_used()
        for chain in done:
            self.memory.free(chain.token.gpa)
        return len(done)

    def wait_sent(self, queue: int = 0, timeout: float = _WAIT) -> None:
        """Wait until the device has used every frame sent on pair `queue`; TimeoutError if it does not."""
        deadline = Deadline(timeout)
        while self.virtqueues[2 * queue + 1].outstanding:
            self._await_returned(queue, deadline, "is used up")

    def _await_returned(self, queue: int, deadline: Deadline, what: str) -> None:
        """Take back at least one sent buffer, asleep until then."""
        ring = self.virtqueues[2 * queue + 1]
        while not self.reclaim(queue):
            if not ring.enable_calls() and not self.wait_for_call([2 * queue + 1], deadline):
                raise TimeoutError(f"no transmit ring {2 * queue + 1} that {what} in {deadline.seconds:g} s")
        ring.disable_calls()

    # Receiving

    def recv(self, timeout: float = _WAIT) -> Received:
        """The next frame on any pair, asleep until then; TimeoutError when none comes."""
        deadline = Deadline(timeout)
        receiving = range(0, 2 * self.queue_pairs, 2)
        while (received := self.recv_now()) is None:
            if any([self.virtqueues[index].enable_calls() for index in receiving]):
                continue
            if not self.wait_for_call(receiving, deadline):
                raise TimeoutError(f"no frame within {deadline.seconds:g} s")
        return received

    def recv_now(self) -> Received | None:
        """The next frame on any pair if one is there."""
        if not self._arrived:
            for pair in range(self.queue_pairs):
                self._collect(pair)
        return self._arrived.popleft() if self._arrived else None

    def _collect(self, pair: int) -> None:
        """Put together what came in on one pair, and lend its buffers again."""
        ring = self.virtqueues[2 * pair]
        chains = deque(ring.take_used())
        if not chains:
            return
        while chains:
            self._arrived.append(self._assemble(pair, chains))
        ring.publish()
        if ring.needs_kick():
            self.kick(2 * pair)

    def _assemble(self, pair: int, chains: deque[UsedChain[Segment]]) -> Received:
        content = self._take_buffer(pair, chains.popleft())
        if len(content) < self.header_size:
            raise PeerError(f"ring {2 * pair}: {len(content)} bytes written, fewer than the header has")
        header = NetHeader.parse(content[: self.header_size], big_endian=self.big_endian)
        count = header.num_buffers if VirtioFeature.MRG_RXBUF in self.features else 1
        if not 1 <= count <= len(chains) + 1:
            # All buffers of a frame have to be given back together (virtio 1.x, 5.1.6.4).
            raise PeerError(f"ring {2 * pair}: num_buffers {count} with {len(chains) + 1} buffers given back")
        for _ in range(count - 1):
            content += self._take_buffer(pair, chains.popleft())
        return Received(header, content[self.header_size :], pair, count)

    def _take_buffer(self, pair: int, chain: UsedChain[Segment]) -> bytes:
        buffer = chain.token
        if chain.length > buffer.length:
            raise PeerError(f"ring {2 * pair}: {chain.length} bytes written into {buffer.length}")
        content = self.memory.read(buffer.gpa, chain.length)
        self._lend(pair, buffer)
        return content

    def _lend(self, pair: int, buffer: Segment) -> bool:
        pieces = _segments(buffer, self._cut(buffer.length))
        return self.virtqueues[2 * pair].add((), pieces, buffer, indirect=self.indirect) is not None

    def _cut(self, length: int) -> list[int]:
        """Lengths of all segments but the last, for `segments` of them: header, then equal parts."""
        if self.segments == 1:
            return []
        body = length - self.header_size
        return [self.header_size] + [body // (self.segments - 1)] * (self.segments - 2)

    # What `Link` asks for

    def _prepare(self) -> None:
        if not self.virtqueues:
            self.virtqueues = [self._make_queue(ring.size) for ring in self.nic.rings]
        for ring, queue in zip(self.nic.rings, self.virtqueues, strict=True):
            ring.place = self._said(queue.place)
        for pair in range(self.queue_pairs):
            self._fill(pair)

    def _make_queue(self, size: int) -> Queue:
        event_idx = VirtioFeature.EVENT_IDX in self.features
        in_order = VirtioFeature.IN_ORDER in self.features
        fence = lib.vu_driver_fence
        if self.packed:
            return PackedQueue(self.memory, size, event_idx=event_idx, in_order=in_order, fence=fence)
        return SplitQueue(
            self.memory,
            size,
            event_idx=event_idx,
            in_order=in_order,
            fence=fence,
            big_endian=self.big_endian,
        )

    def _fill(self, pair: int) -> None:
        """Lend receive buffers until the ring is full; visible at once, for the rings may run already."""
        size = self.buffer_size
        while True:
            buffer = Segment(self.memory.alloc(size), size)
            if not self._lend(pair, buffer):
                self.memory.free(buffer.gpa)
                break
        self.virtqueues[2 * pair].publish()

    def _places(self) -> Sequence[RingPlace]:
        return [queue.place for queue in self.virtqueues]

    def _device_base(self, index: int) -> int:
        return self.virtqueues[index].device_base()

    def _forget(self) -> None:
        self._arrived.clear()
        for queue in self.virtqueues:
            for buffer in queue.close():
                self.memory.free(buffer.gpa)
        self.virtqueues = []


def _segments(buffer: Segment, lengths: Sequence[int]) -> list[Segment]:
    """Cut a buffer into segments of these lengths and one more with the rest."""
    pieces = []
    at = buffer.gpa
    for length in lengths:
        pieces.append(Segment(at, length))
        at += length
    return [*pieces, Segment(at, buffer.gpa + buffer.length - at)]
