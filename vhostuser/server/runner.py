"""Turns the one worker on the event loop: a kick makes its epoll fd readable, the loop calls C, C copies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vhostuser.datapath.worker import Worker, WorkerEvent


class LoopRunner:
    """Runs ``worker`` until `close`; hands what it reports to ``on_event``."""

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
