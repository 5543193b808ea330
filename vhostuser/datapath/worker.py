"""The worker's Python face: turning it, pausing it, reading what it reports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from os import strerror

from vhostuser import abi
from vhostuser.datapath._datapath import ffi, lib
from vhostuser.errors import EnvironmentLacksError

abi.check_built("vhostuser.datapath._datapath", lib)

_EVENTS = 64


class EventKind(IntEnum):
    """`enum vu_event_kind`; csrc/worker.h says what the values are."""

    RING_STARTED = 1
    RING_BROKEN = 2
    DEVICE_FAULTED = 3
    PORT_GONE = 4
    OVERFLOW = 5


@dataclass(frozen=True, slots=True)
class WorkerEvent:
    kind: EventKind
    device: int
    """The id that the device was made with."""
    ring: int
    error: int
    values: tuple[int, int, int, int]


class Worker:
    """Runs ring pairs whenever it is turned. Must outlive every device that was given it.

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

    @property
    def epoll_fd(self) -> int:
        """Readable when a turn has something to do; the worker's own."""
        return lib.vu_worker_epoll_fd(self.handle)

    def turn(self, timeout_ms: int = 0) -> tuple[bool, bool]:
        """One bounded run of at most about 500 us: (work is left, events wait)."""
        result = lib.vu_worker_turn(self.handle, timeout_ms)
        return bool(result & lib.VU_TURN_MORE), bool(result & lib.VU_TURN_EVENTS)

    def events(self) -> Iterator[WorkerEvent]:
        """What was reported since last time, in order."""
        while count := lib.vu_worker_events(self.handle, self._events, _EVENTS):
            for i in range(count):
                event = self._events[i]
                values = (event.value[0], event.value[1], event.value[2], event.value[3])
                yield WorkerEvent(EventKind(event.kind), event.device, event.ring, event.error, values)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, the worker holds nothing of any device and starts no turn: the time to change things.

        Nests. The one primitive of every change: rings, fds, memory, ports.
        """
        lib.vu_worker_pause(self.handle)
        try:
            yield
        finally:
            lib.vu_worker_resume(self.handle)

    def close(self) -> None:
        """Every device of it must have been closed."""
        if self.handle != ffi.NULL:
            lib.vu_worker_free(self.handle)
            self.handle = ffi.NULL
