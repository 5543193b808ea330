"""The device's and its vrings' Python face: configure, start, stop, count. Every change pauses the workers
that it is about.

fds are borrowed: whoever passes one keeps owning it, and keeps it open until the ring is stopped, the fd is
swapped, or the port is unset.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Final

from vhostuser.datapath._datapath import ffi, lib
from vhostuser.datapath.dirty_log import DirtyLog
from vhostuser.datapath.faults import DROP_NAMES, explain
from vhostuser.datapath.inflight import InflightRegion
from vhostuser.datapath.mapping import MappedMemory
from vhostuser.datapath.port_ops import NET_HEADER_SIZE, PortKind
from vhostuser.datapath.rx_filter import RxFilter
from vhostuser.datapath.switching import Member
from vhostuser.datapath.worker import Worker, paused
from vhostuser.errors import GuestError
from vhostuser.wire.features import VirtioFeature

_PORT_KINDS = {
    PortKind.FD: 1,
    PortKind.ECHO: 2,
    PortKind.SINK: 3,
    PortKind.SOURCE: 4,
    PortKind.SWITCH: 6,
    PortKind.PACKET: 7,
}
_NO_PORT = 0

MAX_COMMAND: Final = lib.VU_CONTROL_BYTES
"""Bytes of a control command, ack not counted; a longer one is not copied out."""


class RingEnabled(IntEnum):
    DISABLED = 0
    """TX is emptied and dropped, RX not filled."""
    ENABLED = 1
    HELD = 2
    """Enabled, but the port queue behind it is not ready yet: left alone."""


@dataclass(frozen=True, slots=True)
class VringSetup:
    """All that starting a ring needs; addresses are user addresses."""

    desc: int
    avail: int
    used: int
    size: int
    base: int
    kick_fd: int
    """-1: the ring is polled, once a millisecond while nothing else happens."""
    kick_is_drained: bool
    """The kick fd is a pipe or socket, to be read empty; an eventfd never is."""
    call_fd: int
    err_fd: int
    is_logged: bool = False
    """What is written into the ring itself is marked in the dirty log, too."""
    log_address: int = 0
    """Guest address of the used ring, for the log."""
    is_big_endian: bool = False
    """A legacy guest's words and headers are. Not so with VERSION_1 or packed rings, whatever is said."""


@dataclass(frozen=True, slots=True)
class VringCounters:
    """What one ring has done since its device was made, over all front-ends."""

    packets: int
    """Frames delivered. TX: to the port; RX: to the guest."""
    bytes: int
    """Their Ethernet bytes."""
    chains: int
    bursts: int
    kicks: int
    calls: int
    calls_suppressed: int
    offloads: int
    linearised: int
    bases_corrected: int
    """Starts at another position than the front-end gave: it had lost the ring's."""
    drops: dict[str, int] = field(default_factory=dict)
    """By reason, zeros left out."""


