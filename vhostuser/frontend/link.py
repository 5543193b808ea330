"""A network device as a driver holds it: the connection, what was negotiated, memory, ring places, eventfds.

Here: bringing it up, stopping it, surviving a back-end that was restarted. Not here: what happens on the
rings; `driver.py` does that in Python, `flood.py` in C.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, Unpack

from vhostuser.errors import PeerError
from vhostuser.frontend import orders
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.iommu import Iommu
from vhostuser.frontend.net_header import header_size
from vhostuser.frontend.nic import Nic, Ring
from vhostuser.frontend.orders import ACKS, Order
from vhostuser.frontend.timeouts import Deadline
from vhostuser.frontend.virtqueue_base import RingPlace, user_place
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature, VirtioFeature, feature_names

DEFAULT_FEATURES = (
    VirtioFeature.VERSION_1
    | VirtioFeature.MRG_RXBUF
    | VirtioFeature.INDIRECT_DESC
    | VirtioFeature.EVENT_IDX
    | VirtioFeature.PROTOCOL_FEATURES
)
"""What is acknowledged where it is offered, unless a driver is told otherwise.

No offloads, no IN_ORDER, no packed rings. MQ is added for more than one pair.
"""

_SMALLEST_BUFFER = 2048
_LARGEST_FRAME = 65550
"""With segmentation offloads and without MRG_RXBUF one buffer has to hold this (virtio 1.x, 5.1.6.3.1)."""
_BIG_FRAMES = (
    VirtioFeature.GUEST_TSO4
    | VirtioFeature.GUEST_TSO6
    | VirtioFeature.GUEST_UFO
    | VirtioFeature.GUEST_USO4
    | VirtioFeature.GUEST_USO6
)


def _needed_for(pairs: int) -> VirtioFeature:
    return VirtioFeature.MQ if pairs > 1 else VirtioFeature(0)


class LinkOptions(TypedDict, total=False):
    """Keyword arguments of `Link` and of everything made from it."""

    order: Order | str
    """The message order to speak in; "qemu" by default."""
    queue_pairs: int
    queue_size: int
    """Entries of each ring, 256 by default; any number where RING_PACKED is negotiated."""
    control_queue: bool
    """Whether there is one behind the pairs, and CTRL_VQ is acknowledged. Off by default: QEMU and Cloud
    Hypervisor keep theirs to themselves."""
    features: VirtioFeature
    """Acknowledged where offered; `DEFAULT_FEATURES` by default."""
    protocol_features: ProtocolFeature
    """Acknowledged where offered, in place of those that the order's front-end does."""
    memory: GuestMemory
    """Stays the caller's; one of 256 MiB is made, and owned, when none is given."""
    iommu: Iommu
    """In place of `memory`: ACCESS_PLATFORM is asked for, and every address is one of its I/O addresses."""
    buffer_size: int
    """Of a receive buffer, header included; by default the least that the negotiated features allow."""
    mtu: int
    """Told to the back-end when the MTU features are negotiated."""
    acks: Container[Request]
    """Requests that ask for an acknowledgement, in place of those that the order would ask it for."""
    kick_fds: bool
    """False: no kick eventfds are passed, the back-end polls."""
    segments: int
    """Descriptors of a chain: 1 takes buffers whole, 2 puts the header apart, more cut the frame."""
    indirect: bool
    """Whether chains go through indirect tables; by default those of several segments do, if negotiated."""
    big_endian: bool
    """A legacy guest of big-endian byte order: VERSION_1 is not acknowledged. In QEMU's order only, and not
    with the driver in C; no other front-end knows such guests."""


