"""The back-end under test, as a check has it: what it offers, and connections that are closed afterwards.

A check opens what it needs; `close` ends all of it, and `abort` does from another thread what makes a check
that hangs come back.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, Unpack

from vhostuser.errors import PeerError
from vhostuser.frontend.check.model import NO_PROTOCOL, NO_VIRTIO
from vhostuser.frontend.check.old_qemu import OldQemuDriver
from vhostuser.frontend.check.stepper import Stepper
from vhostuser.frontend.check.stream import Stream
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.flood import Flood
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.link import Link, LinkOptions
from vhostuser.frontend.timeouts import Deadline
from vhostuser.wire.features import ProtocolFeature, VirtioFeature

T = TypeVar("T", bound=Link)

RING_SIZE = 64
"""Small rings are quick to fill, and wrap around soon."""
MEMORY = 16 << 20
_ACCEPT_LOOK = 0.001

SAFE_PROTOCOL = (
    ProtocolFeature.MQ
    | ProtocolFeature.RARP
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.MTU
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.RESET_DEVICE
)
"""What checks on single messages acknowledge where it is offered: nothing that changes what others mean."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What was found out before the first check."""

    virtio: VirtioFeature = NO_VIRTIO
    protocol: ProtocolFeature = NO_PROTOCOL
    echoes: bool = False
    """Frames come back, so that they can be compared."""
    pid: int = 0
    """Who listens; 0 where the kernel does not say."""


def connect(path: Path | str, patience: float) -> socket.socket:
    """A connection with room in its backlog; PeerError when there is none in time."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    deadline = Deadline(patience)
    try:
        while True:
            try:
                sock.connect(os.fspath(path))
            except BlockingIOError:
                # The backlog is full. A connect with a timeout gives up on that at once.
                if not deadline.left:
                    raise
                time.sleep(_ACCEPT_LOOK)
            else:
                return sock
    except OSError as error:
        sock.close()
        raise PeerError(f"cannot connect to {path}: {error.strerror or error}") from error


class Peer:
    """Connections to one back-end. A context manager: whatever was opened is closed with it."""

    def __init__(self, path: Path | str, offer: Offer, patience: float) -> None:
        self.path = path
        self.offer = offer
        self.patience = patience
        """How long a single reply or frame may take."""
        self._stack = contextlib.ExitStack()
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()
        self._sockets.clear()

    def abort(self) -> None:
        """End every connection; whoever waits on one gets a PeerError. From any thread."""
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    @property
    def echoes(self) -> bool:
        return self.offer.echoes

    @property
    def acked_protocol(self) -> ProtocolFeature:
        """What `talk` negotiates."""
        return self.offer.protocol & SAFE_PROTOCOL

    # Connections

    def _connect(self) -> socket.socket:
        sock = connect(self.path, self.patience)
        self._sockets.append(sock)
        return sock

    def stream(self) -> Stream:
        """A connection on which nothing was said yet."""
        stream = Stream(self._connect(), self.patience)
        self._stack.callback(stream.close)
        return stream

    def talk(self) -> Stream:
        """A connection with protocol features, and with virtio features that every device needs."""
        stream = self.stream()
        stream.negotiate(self.acked_protocol, int(self.plain_features))
        return stream

    def over(self, driver: VirtioNetDriver) -> Stream:
        """A driver's own connection, for messages that a driver does not send."""
        stream = Stream(driver.frontend.socket, self.patience)
        stream.acks = ProtocolFeature.REPLY_ACK in driver.frontend.protocol_features
        return stream

    @property
    def plain_features(self) -> VirtioFeature:
        return self.offer.virtio & (VirtioFeature.VERSION_1 | VirtioFeature.PROTOCOL_FEATURES)

    def frontend(self) -> Frontend:
        """Without a driver; the caller's, or `close` ends it."""
        frontend = Frontend(self._connect(), timeout=self.patience)
        self._stack.callback(frontend.close)
        return frontend

    @contextlib.contextmanager
    def driver(self, **options: Unpack[LinkOptions]) -> Iterator[VirtioNetDriver]:
        """A driver whose rings run; it is gone after the block."""
        with self._linked(VirtioNetDriver, options) as driver, driver:
            yield driver

    @contextlib.contextmanager
    def old_qemu(self, **options: Unpack[LinkOptions]) -> Iterator[VirtioNetDriver]:
        """The same as QEMU 7.2 brings it up."""
        with self._linked(OldQemuDriver, options) as driver, driver:
            yield driver

    @contextlib.contextmanager
    def flood(self, **options: Unpack[LinkOptions]) -> Iterator[Flood]:
        """A driver in C, for many frames."""
        with self._linked(Flood, options) as flood, flood:
            yield flood

    @contextlib.contextmanager
    def stepper(self, **options: Unpack[LinkOptions]) -> Iterator[Stepper]:
        """A driver that has negotiated, and whose further messages are sent one by one."""
        with self._linked(Stepper, options) as stepper:
            try:
                stepper.prepare()
                yield stepper
            finally:
                stepper.close()

    @contextlib.contextmanager
    def _linked(self, kind: type[T], options: LinkOptions) -> Iterator[T]:
        with contextlib.ExitStack() as stack:
            options.setdefault("queue_size", RING_SIZE)
            if "memory" not in options:
                options["memory"] = stack.enter_context(GuestMemory(MEMORY))
            frontend = stack.enter_context(self.frontend())
            yield kind(frontend, **options)
