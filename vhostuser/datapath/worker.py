"""The worker's Python face: turning it or giving it a thread, pausing it, reading what it reports."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from os import strerror
from pathlib import Path

from vhostuser import abi
from vhostuser.datapath._datapath import ffi, lib
from vhostuser.errors import EnvironmentLacksError

abi.check_built("vhostuser.datapath._datapath", lib)

_EVENTS = 64


class Poll(IntEnum):
    """`enum vu_poll`: how a worker's thread waits when no pair of it has work."""

    EVENT = 0
    ADAPTIVE = 1
    BUSY = 2


class EventKind(IntEnum):
    """`enum vu_event_kind`; csrc/worker.h says what the values are."""

    RING_STARTED = 1
    RING_BROKEN = 2
    DEVICE_FAULTED = 3
    PORT_GONE = 4
    OVERFLOW = 5
    CONTROL = 6
    IOTLB_MISS = 7
    CROWDED = 8
    PORT_DOWN = 9


@dataclass(frozen=True, slots=True)
class WorkerCounters:
    """What a worker has done since it was made."""

    turns: int
    sleeps: int
    """Of a thread: how often it waited for an event."""
    busy_ns: int
    """Of a thread that polls, as the next: time in turns that had work."""
    idle_ns: int
    """Awake without work."""


@dataclass(frozen=True, slots=True)
class WorkerEvent:
    kind: EventKind
    device: int
    """The id that the device was made with."""
    ring: int
    error: int
    values: tuple[int, int, int, int]


class Worker:
    """Runs ring pairs whenever it is turned, by `turn` or by a thread of its own between `start` and `stop`.

    Must outlive every device that was given it.

    Raises EnvironmentLacksError when the kernel has no epoll fd left.
    """

    def __init__(self) -> None:
        lib.vu_guard_install()
        self.handle = lib.vu_worker_new()
        if self.handle == ffi.NULL:
            raise EnvironmentLacksError(
                f"no file descriptors for the packet worker ({strerror(ffi.errno)}): raise `ulimit -n`"
            )
        self._events = ffi.new("struct vu_event[]", _EVENTS)
        self._poll = Poll.EVENT

    @property
    def epoll_fd(self) -> int:
        """Readable when a turn has something to do; the worker's own."""
        return lib.vu_worker_epoll_fd(self.handle)

    def turn(self, timeout_ms: int = 0) -> tuple[bool, bool]:
        """One bounded run of at most about 500 us: (work is left, events wait)."""
        result = lib.vu_worker_turn(self.handle, timeout_ms)
        return bool(result & lib.VU_TURN_MORE), bool(result & lib.VU_TURN_EVENTS)

    def start(self, name: str, events_fd: int, cpu: int | None = None, poll: Poll = Poll.EVENT) -> None:
        """A C thread turns it from now on and waits in between as ``poll`` says; it never takes the GIL.

        ``name`` (15 characters) is what `top -H` shows. ``events_fd``, an eventfd that stays the caller's, is
        written when `events` has something. ``cpu``: the only one the thread may use. Raises
        EnvironmentLacksError, and nothing runs, when the kernel has no thread or no such CPU for us.
        """
        self._poll = poll
        error = lib.vu_worker_start(self.handle, name.encode(), -1 if cpu is None else cpu, poll, events_fd)
        if error == -errno.EINVAL and cpu is not None:
            raise EnvironmentLacksError(
                f"there is no CPU {cpu} for a packet worker: `taskset -p $$` shows which ones may be used"
            )
        if error:
            raise EnvironmentLacksError(
                f"no thread for a packet worker ({strerror(-error)}): raise `ulimit -u` or lower --workers"
            )

    def stop(self) -> None:
        """Ends the thread, if there is one, after the turn that it is in: that is when this returns."""
        lib.vu_worker_stop(self.handle)

    def hold(self) -> None:
        """It starts no turn until `resume`, but may be in one: half of `paused`, for who must not wait."""
        lib.vu_worker_hold(self.handle)

    @property
    def is_quiet(self) -> bool:
        """It is in no turn. Where that is false and the worker is held, its ``events_fd`` is written when the
        turn has ended."""
        return bool(lib.vu_worker_is_quiet(self.handle))

    def resume(self) -> None:
        lib.vu_worker_resume(self.handle)

    def events(self) -> Iterator[WorkerEvent]:
        """What was reported since last time, in order."""
        while count := lib.vu_worker_events(self.handle, self._events, _EVENTS):
            for i in range(count):
                event = self._events[i]
                values = (event.value[0], event.value[1], event.value[2], event.value[3])
                yield WorkerEvent(EventKind(event.kind), event.device, event.ring, event.error, values)

    @property
    def load_ns(self) -> int:
        """Nanoseconds in which its thread had work, or waited for a CPU to do it; 0 without a thread, and
        where the kernel does not say (CONFIG_SCHED_INFO).

        Of one that polls what it counts itself, of one that sleeps what the kernel does.
        """
        if self._poll is not Poll.EVENT:
            return self.counters().busy_ns
        try:
            stat = Path(f"/proc/self/task/{lib.vu_worker_thread_id(self.handle)}/schedstat").read_text()
        except OSError:
            return 0
        ran, waited, _ = stat.split()
        return int(ran) + int(waited)

    def counters(self) -> WorkerCounters:
        found = ffi.new("struct vu_worker_counters *")
        lib.vu_worker_read_counters(self.handle, found)
        return WorkerCounters(found.turns, found.sleeps, found.busy_ns, found.idle_ns)

    def close(self) -> None:
        """Every device of it must have been closed. Ends its thread."""
        if self.handle != ffi.NULL:
            lib.vu_worker_stop(self.handle)
            lib.vu_worker_free(self.handle)
            self.handle = ffi.NULL


@contextmanager
def paused(workers: Iterable[Worker]) -> Iterator[None]:
    """Inside, they hold nothing of any device and start no turn: the time to change things. Nests.

    The one primitive of every change: rings, fds, memory, ports. It waits for the turns that threads are in,
    so for the longest of those: about 500 us at most, but as long as a page fault takes where somebody in
    user space handles it. Where several changes belong together, pause once around them.
    """
    handles = [worker.handle for worker in workers]
    for handle in handles:
        lib.vu_worker_hold(handle)
    try:
        for handle in handles:
            lib.vu_worker_quiesce(handle)
        yield
    finally:
        for handle in handles:
            lib.vu_worker_resume(handle)
