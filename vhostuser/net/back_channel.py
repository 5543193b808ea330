"""The way to ask the front-end for something, as the device sees it. The socket behind it is the server's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vhostuser.wire.constants import BackendRequest
from vhostuser.wire.features import ProtocolFeature
from vhostuser.wire.payloads import Payload


class BackChannel(Protocol):
    """Open until `close`, or until it is lost: then its owner is told, and nothing comes of a request."""

    def ask(self, request: BackendRequest, payload: Payload, then: Callable[[bool], None]) -> None:
        """Sends it, with the wish for an answer; never waits. ``then`` gets whether the answer was yes; it is
        not called when none comes, or none can be asked for."""

    def forward(self, fd: int, request: BackendRequest, payload: Payload) -> None:
        """Sends it whenever somebody has written to the eventfd, which stays the caller's; one at a time, the
        next when the last is answered, whatever was written meanwhile."""

    def withdraw(self, fd: int) -> None:
        """The end of `forward`, before the fd is closed; what was written before is sent."""

    def close(self) -> None:
        """Nothing is sent and no ``then`` is called any more."""


OpenChannel = Callable[[int, ProtocolFeature, Callable[[], None]], BackChannel]
"""Takes the fd of the socket, what was acknowledged, and who is told when the channel is lost.

Owns the fd from the call on, also when it raises RequestError.
"""
