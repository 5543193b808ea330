"""Where front-ends are played: a server on a loop of its own thread, so that a test is a plain script.

It has two devices. The second is the neighbour: whatever is done to the first, the neighbour's frames keep
coming back, and in the end the first serves again and nothing of what was done to it is left.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, Unpack

import uvloop

from tests.conftest import live_regions, open_fds
from tests.plain_frontend import SERVED_PROTOCOL
from vhostuser.config import DeviceConfig
from vhostuser.frontend import calls
from vhostuser.frontend.calls import Call
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.link import LinkOptions
from vhostuser.frontend.timeouts import Deadline
from vhostuser.server.server import Server

T = TypeVar("T")
Poll = Literal["event", "adaptive", "busy"]
RUNNERS: dict[str, tuple[int, Poll]] = {
    "loop": (0, "event"),
    "event": (2, "event"),
    "adaptive": (2, "adaptive"),
    "busy": (2, "busy"),
}
"""What runs the rings: worker threads, none being the event loop, and how they wait."""

FRAME = b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x88\xb5" + bytes(range(46))
RING_SIZE = 16
"""Small rings are quick to fill, and wrap around soon."""


def frame(number: int) -> bytes:
    """A frame that can be told from others."""
    return FRAME[:14] + number.to_bytes(4, "big") + FRAME[18:]


def wait(probe: Callable[[], bool]) -> None:
    """Until ``probe`` holds. What is waited for is the kernel's or the server's, and sets no event."""
    deadline = Deadline(20)
    while not probe():
        assert deadline.left, "what was waited for did not come"
        time.sleep(0.001)


def echo(driver: VirtioNetDriver, content: bytes = FRAME) -> None:
    """One frame there and back."""
    driver.send(content)
    assert driver.recv().frame == content


@contextmanager
def traffic(driver: VirtioNetDriver) -> Iterator[None]:
    """All the while frames go there and back, and not one is lost."""
    stop, failures = threading.Event(), list[BaseException]()
    rounds = 0

    def go_on() -> None:
        nonlocal rounds
        try:
            while not stop.is_set():
                echo(driver, frame(rounds))
                rounds += 1
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        wait(lambda: rounds > 2 or bool(failures))
        yield
        so_far = rounds
        wait(lambda: rounds > so_far + 2 or bool(failures))
    finally:
        stop.set()
        thread.join()
    assert failures == []


class Stepper(VirtioNetDriver):
    """A driver whose messages a test sends one by one, each acknowledged."""

    @classmethod
    def at(cls, path: Path, pairs: int = 1, **options: Unpack[LinkOptions]) -> Stepper:
        """Negotiated, its queues made and filled; nothing was said about memory or rings."""
        options.setdefault("queue_size", RING_SIZE)
        options["queue_pairs"] = pairs
        driver = cls(Frontend.connect(path), **options)
        try:
            driver.negotiate()
            offered = driver.frontend.get_protocol_features()
            driver.frontend.set_protocol_features(SERVED_PROTOCOL & offered)
            driver._prepare()
        except BaseException:
            driver.close()
            raise
        driver.running = True
        return driver

    def __enter__(self) -> Stepper:
        return self

    def do(self, call: Call[T]) -> T:
        return self.frontend.run(call, need_reply=True)

    def say(self, item: str, *indices: int) -> None:
        """One item, for these rings or for all."""
        if item == "features":
            self.do(calls.set_features(self.features))
        elif item == "memory":
            self.do(calls.set_mem_table(calls.memory_table(self.memory), self.memory.fds()))
        else:
            for ring in self.nic.rings:
                if not indices or ring.index in indices:
                    self._say_of_ring(item, ring.index)

    def _say_of_ring(self, item: str, index: int) -> None:
        ring = self.nic.rings[index]
        place = ring.place
        assert place is not None
        make: dict[str, Callable[[], Call[None]]] = {
            "num": lambda: calls.set_vring_num(index, ring.size),
            "base": lambda: calls.set_vring_base(index, ring.base),
            "addr": lambda: calls.set_vring_addr(index, place.desc, place.used, place.avail),
            "kick": lambda: calls.set_vring_kick(index, ring.kick_fd),
            "call": lambda: calls.set_vring_call(index, ring.call_fd),
            "err": lambda: calls.set_vring_err(index, ring.err_fd),
            "enable": lambda: calls.set_vring_enable(index, True),
            "disable": lambda: calls.set_vring_enable(index, False),
        }
        self.do(make[item]())

    def say_all(self, *without: str) -> None:
        """Everything in a usual order, but for these items."""
        for item in ("features", "memory", "num", "base", "addr", "call", "kick", "enable"):
            if item not in without:
                self.say(item)


@dataclass
class Site(ABC):
    path: Path
    """The device under test."""
    neighbour: VirtioNetDriver
    fds: frozenset[int]
    """The server's, open while only the neighbour is connected."""

    def assert_neighbour_unharmed(self) -> None:
        """Also a barrier: C has turned since."""
        echo(self.neighbour)

    def assert_serves(self) -> None:
        """A new front-end finds the device as if nothing had been."""
        with self.driver() as driver:
            echo(driver)

    @abstractmethod
    def assert_nothing_left(self) -> None:
        """No mapping and no fd beyond the neighbour's; unmapping and closing may take the server a moment."""

    def driver(self, pairs: int = 1) -> VirtioNetDriver:
        return VirtioNetDriver.connect(self.path, queue_size=RING_SIZE, queue_pairs=pairs)

    @contextmanager
    def running(self) -> Iterator[VirtioNetDriver]:
        """A driver whose rings run; after the block they still do."""
        with self.driver() as driver:
            yield driver
            echo(driver)

    @contextmanager
    def stepping(self, pairs: int = 1, **options: Unpack[LinkOptions]) -> Iterator[Stepper]:
        with Stepper.at(self.path, pairs, **options) as driver:
            yield driver


