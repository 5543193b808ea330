"""In-band notifications: kicks, calls and errors as messages, of rings whose front-end gave no fd for them.

An eventfd of ours stands where the front-end's would, so C knows nothing of it: VRING_KICK writes to one, and
what C writes to the others goes out on the channel (vhost-user specification, "In-band notifications").
"""

from __future__ import annotations

import os

from vhostuser.errors import RequestError
from vhostuser.net.back_channel import BackChannel
from vhostuser.net.notify_fd import NotifyFd
from vhostuser.wire.constants import BackendRequest
from vhostuser.wire.payloads import VringState


class InBand:
    """What goes out, for all rings of a device."""

    def __init__(self) -> None:
        self.is_on = False
        """The front-end acknowledged them."""
        self._channel: BackChannel | None = None
        self._outlets: dict[tuple[int, BackendRequest], NotifyFd] = {}

    def use(self, channel: BackChannel | None) -> None:
        """The channel is this one now. Without one what is written waits for the next."""
        self._channel = channel
        if channel is not None:
            for (index, request), outlet in self._outlets.items():
                channel.forward(outlet.fd, request, VringState(index, 0))

    def outlet(self, index: int, request: BackendRequest) -> NotifyFd:
        """Writing to it has ``request`` of that ring sent. The caller's; `withdraw` it before closing it."""
        outlet = self._outlets[index, request] = own_eventfd()
        if self._channel is not None:
            self._channel.forward(outlet.fd, request, VringState(index, 0))
        return outlet

    def withdraw(self, index: int, request: BackendRequest) -> None:
        """What was written so far is still sent."""
        outlet = self._outlets.pop((index, request), None)
        if outlet is not None and self._channel is not None:
            self._channel.withdraw(outlet.fd)

    def withdraw_all(self) -> None:
        for index, request in list(self._outlets):
            self.withdraw(index, request)


def own_eventfd() -> NotifyFd:
    """Raises RequestError when the process has no fd left."""
    try:
        return NotifyFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    except OSError as error:
        raise RequestError(f"no eventfd for in-band notifications: {error.strerror}") from None
