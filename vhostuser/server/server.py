"""The server: any number of devices, their workers, one helper thread, one loop; and `run` for `serve`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Self

from vhostuser.config import DeviceConfig, ServeConfig
from vhostuser.datapath.reaper import reaper
from vhostuser.datapath.vring import PacketDevice, VringCounters
from vhostuser.datapath.worker import EventKind, Poll, Worker, WorkerCounters, WorkerEvent
from vhostuser.errors import PeerError
from vhostuser.net.events import describe
from vhostuser.server.balance import Balancer
from vhostuser.server.helper import HelperThread
from vhostuser.server.runner import LoopRunner, Runner, ThreadRunner
from vhostuser.server.served_device import ServedDevice
from vhostuser.server.trace_file import TraceFile
from vhostuser.stats.summary import summarise_worker

_log = logging.getLogger("vhostuser")

_REAPER_SECONDS = 0.5


class Server:
    """Serves ``devices`` from `start` to `close`, on the running loop; an async context manager does both.

    ``workers``: threads that run the rings, each on one of ``cpus`` if there are any; 0, and the loop does.
    Pairs move between them when one has more to do than it can.
    ``poll``: how they wait: "event" asleep, "adaptive" looking at rings for some microseconds first, "busy"
    looking for ever. ``postcopy`` offers postcopy migration in place of memory slots. ValueError for either
    without ``workers``.
    ``trace`` is given each line of the trace of the control sockets (`stats.trace`); it must not wait.

    `start` raises EnvironmentLacksError, and leaves nothing behind, when a port or a socket cannot be had.
    """

    def __init__(
        self,
        devices: Sequence[DeviceConfig],
        *,
        workers: int = 0,
        cpus: Sequence[int] = (),
        poll: Literal["event", "adaptive", "busy"] = "event",
        postcopy: bool = False,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        if postcopy and not workers:
            raise ValueError("postcopy needs worker threads")
        if poll != "event" and not workers:
            raise ValueError("the event loop sleeps: another way to poll needs worker threads")
        self._configs = list(devices)
        self._worker_threads = workers
        self._cpus = tuple(cpus)
        self._poll = Poll[poll.upper()]
        self._postcopy = postcopy
        self._trace = trace
        self._served: list[ServedDevice] = []
        self._workers: list[Worker] = []
        self._runner: Runner | None = None
        self._balancer: Balancer | None = None
        self._helper: HelperThread | None = None
        self._unfinished = 0
        self._finished = asyncio.Event()
        self._failure = ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Opens every port, then every socket: when this returns, front-ends can connect."""
        self._helper = HelperThread()
        self._unfinished = len(self._configs)
        lender = None
        try:
            self._workers.extend(Worker() for _ in range(max(self._worker_threads, 1)))
            if self._worker_threads:
                threads = self._runner = ThreadRunner(self._workers, self._on_event, self._cpus, self._poll)
                lender = threads if self._postcopy else None
                if self._worker_threads > 1:
                    self._balancer = Balancer(self._workers, self._packet_devices)
            else:
                self._runner = LoopRunner(self._workers[0], self._on_event)
            for number, config in enumerate(self._configs):
                device = ServedDevice(
                    config,
                    number,
                    self._workers,
                    self._helper,
                    self._on_device_finished,
                    lender,
                    self._trace,
                )
                self._served.append(device)
            # None says that it listens before all of them can.
            for device in self._served:
                device.bind()
            for device in self._served:
                device.open()
        except BaseException:
            await self.close()
            raise

    async def wait_finished(self) -> None:
        """Until no device can get a front-end any more: one-off devices and connected fds come to that.

        Raises PeerError when a front-end of such a device broke the protocol.
        """
        await self._finished.wait()
        if self._failure:
            raise PeerError(f"the front-end failed: {self._failure}")

    async def close(self) -> None:
        """Disconnects every front-end, gives ports and memory back. Closing twice does nothing."""
        if self._balancer is not None:
            self._balancer.close()
        for device in self._served:
            device.disconnect()
        for device in self._served:
            await device.wait_disconnected()
        if self._helper is not None:
            await self._helper.close()
            self._helper = None
        # A thread that is about to report something must not come late, when there is no device to tell.
        has_run = self._runner is not None
        if self._runner is not None:
            self._runner.close()
            self._runner = None
        for device in self._served:
            device.close()
        self._served.clear()
        if self._worker_threads and has_run:
            for number, done in enumerate(self.worker_counters()):
                _log.info("worker %d: %s", number, summarise_worker(done))
        # What front-ends sent may hang; their own trouble, and the process can end without it.
        await asyncio.to_thread(reaper.wait, _REAPER_SECONDS)
        for worker in self._workers:
            worker.close()
        self._workers.clear()

    def counters(self) -> dict[str, dict[int, VringCounters]]:
        """By device name and ring index."""
        return {device.config.name: device.counters() for device in self._served}

    def worker_counters(self) -> list[WorkerCounters]:
        """In the order of their numbers; without worker threads, the one that the loop turns."""
        return [worker.counters() for worker in self._workers]

    def _packet_devices(self) -> Iterator[tuple[str, PacketDevice]]:
        return ((device.config.name, device.packet) for device in self._served)

    def _on_event(self, event: WorkerEvent) -> None:
        if event.kind is EventKind.CROWDED:
            if self._balancer is not None:
                self._balancer.on_crowded()
        elif event.kind is EventKind.OVERFLOW:
            _log.log(*describe(event))
            for device in self._served:
                device.look_again()
        else:
            self._served[event.device].on_event(event)

    def _on_device_finished(self, reason: str) -> None:
        self._failure = self._failure or reason
        self._unfinished -= 1
        if self._unfinished == 0:
            self._finished.set()


async def _serve(config: ServeConfig, trace: Callable[[str], None] | None) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Server(
        config.device,
        workers=config.workers,
        cpus=config.cpus or (),
        poll=config.poll,
        postcopy=config.postcopy,
        trace=trace,
    ) as server:
        finished = asyncio.create_task(server.wait_finished())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({finished, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in (finished, stopped):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if not finished.cancelled():
            finished.result()


def run(config: ServeConfig) -> int:
    """Serves until SIGTERM or SIGINT, or until every device is finished. Returns the exit status.

    Raises EnvironmentLacksError, PeerError.
    """
    _raise_fd_limit()
    trace = TraceFile(config.trace) if config.trace is not None else None
    try:
        with asyncio.Runner(loop_factory=_loop_factory(config.loop)) as runner:
            runner.run(_serve(config, trace.write if trace is not None else None))
    finally:
        if trace is not None:
            trace.close()
    return 0


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name == "asyncio":
        return None
    import uvloop

    return uvloop.new_event_loop


def _raise_fd_limit() -> None:
    """Eight fds a queue pair and one a memory region: the usual soft limit of 1024 is 100 guests."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            _log.warning("the limit of open files stays at %d", soft)
