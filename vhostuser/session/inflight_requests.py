"""Requests on the inflight region, the memory that tells our successor where the rings are."""

from __future__ import annotations

from vhostuser.errors import RequestError
from vhostuser.session.conversation import Conversation
from vhostuser.session.replies import WithFds
from vhostuser.wire.messages import FdBag, Inflight


class InflightRequests:
    """One method per request; the table of requests names them."""

    def __init__(self, said: Conversation) -> None:
        self._said = said

    def get_inflight_fd(self, payload: Inflight, fds: FdBag) -> WithFds:
        """A new region each time: a front-end asks again when its guest has been reset."""
        self._check_stopped()
        layout, fd = self._said.device.get_inflight_fd(payload)
        return WithFds(layout, (fd,))

    def set_inflight_fd(self, payload: Inflight, fds: FdBag) -> None:
        self._check_stopped()
        self._said.device.set_inflight_fd(payload, fds.take())

    def _check_stopped(self) -> None:
        """What a ring took is written down from its start on, or it is not known at its end."""
        for index, ring in self._said.rings.items():
            if ring.state.is_started:
                raise RequestError(f"comes while ring {index} is started")
