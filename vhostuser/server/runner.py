"""What runs the workers while a server lives: the event loop itself, or a thread each.

Either hands what the workers report to ``on_event``, on the loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Protocol

from vhostuser.datapath.worker import Poll, Worker, WorkerEvent


class Runner(Protocol):
    def close(self) -> None:
        """Runs them no longer; what they report afterwards is lost."""


class LoopRunner:
    """Turns one worker on the running loop: a kick makes its epoll fd readable, the loop calls C."""

    def __init__(self, worker: Worker, on_event: Callable[[WorkerEvent], None]) -> None:
        self._worker = worker
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.Handle | None = None
        self._loop.add_reader(worker.epoll_fd, self._turn)

    def close(self) -> None:
        self._loop.remove_reader(self._worker.epoll_fd)
        if self._next is not None:
            self._next.cancel()

    def _turn(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        more, events = self._worker.turn()
        if more:
            # Through the loop, so that control sockets come first.
            self._next = self._loop.call_soon(self._turn)
        if events:
            for event in self._worker.events():
                self._on_event(event)


class ThreadRunner:
    """Gives each worker a thread, the first one the first of ``cpus`` and so on; without any, the kernel
    decides. They wait as ``poll`` says; those that are lent sleep. One eventfd tells the loop that some
    worker has something to report. Implements `net.postcopy.WorkerLender`.

    Raises EnvironmentLacksError, and runs nothing, when a thread or a CPU cannot be had.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        on_event: Callable[[WorkerEvent], None],
        cpus: Sequence[int] = (),
        poll: Poll = Poll.EVENT,
    ) -> None:
        self._workers = workers
        self._lent: dict[Worker, Callable[[], None]] = {}
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._events_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop.add_reader(self._events_fd, self._hand_out)
        try:
            for number, worker in enumerate(workers):
                cpu = cpus[number % len(cpus)] if cpus else None
                worker.start(f"vu-worker-{number}", self._events_fd, cpu, poll)
        except BaseException:
            self.close()
            raise

    def lend(self, on_quiet: Callable[[], None]) -> Worker:
        worker = Worker()
        try:
            worker.start("vu-postcopy", self._events_fd)
        except BaseException:
            worker.close()
            raise
        self._lent[worker] = on_quiet
        return worker

    def take_back(self, worker: Worker) -> None:
        del self._lent[worker]
        worker.stop()
        for event in worker.events():
            self._on_event(event)
        worker.close()

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()
        # Both loops go deaf, and uvloop aborts, when an fd is closed before it is removed.
        self._loop.remove_reader(self._events_fd)
        os.close(self._events_fd)

    def _hand_out(self) -> None:
        # Read before the queues are: what comes after it makes the fd readable again.
        os.eventfd_read(self._events_fd)
        for worker in (*self._workers, *self._lent):
            for event in worker.events():
                self._on_event(event)
        for on_quiet in list(self._lent.values()):
            on_quiet()