class Link:
    """What a driver needs besides its queues. Owns the front-end, eventfds and, if it made it, the memory.

    As a context manager it is running inside the block. Otherwise: `start`, `stop` and `start` again, and
    `close` in the end.
    """

    def __init__(self, frontend: Frontend, **options: Unpack[LinkOptions]) -> None:
        self.frontend = frontend
        self.running = False
        self._negotiated = False
        self._owned_fds: list[int] = []
        self._channel: tuple[socket.socket, socket.socket] | None = None
        self._owned_memory: GuestMemory | None = None
        try:
            order = Order(options.get("order", Order.QEMU))
            pairs = options.get("queue_pairs", 1)
            size = options.get("queue_size", 256)
            has_control = options.get("control_queue", False)
            control = VirtioFeature.CTRL_VQ if has_control else VirtioFeature(0)
            self._acks = options.get("acks", ACKS[order])
            self.iommu = options.get("iommu")
            memory = options.get("memory") if self.iommu is None else self.iommu.memory
            if memory is None:
                memory = self._owned_memory = GuestMemory(256 << 20)
            self._wants_kick_fds = options.get("kick_fds", True)
            self._buffer_size = options.get("buffer_size")
            self._indirect = options.get("indirect")
            self.segments = options.get("segments", 1)
            self._channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            wanted = options.get("features", DEFAULT_FEATURES | _needed_for(pairs))
            self.big_endian = options.get("big_endian", False)
            if self.big_endian:
                if order is not Order.QEMU:
                    raise ValueError(f"{order.value} knows no big-endian guests")
                wanted &= ~(VirtioFeature.VERSION_1 | VirtioFeature.RING_PACKED)
            self.nic = Nic(
                order=order,
                wanted=wanted | control | self._platform(),
                pairs=pairs,
                rings=[self._ring(index, size) for index in range(2 * pairs + has_control)],
                memory=memory,
                channel_fd=self._channel[1].fileno(),
                mtu=options.get("mtu"),
                protocol_wanted=options.get("protocol_features"),
                big_endian=self.big_endian,
            )
            frontend.dialogue.acks = self._acks
        except BaseException:
            self._release()
            raise

    def _platform(self) -> VirtioFeature:
        return VirtioFeature(0) if self.iommu is None else VirtioFeature.ACCESS_PLATFORM

    def _ring(self, index: int, size: int) -> Ring:
        fds = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(4)]
        self._owned_fds += fds
        kick, call, err, masked = fds
        return Ring(index, size, kick if self._wants_kick_fds else None, call, err, masked)

    @classmethod
    def connect(cls, path: str | Path, **options: Unpack[LinkOptions]) -> Self:
        return cls(Frontend.connect(path), **options)

    @classmethod
    def listen(cls, path: str | Path, **options: Unpack[LinkOptions]) -> Self:
        """Wait for one back-end to connect."""
        return cls(Frontend.listen(path), **options)

    # What it is

    @property
    def features(self) -> VirtioFeature:
        """What was negotiated; nothing before `negotiate`."""
        return self.nic.features

    @property
    def protocol_features(self) -> ProtocolFeature:
        return self.nic.protocol

    @property
    def memory(self) -> GuestMemory:
        return self.nic.memory

    @property
    def queue_pairs(self) -> int:
        return self.nic.pairs

    @property
    def packed(self) -> bool:
        """Whether the rings are packed ones."""
        return self.nic.packed

    @property
    def header_size(self) -> int:
        """Of the virtio-net header, with the features negotiated."""
        return header_size(self.features)

    @property
    def buffer_size(self) -> int:
        """Of one receive buffer, header included."""
        if self._buffer_size is not None:
            return self._buffer_size
        if self.features & _BIG_FRAMES and VirtioFeature.MRG_RXBUF not in self.features:
            return -(-(_LARGEST_FRAME + self.header_size) // 64) * 64
        return _SMALLEST_BUFFER

    @property
    def indirect(self) -> bool:
        """Whether chains go through indirect tables."""
        negotiated = VirtioFeature.INDIRECT_DESC in self.features
        wanted = self.segments > 1 if self._indirect is None else self._indirect
        return negotiated and wanted

    @property
    def channel(self) -> socket.socket:
        """Our end of the channel on which the back-end sends requests, if BACKEND_REQ was negotiated."""
        assert self._channel is not None
        return self._channel[0]

    # Bringing it up and down

    def negotiate(self) -> None:
        """Features, protocol features, ownership; PeerError when the back-end cannot be driven."""
        self.frontend.run_script(orders.negotiate(self.nic))
        if len(self.nic.rings) > 2 * self.queue_pairs and VirtioFeature.CTRL_VQ not in self.features:
            raise PeerError("back-end does not offer CTRL_VQ, and a control queue was asked for")
        self._negotiated = True

    def start(self) -> None:
        """Negotiate if that was not done yet, make the queues ready, start the rings."""
        if not self._negotiated:
            self.negotiate()
        if self.packed and self.nic.order is Order.VIRTIO_USER:
            # It gives the base of a new ring whatever went before, for it makes them anew.
            self._forget()
        self._prepare()
        self.frontend.run_script(orders.start(self.nic))
        if self.iommu is not None:
            self.iommu.start(self.frontend, list(self._places()))
        self.running = True

    def stop(self) -> None:
        """Stop the rings. What the device has not used stays in them, and `start` goes on from there.

        But virtio-user forgets packed rings, and what is in them, when it starts them again.
        """
        self.running = False
        self.frontend.run_script(orders.stop(self.nic))

    def reset(self, features: VirtioFeature | None = None) -> None:
        """What a guest that reboots does: stop if running, forget the rings, choose features anew."""
        if self.running:
            self.stop()
        if features is not None:
            self.nic.wanted = features
        self.nic.features = self.nic.offered & self.nic.wanted
        self.nic.begin_anew()
        self.nic.drop_inflight()
        self._forget()

    def resume(self, frontend: Frontend) -> None:
        """Go on with a back-end that was restarted: rings, memory and inflight region are as it left them.

        The position that each kind of front-end gives after such a loss differs: used index for QEMU, 0 for
        virtio-user, avail index for Cloud Hypervisor. Packed rings have no index to read: virtio-user makes
        them anew, and in the other orders the base is where the used descriptors end. PeerError when features
        that are in use are not offered any more.
        """
        self.frontend.close()
        self.frontend = frontend
        frontend.dialogue.acks = self._acks
        before = self.nic.features
        self.nic.owned = False
        self.nic.told = []
        self.negotiate()
        if missing := before & ~self.nic.offered:
            raise PeerError(f"back-end no longer offers {', '.join(feature_names(missing))}")
        self.nic.features = before
        for ring in self.nic.rings:
            if self.nic.order is Order.CLOUD_HYPERVISOR and not self.packed:
                ring.base = self.memory.load_u16(self._places()[ring.index].avail + 2)
            else:
                ring.base = self._device_base(ring.index)
        self.start()

    def enable(self, pair: int, enable: bool) -> None:
        """Switch both rings of a pair on or off, as a guest that changes its number of queues does."""
        for ring in self.nic.pair(pair):
            self.frontend.set_vring_enable(ring.index, enable)

    def __enter__(self) -> Self:
        if not self.running:
            try:
                self.start()
            except BaseException:
                self.close()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, which stops the rings at the back-end, and release everything owned."""
        self.running = False
        self.frontend.close()
        self._forget()
        self.nic.drop_inflight()
        self._release()

    def _release(self) -> None:
        fds, self._owned_fds = self._owned_fds, []
        for fd in fds:
            os.close(fd)
        channel, self._channel = self._channel, None
        for end in channel or ():
            end.close()
        memory, self._owned_memory = self._owned_memory, None
        if memory is not None:
            memory.close()

    # For those who have queues

    def _prepare(self) -> None:
        """Make the queues if there are none, set each `Ring.place`, and lend receive buffers."""
        raise NotImplementedError

    def _places(self) -> Sequence[RingPlace]:
        """Guest addresses of the rings, by index."""
        raise NotImplementedError

    def _said(self, place: RingPlace) -> RingPlace:
        """A ring's guest addresses as SET_VRING_ADDR has to say them."""
        has_guest_addresses = ProtocolFeature.GPA_ADDRESSES in self.protocol_features
        return place if has_guest_addresses else user_place(self.memory, place)

    def _device_base(self, index: int) -> int:
        """Where ring `index` shows that the device stood, as SET_VRING_BASE has it."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Release the queues, rings and buffers; the rings are stopped, `_prepare` makes new ones."""
        raise NotImplementedError

    def kick(self, index: int) -> None:
        """Write to the kick eventfd of ring `index`, wanted or not."""
        fd = self.nic.rings[index].kick_fd
        if fd is not None:
            os.eventfd_write(fd, 1)

    def serve_iommu(self) -> int:
        """Answers what the back-end has asked the IOMMU by now, if any; how many questions there were.

        Done by itself in every wait for a call.
        """
        return 0 if self.iommu is None else self.iommu.serve(self.frontend, self.channel)

    def wait_for_call(self, indices: Iterable[int], deadline: Deadline) -> bool:
        """Sleep until one of these rings is called, and read its eventfd; False when time is up first."""
        poller = select.poll()
        for index in indices:
            fd = self.nic.rings[index].call_fd
            assert fd is not None
            poller.register(fd, select.POLLIN)
        channel = self.channel.fileno()
        if self.iommu is not None:
            poller.register(channel, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poller.poll(deadline.left_ms)}
            if channel in ready:
                self.serve_iommu()
            for fd in ready - {channel}:
                os.eventfd_read(fd)
            if ready != {channel}:
                return bool(ready)
