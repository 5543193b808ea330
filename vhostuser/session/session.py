"""One front-end's conversation with one device: what is legal now, and what is answered.

The requests themselves are served in groups, a file each; bytes and sockets are `vhostuser.wire`'s and the
server's. One request is handled at a time; `Session.handle` is never called while a Pending is open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vhostuser.errors import RequestError
from vhostuser.session import checks
from vhostuser.session.conversation import Conversation, Deferred
from vhostuser.session.device import Device, Pending, Result
from vhostuser.session.feature_requests import FeatureRequests
from vhostuser.session.inflight_requests import InflightRequests
from vhostuser.session.memory_requests import MemoryRequests
from vhostuser.session.network_requests import NetworkRequests
from vhostuser.session.postcopy_requests import PostcopyRequests
from vhostuser.session.replies import Answer, Asked, ask, decide
from vhostuser.session.ring_requests import RingRequests
from vhostuser.session.state_requests import StateRequests
from vhostuser.session.states import INITIAL, RingState
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature, VirtioFeature, feature_names
from vhostuser.wire.messages import Malformed, Message, Reply, VringAddr, VringFd, VringState
from vhostuser.wire.requests import FRONTEND_REQUESTS, Gate, RequestRow, RingRule

REQUEST_GROUPS: Final = (
    FeatureRequests,
    MemoryRequests,
    InflightRequests,
    RingRequests,
    NetworkRequests,
    StateRequests,
    PostcopyRequests,
)
"""Who serves which request: the handler that its row names is a method of exactly one of these."""

Trace = Callable[[Message, RequestError | None, Reply | None], None]
"""Told of each request once its fate is decided: why it was refused, if it was, and what is answered."""


class Session:
    """The back-end side of one connection.

    The owner hands it every message and sends what comes back; fds that are left in the bag of the message
    afterwards are the owner's to close, whatever happened, and so are the fds of a reply once it was sent::

        outcome = session.handle(message)     # Reply, None, or Pending: then stop reading until
        reply = session.complete(pending, result)
        session.close()                       # at the end of the connection

    ``handle`` and ``complete`` raise RequestError when a request with a reply of its own is refused: the
    connection has to end, as no answer would be understood.
    """

    def __init__(self, device: Device, trace: Trace | None = None) -> None:
        self._said = Conversation(device)
        self._trace = trace
        self._requests = [group(self._said) for group in REQUEST_GROUPS]
        self._waiting: tuple[Asked, Deferred] | None = None

    @property
    def acked_features(self) -> VirtioFeature:
        return self._said.features

    @property
    def acked_protocol_features(self) -> ProtocolFeature:
        return self._said.protocol_features

    def ring_state(self, index: int) -> RingState:
        ring = self._said.rings.get(index)
        return ring.state if ring is not None else INITIAL

    def ring_states(self) -> dict[int, RingState]:
        """Of every ring that was ever named on this connection."""
        return {index: ring.state for index, ring in self._said.rings.items()}

    def handle(self, message: Message) -> Reply | Pending | None:
        """Serve one request. What is returned is sent before the next message is read."""
        assert self._waiting is None, "a request is handled while another one waits for its result"
        row = FRONTEND_REQUESTS.get(message.request)
        asked = ask(message, row, self._said.protocol_features, in_postcopy=self._said.in_postcopy)
        outcome: Answer | RequestError | Deferred | None
        try:
            outcome = self._serve(message, row)
        except RequestError as error:
            outcome = error
        if isinstance(outcome, Deferred):
            self._waiting = asked, outcome
            return outcome.pending
        return self._finish(asked, outcome)

    def complete(self, pending: Pending, result: Result = None) -> Reply | None:
        """Finish what `handle` left open: with the device's result, or with its refusal.

        A Pending that this session no longer waits for, because it was closed meanwhile, is forgotten.
        """
        if self._waiting is None or self._waiting[1].pending is not pending:
            return None
        asked, deferred = self._waiting
        self._waiting = None
        outcome = result if isinstance(result, RequestError) else deferred.finish(result)
        return self._finish(asked, outcome)

    def close(self) -> None:
        """The connection is gone: every ring is stopped and disabled, the device reset."""
        self._waiting = None
        self._said.forget()

    def _finish(self, asked: Asked, outcome: Answer | RequestError | None) -> Reply | None:
        error = outcome if isinstance(outcome, RequestError) else None
        if error is not None:
            error.within(_where(asked.message))
        reply = None
        try:
            reply = decide(asked, outcome)
        finally:
            if self._trace is not None:
                self._trace(asked.message, error, reply)
        return reply

    # What is legal

    def _serve(self, message: Message, row: RequestRow | None) -> Answer | Deferred | None:
        payload = message.payload
        if isinstance(payload, Malformed):
            raise RequestError(payload.reason)
        assert row is not None, "a message of an unknown request is Malformed"
        self._check_gate(row.gate)
        if self._said.table_is_unconfirmed and row.request is not Request.SET_MEM_TABLE:
            raise RequestError("comes where the acknowledgement of SET_MEM_TABLE is due")
        if row.handler is None:
            raise RequestError("is not served by this version")
        if isinstance(payload, VringState | VringAddr | VringFd):
            self._check_ring(row, payload)
        group = next(group for group in self._requests if hasattr(group, row.handler))
        outcome: Answer | Deferred | None = getattr(group, row.handler)(payload, message.fds)
        if row.ring in (RingRule.STOPPED, RingRule.UNMOVED) and isinstance(payload, VringState | VringAddr):
            self._said.ring(payload.index).items[Request(row.request)] = payload
        return outcome

    def _check_gate(self, gate: Gate) -> None:
        lacking = [
            *feature_names(gate.protocol & ~self._said.protocol_features),
            *feature_names(gate.offered & ~self._said.offer()),
            *feature_names(gate.acked & ~self._said.features),
        ]
        if lacking:
            raise RequestError(f"needs {', '.join(lacking)}, which was not negotiated")

    def _check_ring(self, row: RequestRow, payload: VringState | VringAddr | VringFd) -> None:
        checks.check_vring_index(payload.index, self._said.device.vring_count())
        ring = self._said.ring(payload.index)
        known = ring.items.get(Request(row.request))
        if not ring.state.is_started or (known is None and row.ring is not RingRule.BEFORE_START):
            return
        if row.ring in (RingRule.STOPPED, RingRule.BEFORE_START):
            raise RequestError("comes while the ring is started; stop it with GET_VRING_BASE first")
        assert isinstance(known, VringAddr)
        assert isinstance(payload, VringAddr)
        checks.check_vring_unmoved(known, payload)


def _where(message: Message) -> str:
    match message.payload:
        case VringState(index=index) | VringAddr(index=index) | VringFd(index=index):
            return f"{message.name} ring {index}"
        case _:
            return message.name
