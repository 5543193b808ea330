"""A driver of one pair that has no notification fds: it kicks by message, and is called by message."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.plain_frontend import SERVED_PROTOCOL
from tests.site import RING_SIZE, Site, Stepper
from vhostuser.frontend import calls
from vhostuser.frontend.frontend import Frontend
from vhostuser.wire.connection import Connection
from vhostuser.wire.constants import BackendRequest
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.messages import U64, Message, Reply, VringState
from vhostuser.wire.requests import BACKEND_REQUESTS


class InBandDriver(Stepper):
    """One pair without any fd, and the front-end's end of the channel."""

    @classmethod
    @contextmanager
    def at_site(cls, site: Site) -> Iterator[InBandDriver]:
        driver = cls(Frontend.connect(site.path), queue_size=RING_SIZE, order="virtio-user")
        with driver:
            driver.negotiate()
            driver.frontend.set_protocol_features(SERVED_PROTOCOL | P.INBAND_NOTIFICATIONS)
            driver._prepare()
            driver.running = True
            driver.open_outlet()
            driver.say_all("kick", "call")
            try:
                yield driver
            finally:
                driver.outlet.close()

    outlet: socket.socket
    messages: Connection
    is_silent = False

    def open_outlet(self) -> None:
        """A channel, the first or another one."""
        self.outlet, theirs = socket.socketpair()
        self.messages = Connection(BACKEND_REQUESTS)
        with theirs:
            self.do(calls.set_backend_req_fd(theirs.fileno()))

    def kick(self, index: int) -> None:
        if not self.is_silent:
            self.do(calls.vring_kick(index))

    def next_message(self, timeout: float = 20) -> Message | None:
        """The next of the channel, not answered; None when none comes."""
        while wanted := self.messages.bytes_wanted:
            if not select.select([self.outlet], [], [], timeout)[0]:
                return None
            chunk = self.outlet.recv(wanted)
            assert chunk
            self.messages.receive(chunk)
        return self.messages.next_message()

    def answer(self, message: Message, value: int = 0) -> None:
        assert message.need_reply
        self.outlet.sendall(self.messages.encode(Reply(message.request, U64(value))))

    def wait_message(self, request: BackendRequest, index: int) -> None:
        """Answers what comes until this one does."""
        while True:
            message = self.next_message()
            assert message is not None
            self.answer(message)
            if (message.request, message.payload) == (request, VringState(index, 0)):
                return
