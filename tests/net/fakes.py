"""A port that remembers and helpers that run when told to: what a NetDevice is tested with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vhostuser.datapath.port_ops import PortCaps
from vhostuser.net.state_transfer import Outcome
from vhostuser.ports.base import ALL_OFFLOADS, MAX_FRAME
from vhostuser.wire.constants import BackendRequest
from vhostuser.wire.features import ProtocolFeature, VirtioFeature
from vhostuser.wire.payloads import Payload


@dataclass
class FakePort:
    """Records each call in ``calls``; ``failing`` makes start raise."""

    queues: int = 1
    calls: list[tuple[object, ...]] = field(default_factory=list)
    failing: Exception | None = None

    @property
    def caps(self) -> PortCaps:
        return PortCaps(ALL_OFFLOADS, self.queues, MAX_FRAME)

    def start(self, features: VirtioFeature) -> None:
        self.calls.append(("start", features))
        if self.failing is not None:
            raise self.failing

    def stop(self) -> None:
        self.calls.append(("stop",))

    def attach(self, queues: frozenset[int]) -> None:
        self.calls.append(("attach", queues))

    def set_mtu(self, mtu: int) -> None:
        self.calls.append(("set_mtu", mtu))

    def inject(self, frame: bytes) -> None:
        self.calls.append(("inject", frame))

    def take_calls(self) -> list[tuple[object, ...]]:
        taken, self.calls = self.calls, []
        return taken


@dataclass
class FakeChannel:
    """Remembers what is asked; the test answers."""

    fd: int
    acked: ProtocolFeature
    on_lost: Callable[[], None]
    asked: list[tuple[BackendRequest, Payload, Callable[[bool], None]]] = field(default_factory=list)
    forwards: dict[int, tuple[BackendRequest, Payload]] = field(default_factory=dict)
    is_closed: bool = False

    def ask(self, request: BackendRequest, payload: Payload, then: Callable[[bool], None]) -> None:
        self.asked.append((request, payload, then))

    def forward(self, fd: int, request: BackendRequest, payload: Payload) -> None:
        assert fd not in self.forwards
        self.forwards[fd] = request, payload

    def withdraw(self, fd: int) -> None:
        del self.forwards[fd]

    def close(self) -> None:
        self.is_closed = True


@dataclass
class StepHelper:
    """A helper thread without a thread: work waits until `run` does it, one or all."""

    jobs: list[tuple[Callable[[], None], Callable[[], None]]] = field(default_factory=list)

    def submit(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        self.jobs.append((work, then))

    def run(self, most: int = 1000) -> None:
        for _ in range(most):
            if not self.jobs:
                return
            work, then = self.jobs.pop(0)
            work()
            then()


@dataclass
class StepChannel:
    """A state channel that moves nothing: a test sees what is sent and finishes with what is received."""

    sent: list[bytes] = field(default_factory=list)
    waiting: list[Callable[[Outcome], None]] = field(default_factory=list)
    given_up: int = 0
    fds: list[int] = field(default_factory=list)

    def send(self, fd: int, content: bytes, then: Callable[[Outcome], None]) -> Callable[[], None]:
        self.sent.append(content)
        return self._begin(fd, then)

    def receive(self, fd: int, most: int, then: Callable[[Outcome], None]) -> Callable[[], None]:
        return self._begin(fd, then)

    def _begin(self, fd: int, then: Callable[[Outcome], None]) -> Callable[[], None]:
        self.fds.append(fd)
        self.waiting.append(then)

        def give_up() -> None:
            self.waiting.remove(then)
            self.given_up += 1

        return give_up

    def finish(self, outcome: Outcome = b"") -> None:
        self.waiting.pop(0)(outcome)
