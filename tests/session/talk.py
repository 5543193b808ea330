"""A front-end without a socket, for tests of a session over the fake device."""

from __future__ import annotations

from collections.abc import Iterable

from tests.session.fake_device import FakeDevice
from vhostuser.errors import RequestError
from vhostuser.session.device import Pending
from vhostuser.session.session import Session
from vhostuser.session.states import INITIAL, RingState
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.messages import (
    U64,
    Empty,
    FdBag,
    MemoryRegion,
    Message,
    Payload,
    Reply,
    VringAddr,
)

REGION = MemoryRegion(0, 0x10000, 0x7F0000000000, 0)
BIT_30 = int(V.PROTOCOL_FEATURES)


class Talk:
    """A front-end without a socket: asks one thing at a time and remembers what the trace said."""

    def __init__(self, device: FakeDevice | None = None) -> None:
        self.device = device or FakeDevice()
        self.traced: list[str] = []
        self.session = Session(self.device, self._note)

    def _note(self, message: Message, error: RequestError | None, reply: Reply | None) -> None:
        self.traced.append(f"{message.name}" if error is None else f"{error}")

    def send(
        self, request: int, payload: Payload | None = None, fds: Iterable[int] = (), need_reply: bool = False
    ) -> Reply | Pending | None:
        self.bag = FdBag(fds)
        return self.session.handle(Message(request, payload or Empty(), need_reply, self.bag))

    def get(self, request: int, payload: Payload | None = None) -> Payload:
        """Ask for what is always answered."""
        reply = self.send(request, payload)
        assert isinstance(reply, Reply)
        assert reply.request == request
        return reply.payload

    def tell(self, request: int, payload: Payload | None = None, fds: Iterable[int] = ()) -> bool:
        """Send what is acknowledged; whether it was served."""
        reply = self.send(request, payload, fds, need_reply=True)
        assert isinstance(reply, Reply)
        assert reply.request == request
        assert isinstance(reply.payload, U64)
        return reply.payload.value == 0

    def refusal(self, request: int, payload: Payload | None = None, fds: Iterable[int] = ()) -> str:
        """Send what is nacked; why."""
        assert not self.tell(request, payload, fds)
        return self.traced[-1]

    def ring_is(self, index: int, state: RingState) -> bool:
        assert self.device.states.get(index, INITIAL) is self.session.ring_state(index)
        return self.session.ring_state(index) is state


def addr(index: int, **parts: int) -> VringAddr:
    whole = {"flags": 0, "desc": 0x1000, "used": 0x3000, "avail": 0x2000, "log": 0}
    return VringAddr(index, **(whole | parts))