class PacketDevice:
    """C's view of one device, its pairs spread over ``workers``.

    Pair n starts out on worker (device + n) modulo their number: devices of one pair spread, and so do the
    pairs of one device, without anybody keeping account of who comes and goes.
    """

    def __init__(self, device_id: int, workers: Sequence[Worker]) -> None:
        self._id = device_id
        self._workers = workers
        self.handle = lib.vu_device_new(device_id)
        if self.handle == ffi.NULL:
            raise MemoryError
        self._pairs: dict[int, RingPair] = {}
        self._member: Member | None = None

    def join(self, member: Member) -> None:
        """Its pairs may have `PortKind.SWITCH` from now on, until `close`. Raises EnvironmentLacksError."""
        member.join(self)
        self._member = member

    def pair(self, n: int) -> RingPair:
        """Pair n, made when it is first asked for."""
        if n not in self._pairs:
            worker = self._workers[(self._id + n) % len(self._workers)]
            with self.paused(worker):
                self._pairs[n] = RingPair(self, n, worker)
        return self._pairs[n]

    @property
    def pairs(self) -> dict[int, RingPair]:
        """Those that were ever asked for."""
        return self._pairs

    @property
    def workers(self) -> Sequence[Worker]:
        """Those that its pairs are spread over."""
        return self._workers

    def paused(self, *others: Worker) -> AbstractContextManager[None]:
        """Inside, nothing of the device runs: one pause around several changes, each of which pauses too.

        The workers of its pairs stand still, with whatever else is on them; see `worker.paused`. So do
        ``others``, and those of its switch, which may be filling its rings.
        """
        own = {pair.worker for pair in self._pairs.values()}
        return paused({*own, *others, *self._neighbours})

    def paused_for(self, pair: RingPair) -> AbstractContextManager[None]:
        """The same for a change of nothing but this pair."""
        return paused({pair.worker, *self._neighbours})

    @property
    def _neighbours(self) -> Iterable[Worker]:
        return () if self._member is None else self._member.switch.workers

    def move(self, workers: Sequence[Worker]) -> None:
        """From now on its pairs are spread over these, running or not; nothing of what they do is lost.

        What the old workers have reported of them is still in their queues. Raises nothing: a ring whose
        kick fd the kernel does not watch is broken and reported.
        """
        with self.paused(*workers):
            self._workers = workers
            for n in self._pairs:
                self.move_pair(n, workers[(self._id + n) % len(workers)])

    def move_pair(self, n: int, worker: Worker) -> None:
        """The same for one pair, until the next `move`."""
        if self._member is not None:
            self._member.switch.workers.add(worker)
        with self.paused(worker):
            pair = self._pairs[n]
            pair.worker = worker
            lib.vu_pair_move(pair.handle, worker.handle)

    def set_features(self, features: VirtioFeature) -> None:
        with self.paused():
            lib.vu_device_set_features(self.handle, int(features))

    def set_memory(self, memory: MappedMemory | None) -> None:
        """Swaps the table under running rings; one that no longer fits breaks and is reported.

        The device holds a reference of its own; the old one's is dropped here, so close the old
        MappedMemory (last reference: unmaps) off the loop.
        """
        with self.paused():
            old = lib.vu_device_set_memory(self.handle, ffi.NULL if memory is None else memory.handle)
        lib.vu_memory_put(old)

    def set_log(self, log: DirtyLog | None) -> None:
        """Where writes are marked from now on, while LOG_ALL is acknowledged. The old one is the caller's
        again and gets no further bit."""
        with self.paused():
            lib.vu_device_set_log(self.handle, ffi.NULL if log is None else log.handle)

    def set_inflight(self, region: InflightRegion | None) -> None:
        """Where rings that start from now on say how far they are; none may be started. The old one is the
        caller's again."""
        with self.paused():
            lib.vu_device_set_inflight(self.handle, ffi.NULL if region is None else region.handle)

    def set_filter(self, rx_filter: RxFilter | None) -> None:
        """What frames to the guest have to pass; None: every frame is delivered."""
        c_filter = ffi.NULL if rx_filter is None else rx_filter.build()
        with self.paused():
            lib.vu_device_set_filter(self.handle, c_filter)

    @property
    def is_faulted(self) -> bool:
        return bool(lib.vu_device_faulted(self.handle))

    def clear_fault(self) -> None:
        with self.paused():
            lib.vu_device_clear_fault(self.handle)

    def close(self) -> None:
        """Frees pairs and device; their fds may be closed afterwards. Every ring must be stopped."""
        if self.handle == ffi.NULL:
            return
        with self.paused():
            for pair in self._pairs.values():
                lib.vu_pair_free(pair.handle)
            self._pairs.clear()
            if self._member is not None:
                self._member.leave()
            lib.vu_device_free(self.handle)
        self.handle = ffi.NULL


