"""Requests of postcopy: the guest already runs here while most of its memory is still on its way."""

from __future__ import annotations

from vhostuser.errors import RequestError
from vhostuser.session.conversation import Conversation
from vhostuser.session.replies import WithFds
from vhostuser.wire.messages import Empty, FdBag


class PostcopyRequests:
    """One method per request; the table of requests names them. SET_MEM_TABLE in between is in
    `memory_requests`."""

    def __init__(self, said: Conversation) -> None:
        self._said = said

    def postcopy_advise(self, payload: Empty, fds: FdBag) -> WithFds:
        """Answered without an fd when there is none: QEMU then fails the migration and says why."""
        if self._said.in_postcopy:
            raise RequestError("comes between POSTCOPY_LISTEN and POSTCOPY_END")
        fd = self._said.device.postcopy_advise()
        self._said.is_advised = fd is not None
        return WithFds(Empty(), () if fd is None else (fd,))

    def postcopy_listen(self, payload: Empty, fds: FdBag) -> None:
        if self._said.in_postcopy:
            raise RequestError("comes a second time before POSTCOPY_END")
        if not self._said.is_advised:
            raise RequestError("comes without a POSTCOPY_ADVISE that was answered with an fd")
        self._said.device.postcopy_listen()
        self._said.in_postcopy = True

    def postcopy_end(self, payload: Empty, fds: FdBag) -> None:
        """Also without POSTCOPY_LISTEN before it: then there is nothing to end but the advice."""
        self._said.device.postcopy_end()
        self._said.is_advised = self._said.in_postcopy = False