@dataclass
class InProcessSite(Site):
    """Its server can be looked into."""

    server: Server
    loop: asyncio.AbstractEventLoop

    def assert_nothing_left(self) -> None:
        mine = len(self.neighbour.memory.regions)
        wait(lambda: live_regions() == mine)
        wait(lambda: open_fds().keys() <= self.fds)


@contextmanager
def serving(
    configs: list[DeviceConfig],
    workers: int = 0,
    poll: Poll = "event",
    postcopy: bool = False,
    cpus: Sequence[int] = (),
) -> Iterator[tuple[Server, asyncio.AbstractEventLoop]]:
    """A server on a thread; when the block begins, front-ends can connect."""
    started, stop = threading.Event(), asyncio.Event()
    made: list[tuple[Server, asyncio.AbstractEventLoop]] = []
    errors: list[BaseException] = []

    async def serve() -> None:
        async with Server(configs, workers=workers, cpus=cpus, poll=poll, postcopy=postcopy) as server:
            made.append((server, asyncio.get_running_loop()))
            started.set()
            await stop.wait()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve())
        except BaseException as error:
            errors.append(error)
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    try:
        if errors:
            raise errors[0]
        yield made[0]
    finally:
        if made:
            made[0][1].call_soon_threadsafe(stop.set)
        thread.join()
    if errors:
        raise errors[0]
    wait(lambda: live_regions() == 0)


@contextmanager
def make_site(
    port: str = "echo", workers: int = 0, poll: Poll = "event", postcopy: bool = False, **words: object
) -> Iterator[InProcessSite]:
    """``words`` are further words of the first device's configuration."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vhu-")))
        first, second = folder / "a.sock", folder / "b.sock"
        configs = [
            DeviceConfig(name="a", socket_path=str(first), port=port, **words),  # type: ignore[arg-type]
            DeviceConfig(name="b", socket_path=str(second), port="echo"),
        ]
        server, loop = stack.enter_context(serving(configs, workers, poll, postcopy))
        neighbour = stack.enter_context(VirtioNetDriver.connect(second, queue_size=RING_SIZE))
        echo(neighbour)
        site = InProcessSite(first, neighbour, frozenset(open_fds()), server, loop)
        yield site
        site.assert_neighbour_unharmed()
        if port == "echo":
            site.assert_serves()
        site.assert_nothing_left()