class RingPair:
    """Two rings and the port queue behind them, on one worker."""

    def __init__(self, device: PacketDevice, n: int, worker: Worker) -> None:
        self.worker = worker
        self._device = device
        self.handle = lib.vu_pair_new(device.handle, worker.handle, n)
        if self.handle == ffi.NULL:
            raise MemoryError

    @property
    def spent(self) -> int:
        """What it has cost its workers, in about nanoseconds; to compare pairs by."""
        return lib.vu_pair_spent(self.handle)

    def set_port(
        self,
        kind: PortKind | None,
        fd: int = -1,
        *,
        reads: bool = True,
        frame_size: int = 0,
        header_size: int = NET_HEADER_SIZE,
    ) -> None:
        """What the frames of this pair come from and go to. ``reads``: this pair empties the port's queue."""
        if header_size not in (10, NET_HEADER_SIZE):
            raise ValueError(f"no virtio-net header has {header_size} bytes")
        number = _NO_PORT if kind is None else _PORT_KINDS[kind]
        with self._device.paused_for(self):
            size = frame_size if kind is PortKind.SOURCE else header_size
            lib.vu_pair_set_port(self.handle, number, fd, reads, size)

    def set_control(self) -> None:
        """Ring 0 is a control ring from now on, until `set_port`; each command is an event of its own."""
        with self._device.paused_for(self):
            if lib.vu_pair_set_control(self.handle) < 0:
                raise MemoryError

    def command(self) -> bytes | None:
        """The command that waits for `answer`; None when none does. Cut to nothing when it is longer than
        `MAX_COMMAND`."""
        content = ffi.new("uint8_t[]", MAX_COMMAND)
        with self._device.paused_for(self):
            length = lib.vu_control_command(self.handle, content)
        if not length:
            return None
        return b"" if length > MAX_COMMAND else bytes(ffi.buffer(content, length))

    def answer(self, ack: int) -> None:
        """The ack byte of the command that waits; the worker writes it and looks for the next one."""
        with self._device.paused_for(self):
            lib.vu_control_answer(self.handle, ack)

    def start(self, ring: int, setup: VringSetup) -> None:
        """Starts ring 0 (RX) or 1 (TX); the worker scans it once at its next turn.

        Raises GuestError when the ring does not lie in memory, or the kick fd cannot be watched.
        """
        c_setup = ffi.new(
            "struct vu_vring_setup *",
            {
                "desc": setup.desc,
                "avail": setup.avail,
                "used": setup.used,
                "size": setup.size,
                "base": setup.base,
                "kick_fd": setup.kick_fd,
                "kick_drained": setup.kick_is_drained,
                "call_fd": setup.call_fd,
                "err_fd": setup.err_fd,
                "logged": setup.is_logged,
                "log": setup.log_address,
                "big_endian": setup.is_big_endian,
            },
        )
        with self._device.paused_for(self):
            self._check(ring, lib.vu_vring_start(self.handle, ring, c_setup))

    def stop(self, ring: int) -> int:
        """Stops it, running or not; returns its position as the answer to GET_VRING_BASE has it."""
        with self._device.paused_for(self):
            return lib.vu_vring_stop(self.handle, ring)

    def set_enabled(self, ring: int, enabled: RingEnabled) -> None:
        with self._device.paused_for(self):
            lib.vu_vring_set_enabled(self.handle, ring, enabled)

    def set_kick(self, ring: int, fd: int, is_drained: bool) -> None:
        with self._device.paused_for(self):
            self._check(ring, lib.vu_vring_set_kick(self.handle, ring, fd, is_drained))

    def set_call(self, ring: int, fd: int) -> None:
        with self._device.paused_for(self):
            lib.vu_vring_set_call(self.handle, ring, fd)

    def set_log(self, ring: int, is_logged: bool, address: int) -> None:
        with self._device.paused_for(self):
            lib.vu_vring_set_log(self.handle, ring, is_logged, address)

    def set_err(self, ring: int, fd: int) -> None:
        with self._device.paused_for(self):
            lib.vu_vring_set_err(self.handle, ring, fd)

    def counters(self, ring: int) -> VringCounters:
        """Up to a moment ago; pauses nobody."""
        c = ffi.new("struct vu_counters *")
        lib.vu_vring_counters(self.handle, ring, c)
        drops = {name: c.drops[i] for i, name in enumerate(DROP_NAMES) if c.drops[i]}
        return VringCounters(
            c.packets,
            c.bytes,
            c.chains,
            c.bursts,
            c.kicks,
            c.calls,
            c.calls_suppressed,
            c.offloads,
            c.linearised,
            c.bases_corrected,
            drops,
        )

    def set_counters(self, ring: int, counters: VringCounters) -> None:
        """Goes on from what the ring counted elsewhere; drops of reasons that are unknown here are left out.

        The ring must be stopped, and every number has to fit into 64 bits.
        """
        drops = [counters.drops.get(name, 0) for name in DROP_NAMES]
        numbers = {field.name: getattr(counters, field.name) for field in fields(counters)}
        c = ffi.new("struct vu_counters *", {**numbers, "drops": drops})
        with self._device.paused_for(self):
            lib.vu_vring_set_counters(self.handle, ring, c)

    def _check(self, ring: int, result: int) -> None:
        if result < 0:
            trouble = ffi.new("uint64_t[4]")
            lib.vu_vring_error(self.handle, ring, trouble)
            raise GuestError(explain(result, (trouble[0], trouble[1], trouble[2], trouble[3])))
