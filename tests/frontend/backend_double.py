"""A small back-end on a thread: enough of one to drive a driver against, and able to misbehave on request.

It echoes: what the guest sends on pair n comes back on pair n. Its rings are walked by `LockstepDevice`, its
messages are parsed by `wire.Connection`; nothing of the server or of the rings in C is in it.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.frontend.lockstep import Fetched, LockstepDevice, RingDevice
from tests.frontend.packed_lockstep import PackedLockstepDevice
from vhostuser.frontend.core import lib
from vhostuser.frontend.dialogue import ancillary, receive
from vhostuser.frontend.virtqueue_base import RingPlace
from vhostuser.wire.connection import Connection
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature, VirtioFeature
from vhostuser.wire.messages import (
    U64,
    Config,
    MemoryRegion,
    MemTable,
    Message,
    Payload,
    Reply,
    SingleRegion,
    VringAddr,
    VringFd,
    VringState,
)

V, P = VirtioFeature, ProtocolFeature

FEATURES = (
    V.VERSION_1
    | V.MRG_RXBUF
    | V.INDIRECT_DESC
    | V.EVENT_IDX
    | V.IN_ORDER
    | V.RING_PACKED
    | V.MQ
    | V.MTU
    | V.PROTOCOL_FEATURES
)
PROTOCOL_FEATURES = P.MQ | P.REPLY_ACK | P.CONFIG | P.STATUS | P.MTU | P.BACKEND_REQ
HEADER_SIZE = 12
NUM_BUFFERS_AT = 10

_U16, _U32, _U64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")


class MappedTable:
    """A memory table as the back-end has it mapped: what `LockstepDevice` needs of guest memory."""

    def __init__(self, table: MemTable, fds: list[int]) -> None:
        self._rows: list[tuple[MemoryRegion, mmap.mmap]] = []
        for region, fd in zip(table.regions, fds, strict=True):
            self.add(region, fd)

    def add(self, region: MemoryRegion, fd: int) -> None:
        length = region.mmap_offset + region.size
        self._rows.append((region, mmap.mmap(fd, length)))
        os.close(fd)

    def remove(self, region: MemoryRegion) -> None:
        row = next(row for row in self._rows if row[0] == region)
        self._rows.remove(row)
        row[1].close()

    def close(self) -> None:
        rows, self._rows = self._rows, []
        for _, mapping in rows:
            mapping.close()

    def guest_address(self, uva: int) -> int:
        """What ring addresses mean as guest addresses."""
        for region, _ in self._rows:
            if region.uva <= uva < region.uva + region.size:
                return region.gpa + uva - region.uva
        raise AssertionError(f"user address {uva:#x} is in no region")

    def _at(self, gpa: int) -> tuple[mmap.mmap, int, MemoryRegion]:
        for region, mapping in self._rows:
            if region.gpa <= gpa < region.gpa + region.size:
                return mapping, region.mmap_offset + gpa - region.gpa, region
        raise AssertionError(f"guest address {gpa:#x} is in no region")

    def read(self, gpa: int, length: int) -> bytes:
        mapping, at, _ = self._at(gpa)
        return mapping[at : at + length]

    def write(self, gpa: int, content: bytes) -> None:
        mapping, at, _ = self._at(gpa)
        mapping[at : at + len(content)] = content

    # Slices copy a whole word in one go; unlike struct.pack_into they do not clear it first.

    def load_u16(self, gpa: int) -> int:
        return int(_U16.unpack(self.read(gpa, 2))[0])

    def store_u16(self, gpa: int, value: int) -> None:
        self.write(gpa, _U16.pack(value))

    def load_u32(self, gpa: int) -> int:
        return int(_U32.unpack(self.read(gpa, 4))[0])

    def store_u32(self, gpa: int, value: int) -> None:
        self.write(gpa, _U32.pack(value))

    def load_u64(self, gpa: int) -> int:
        return int(_U64.unpack(self.read(gpa, 8))[0])


@dataclass
class DoubleRing:
    """What the messages said about one ring."""

    size: int = 0
    base: int = 0
    place: VringAddr | None = None
    kick: int | None = None
    call: int | None = None
    err: int | None = None
    started: bool = False
    enabled: bool = False
    device: RingDevice | None = None

    def close_fds(self) -> None:
        for fd in (self.kick, self.call, self.err):
            if fd is not None:
                os.close(fd)
        self.kick = self.call = self.err = None


Mangle = Callable[[RingDevice, Fetched, bytes], bool]
"""Called with the receive ring, a fetched chain and what is due in it; True when it has dealt with that."""


@dataclass
class BackendDouble:
    """Serves front-ends on `path`, one after another, until `stop`; a context manager."""

    path: str
    features: VirtioFeature = FEATURES
    protocol_features: ProtocolFeature = PROTOCOL_FEATURES
    queue_num: int = 128
    slots: int = 509
    config: bytes = bytes(12)
    refuses: frozenset[Request] = frozenset()
    polls: bool = False
    """Wants no kicks and looks by itself."""
    batches: bool = False
    """With IN_ORDER: one used entry gives all that a turn took from a transmit ring back."""
    half_base: bool = False
    """Of a packed ring GET_VRING_BASE answers the available position only, as DPDK's back-end does."""
    stop_answer: int | None = None
    """What GET_VRING_BASE answers in place of the truth."""
    swallow: int = 0
    """So many frames are taken and not echoed."""
    mangle: Mangle | None = None
    change: Callable[[bytes], bytes] = bytes
    """What becomes of a frame on its way back."""
    requests: list[tuple[Request, Payload, bool]] = field(default_factory=list)
    """Every request with its payload and NEED_REPLY."""
    failure: BaseException | None = None

    def __enter__(self) -> BackendDouble:
        self.rings: dict[int, DoubleRing] = {}
        self.table: MappedTable | None = None
        self.acked = V(0)
        self.acked_protocol = P(0)
        self.status = 0
        self.drop = threading.Event()
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(4)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.eventfd_write(self._end, 1)
        self._thread.join(20)
        self._listener.close()
        os.close(self._end)
        os.unlink(self.path)
        if self.failure is not None:
            raise self.failure

    def hang_up(self) -> None:
        """Close the connection that is served, as a back-end that dies does."""
        self._session.shutdown(socket.SHUT_RDWR)

    def named(self) -> list[str]:
        """The requests so far, with the ring of those that name one."""
        names = []
        for request, payload, _ in self.requests:
            index = getattr(payload, "index", None)
            names.append(request.name if index is None else f"{request.name} {index}")
        return names

    def _run(self) -> None:
        try:
            while self._wait([self._listener.fileno()]):
                self._session, _ = self._listener.accept()
                with self._session:
                    self._serve(self._session)
                self._forget()
        except BaseException as error:  # shown by the test's own thread
            self.failure = error
            self._forget()

    def _wait(self, fds: list[int], timeout_ms: int | None = None) -> list[int]:
        poller = select.poll()
        for fd in (*fds, self._end):
            poller.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poller.poll(timeout_ms)]
        return [] if self._end in ready else [*ready, -1]

    def _serve(self, sock: socket.socket) -> None:
        connection = Connection()
        try:
            while ready := self._wait([sock.fileno(), *self._kicks()], 1 if self.polls else None):
                for ring in self.rings.values():
                    if ring.kick in ready and ring.kick is not None:
                        os.eventfd_read(ring.kick)
                if sock.fileno() in ready and not self._listen_once(sock, connection):
                    return
                self._echo()
        finally:
            # The test may end between the head of a message, with which fds come, and the rest of it.
            for fd in connection.pending_fds():
                os.close(fd)

    def _kicks(self) -> list[int]:
        return [ring.kick for ring in self.rings.values() if ring.kick is not None]

    def _listen_once(self, sock: socket.socket, connection: Connection) -> bool:
        try:
            content, fds = receive(sock, connection.bytes_wanted)
        except ConnectionError:
            return False
        connection.receive(content, fds)
        if not content:
            return False
        message = connection.next_message()
        if message is not None:
            self._answer(sock, connection, message)
        return True

    def _answer(self, sock: socket.socket, connection: Connection, message: Message) -> None:
        request = Request(message.request)
        self.requests.append((request, message.payload, message.need_reply))
        fds = message.fds.take_all()
        # REPLY_ACK counts from the message after the one that negotiates it.
        acks = P.REPLY_ACK in self.acked_protocol
        refused = request in self.refuses
        payload = None if refused else self._handle(request, message.payload, fds)
        if refused:
            for fd in fds:
                os.close(fd)
        if payload is None and message.need_reply and acks:
            payload = U64(int(refused))
        if payload is not None:
            sock.sendmsg([connection.encode(Reply(request, payload))], ancillary(()))

    def _handle(self, request: Request, payload: Payload, fds: list[int]) -> Payload | None:
        match request, payload:
            case Request.GET_FEATURES, _:
                return U64(self.features)
            case Request.SET_FEATURES, U64(value):
                self.acked = V(value)
            case Request.GET_PROTOCOL_FEATURES, _:
                return U64(self.protocol_features)
            case Request.SET_PROTOCOL_FEATURES, U64(value):
                self.acked_protocol = P(value)
            case Request.GET_QUEUE_NUM, _:
                return U64(self.queue_num)
            case Request.GET_STATUS, _:
                return U64(self.status)
            case Request.SET_STATUS, U64(value):
                self.status = value
            case Request.GET_CONFIG, Config(offset, size, _, _):
                return Config(offset, size, 0, self.config[offset : offset + size].ljust(size, b"\0"))
            case Request.SET_MEM_TABLE, MemTable():
                self._replace_table(MappedTable(payload, fds))
                return None
            case Request.GET_MAX_MEM_SLOTS, _:
                return U64(self.slots)
            case Request.ADD_MEM_REG, SingleRegion(region):
                if self.table is None:
                    self.table = MappedTable(MemTable(()), [])
                self.table.add(region, fds[0])
                return None
            case Request.REM_MEM_REG, SingleRegion(region):
                assert self.table is not None
                self.table.remove(region)
                return None
            case Request.GET_VRING_BASE, VringState(index, _):
                return VringState(index, self._stop(index))
            case _, VringState(index, num):
                self._set_ring(request, self._ring(index), num)
            case _, VringAddr(index=index):
                self._ring(index).place = payload
            case _, VringFd(index=index):
                self._set_fd(request, self._ring(index), fds)
                return None
        for fd in fds:
            os.close(fd)
        return None

    def _ring(self, index: int) -> DoubleRing:
        return self.rings.setdefault(index, DoubleRing())

    def _replace_table(self, table: MappedTable) -> None:
        if self.table is not None:
            self.table.close()
        self.table = table

    def _set_ring(self, request: Request, ring: DoubleRing, num: int) -> None:
        match request:
            case Request.SET_VRING_NUM:
                ring.size = num
            case Request.SET_VRING_BASE:
                ring.base = num
            case Request.SET_VRING_ENABLE:
                ring.enabled = bool(num)

    def _set_fd(self, request: Request, ring: DoubleRing, fds: list[int]) -> None:
        name = {Request.SET_VRING_KICK: "kick", Request.SET_VRING_CALL: "call"}.get(request, "err")
        old = getattr(ring, name)
        if old is not None:
            os.close(old)
        setattr(ring, name, fds[0] if fds else None)
        if name == "kick":
            self._start(ring)

    def _start(self, ring: DoubleRing) -> None:
        assert ring.place is not None
        assert self.table is not None
        place = RingPlace(
            desc=self.table.guest_address(ring.place.desc),
            avail=self.table.guest_address(ring.place.avail),
            used=self.table.guest_address(ring.place.used),
        )
        ring.device = self._device(self.table, ring, place)
        ring.started = True

    def _device(self, table: MappedTable, ring: DoubleRing, place: RingPlace) -> RingDevice:
        event_idx = V.EVENT_IDX in self.acked
        if V.RING_PACKED in self.acked:
            return PackedLockstepDevice(table, ring.size, place, event_idx=event_idx, base=ring.base)
        device = LockstepDevice(table, ring.size, place, event_idx=event_idx)
        device.used_index = table.load_u16(place.used + 2)
        # Like every back-end that completes in order: the used index is where it goes on.
        device.avail_index = device.call_checked = device.used_index
        return device

    def _stop(self, index: int) -> int:
        ring = self._ring(index)
        ring.started = False
        if ring.kick is not None:
            os.close(ring.kick)
            ring.kick = None
        if self.stop_answer is not None:
            return self.stop_answer
        base = ring.device.base() if ring.device is not None else ring.base
        return base & 0xFFFF if self.half_base else base

    def _forget(self) -> None:
        for ring in self.rings.values():
            ring.close_fds()
        self.rings.clear()
        if self.table is not None:
            self.table.close()
            self.table = None
        self.acked_protocol = P(0)

    def _runs(self, index: int) -> RingDevice | None:
        ring = self.rings.get(index)
        if ring is None or not ring.started or (V.PROTOCOL_FEATURES in self.acked and not ring.enabled):
            return None
        return ring.device

    def _echo(self) -> None:
        for index in [index for index in self.rings if index % 2]:
            sender, receiver = self._runs(index), self._runs(index - 1)
            if sender is not None and receiver is not None:
                self._echo_pair(index, sender, receiver)

    def _echo_pair(self, index: int, sender: RingDevice, receiver: RingDevice) -> None:
        moved = True
        while moved:
            heads = []
            while (chain := sender.fetch()) is not None:
                self._deliver(receiver, sender.read(chain))
                heads.append(chain.head)
                if not self.batches:
                    sender.push(chain.head, 0)
                    sender.publish()
            if self.batches and heads:
                sender.push(heads[-1], 0, covers=len(heads))
                sender.publish()
            for device in (sender, receiver):
                (device.poll if self.polls else device.sleep)()
            lib.vu_driver_fence()  # the wish for a kick before the index is read again
            moved = bool(sender.pending())
        lib.vu_driver_fence()  # the used index before the driver's wish for a call is read
        for ring, device in ((index, sender), (index - 1, receiver)):
            call = self.rings[ring].call
            if device.wants_call() and call is not None:
                os.eventfd_write(call, 1)

    def _deliver(self, receiver: RingDevice, content: bytes) -> None:
        if self.swallow:
            self.swallow -= 1
            return
        chain = receiver.fetch()
        if chain is None:
            return
        due = bytearray(bytes(HEADER_SIZE) + self.change(content[HEADER_SIZE:]))
        due[NUM_BUFFERS_AT] = 1
        if self.mangle is not None and self.mangle(receiver, chain, bytes(due)):
            return
        self._spread(receiver, chain, due)

    def _spread(self, receiver: RingDevice, first: Fetched, due: bytearray) -> None:
        """Over as many chains as it takes; the count of them goes in before anything is published."""
        chains = [first]
        room = sum(length for _, length in first.writable)
        while room < len(due) and V.MRG_RXBUF in self.acked and (chain := receiver.fetch()) is not None:
            chains.append(chain)
            room += sum(length for _, length in chain.writable)
        due[NUM_BUFFERS_AT] = len(chains)
        at = 0
        for chain in chains:
            written = receiver.fill(chain, bytes(due[at:]))
            receiver.push(chain.head, written)
            at += written
        receiver.publish()
