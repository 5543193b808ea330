"""Requests on the device's own state, which a front-end takes from one host to another."""

from __future__ import annotations

from vhostuser.session import checks
from vhostuser.session.conversation import Conversation, Deferred
from vhostuser.wire.messages import Empty, FdBag, TransferState


class StateRequests:
    """One method per request; the table of requests names them."""

    def __init__(self, said: Conversation) -> None:
        self._said = said

    def set_device_state_fd(self, payload: TransferState, fds: FdBag) -> None:
        """Accepted when the transfer begins; what comes of it is CHECK_DEVICE_STATE's question.

        A load may come before everything else: QEMU's comes before the rings are set up.
        """
        checks.check_transfer(payload.direction, payload.phase)
        checks.check_suspended([index for index, ring in self._said.rings.items() if ring.state.is_started])
        self._said.device.set_device_state_fd(payload.direction, fds.take())

    def check_device_state(self, payload: Empty, fds: FdBag) -> Deferred:
        return Deferred(self._said.device.check_device_state(), lambda result: None)
