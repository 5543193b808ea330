"""One front-end's conversation with one device: what is legal now, what the device is told, what is answered.

Bytes and sockets are `vhostuser.wire`'s and the server's. One request is handled at a time; `Session.handle`
is never called while a Pending is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from vhostuser.errors import RequestError
from vhostuser.session import checks
from vhostuser.session.device import Device, Pending
from vhostuser.session.replies import Asked, RefusedWith, ask, decide
from vhostuser.session.states import INITIAL, TRANSITIONS, RingEvent, RingState
from vhostuser.wire import constants as c
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature, VirtioFeature, feature_names
from vhostuser.wire.messages import (
    U64,
    Config,
    Empty,
    FdBag,
    Log,
    Malformed,
    MemTable,
    Message,
    Payload,
    Rarp,
    Reply,
    VringAddr,
    VringFd,
    VringState,
)
from vhostuser.wire.requests import FRONTEND_REQUESTS, Gate, RequestRow, RingRule

Trace = Callable[[Message, RequestError | None], None]
"""Told of each request once its fate is decided: None if it was served, else why it was refused."""


@dataclass(slots=True)
class _Ring:
    """What this front-end has said about one ring."""

    state: RingState = INITIAL
    items: dict[Request, VringState | VringAddr] = field(default_factory=dict)
    """The last size, addresses and base, by the request that brought them."""


@dataclass(frozen=True, slots=True)
class _Deferred:
    """What a handler returns when its device said Pending, with the way from result to answer."""

    pending: Pending
    finish: Callable[[int | None], Payload | None]


class Session:
    """The back-end side of one connection.

    The owner hands it every message and sends what comes back; fds that are left in the bag of the message
    afterwards are the owner's to close, whatever happened::

        outcome = session.handle(message)     # Reply, None, or Pending: then stop reading until
        reply = session.complete(pending, result)
        session.close()                       # at the end of the connection

    ``handle`` and ``complete`` raise RequestError when a request with a reply of its own is refused: the
    connection has to end, as no answer would be understood.
    """

    def __init__(self, device: Device, trace: Trace | None = None) -> None:
        self._device = device
        self._trace = trace
        self._acked_features = VirtioFeature(0)
        self._has_features = False
        self._acked_protocol_features = ProtocolFeature(0)
        self._status = 0
        self._rings: dict[int, _Ring] = {}
        self._waiting: tuple[Asked, _Deferred] | None = None

    @property
    def acked_features(self) -> VirtioFeature:
        return self._acked_features

    @property
    def acked_protocol_features(self) -> ProtocolFeature:
        return self._acked_protocol_features

    def ring_state(self, index: int) -> RingState:
        ring = self._rings.get(index)
        return ring.state if ring is not None else INITIAL

    def handle(self, message: Message) -> Reply | Pending | None:
        """Serve one request. What is returned is sent before the next message is read."""
        assert self._waiting is None, "a request is handled while another one waits for its result"
        row = FRONTEND_REQUESTS.get(message.request)
        asked = ask(message, row, self._acked_protocol_features)
        outcome: Payload | RequestError | _Deferred | None
        try:
            outcome = self._serve(message, row)
        except RequestError as error:
            outcome = error
        if isinstance(outcome, _Deferred):
            self._waiting = asked, outcome
            return outcome.pending
        return self._finish(asked, outcome)

    def complete(self, pending: Pending, result: int | RequestError | None = None) -> Reply | None:
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
        self._reset_rings()
        self._acked_features = VirtioFeature(0)
        self._has_features = False
        self._acked_protocol_features = ProtocolFeature(0)
        self._status = 0

    def _finish(self, asked: Asked, outcome: Payload | RequestError | None) -> Reply | None:
        error = outcome if isinstance(outcome, RequestError) else None
        if error is not None:
            error.within(_where(asked.message))
        if self._trace is not None:
            self._trace(asked.message, error)
        return decide(asked, outcome)

    # What is legal

    def _serve(self, message: Message, row: RequestRow | None) -> Payload | _Deferred | None:
        payload = message.payload
        if isinstance(payload, Malformed):
            raise RequestError(payload.reason)
        assert row is not None, "a message of an unknown request is Malformed"
        self._check_gate(row.gate)
        if row.handler is None:
            raise RequestError("is not served by this version")
        if isinstance(payload, VringState | VringAddr | VringFd):
            self._check_ring(row, payload)
        outcome: Payload | _Deferred | None = getattr(self, f"_{row.handler}")(payload, message.fds)
        if row.ring in (RingRule.STOPPED, RingRule.UNMOVED) and isinstance(payload, VringState | VringAddr):
            self._ring(payload.index).items[Request(row.request)] = payload
        return outcome

    def _check_gate(self, gate: Gate) -> None:
        lacking = [
            *feature_names(gate.protocol & ~self._acked_protocol_features),
            *feature_names(gate.offered & ~self._offer()),
            *feature_names(gate.acked & ~self._acked_features),
        ]
        if lacking:
            raise RequestError(f"needs {', '.join(lacking)}, which was not negotiated")

    def _check_ring(self, row: RequestRow, payload: VringState | VringAddr | VringFd) -> None:
        checks.check_vring_index(payload.index, self._device.vring_count())
        ring = self._ring(payload.index)
        known = ring.items.get(Request(row.request))
        if not ring.state.is_started or known is None:
            return
        if row.ring is RingRule.STOPPED:
            raise RequestError("comes while the ring is started; stop it with GET_VRING_BASE first")
        assert isinstance(known, VringAddr)
        assert isinstance(payload, VringAddr)
        checks.check_vring_unmoved(known, payload)

    def _offer(self) -> VirtioFeature:
        return self._device.offered_features() | VirtioFeature.PROTOCOL_FEATURES

    def _is_packed(self) -> bool:
        return VirtioFeature.RING_PACKED in self._acked_features

    # The state of the rings

    def _ring(self, index: int) -> _Ring:
        return self._rings.setdefault(index, _Ring())

    def _step(self, indices: Iterable[int], event: RingEvent) -> None:
        changed = {}
        for index in indices:
            ring = self._ring(index)
            after = TRANSITIONS[ring.state, event]
            if after is not ring.state:
                changed[index] = ring.state = after
        if changed:
            self._device.set_vring_states(changed)

    def _reset_rings(self) -> None:
        self._step(sorted(self._rings), RingEvent.RESET)
        self._rings.clear()
        self._device.reset_device()

    # One method per request; the table names them

    def _get_features(self, payload: Empty, fds: FdBag) -> U64:
        return U64(int(self._offer()))

    def _set_features(self, payload: U64, fds: FdBag) -> None:
        acked = VirtioFeature(payload.value)
        checks.check_features_offered(acked, self._offer())
        if self._has_features and any(ring.state.is_started for ring in self._rings.values()):
            checks.check_features_while_started(self._acked_features, acked)
        self._device.set_features(acked)
        self._acked_features = acked
        self._has_features = True
        if VirtioFeature.PROTOCOL_FEATURES not in acked:
            # No SET_VRING_ENABLE will come: every ring is enabled from now on.
            self._step(range(self._device.vring_count()), RingEvent.ENABLE)

    def _set_owner(self, payload: Empty, fds: FdBag) -> None:
        self._device.set_owner()

    def _reset_owner(self, payload: Empty, fds: FdBag) -> None:
        """Deprecated, and front-ends disagree on what it should do: acknowledged, and nothing is done."""

    def _set_mem_table(self, payload: MemTable, fds: FdBag) -> _Deferred | None:
        pending = self._device.set_mem_table(payload.regions, fds.take_all())
        return _Deferred(pending, lambda result: None) if pending is not None else None

    def _set_log_base(self, payload: Log | U64, fds: FdBag) -> Payload | _Deferred:
        """Answered with what came: the one form that every front-end takes, rust-vmm's no other."""
        if isinstance(payload, U64) or len(fds) != 1:
            raise RequestError("a log without fd and size cannot be mapped by another process")
        pending = self._device.set_log_base(payload.size, payload.offset, fds.take())
        return _Deferred(pending, lambda result: payload) if pending is not None else payload

    def _set_log_fd(self, payload: Empty | U64, fds: FdBag) -> None:
        """An eventfd that nobody waits for: no front-end of today sends it, and QEMU looks into the log
        itself. It stays in the bag and is closed."""

    def _set_vring_num(self, payload: VringState, fds: FdBag) -> None:
        checks.check_vring_num(payload.num, self._is_packed())
        self._device.set_vring_num(payload.index, payload.num)

    def _set_vring_addr(self, payload: VringAddr, fds: FdBag) -> None:
        checks.check_vring_addr(payload, self._is_packed())
        self._device.set_vring_addr(payload)

    def _set_vring_base(self, payload: VringState, fds: FdBag) -> None:
        checks.check_vring_base(payload.num, self._is_packed())
        self._device.set_vring_base(payload.index, payload.num)

    def _get_vring_base(self, payload: VringState, fds: FdBag) -> Payload | _Deferred:
        """The num of the request means nothing: DPDK virtio-user leaves there what was on its stack."""
        index = payload.index
        self._step([index], RingEvent.STOP)
        base = self._device.get_vring_base(index)
        if isinstance(base, Pending):
            return _Deferred(base, lambda result: VringState(index, _number(result)))
        return VringState(index, base)

    def _set_vring_kick(self, payload: VringFd, fds: FdBag) -> None:
        self._device.set_vring_kick(payload.index, _fd_of(payload, fds))
        self._step([payload.index], RingEvent.START)

    def _set_vring_call(self, payload: VringFd, fds: FdBag) -> None:
        self._device.set_vring_call(payload.index, _fd_of(payload, fds))

    def _set_vring_err(self, payload: VringFd, fds: FdBag) -> None:
        self._device.set_vring_err(payload.index, _fd_of(payload, fds))

    def _get_protocol_features(self, payload: Empty, fds: FdBag) -> U64:
        return U64(int(self._device.offered_protocol_features()))

    def _set_protocol_features(self, payload: U64, fds: FdBag) -> None:
        """Comes once per queue pair with QEMU, and without a GET after a reconnect: it resets nothing."""
        acked = ProtocolFeature(payload.value)
        checks.check_features_offered(acked, self._device.offered_protocol_features())
        self._device.set_protocol_features(acked)
        self._acked_protocol_features = acked

    def _get_queue_num(self, payload: Empty, fds: FdBag) -> U64:
        return U64(self._device.queue_count())

    def _set_vring_enable(self, payload: VringState, fds: FdBag) -> None:
        checks.check_vring_enable(payload.num)
        self._step([payload.index], RingEvent.ENABLE if payload.num else RingEvent.DISABLE)

    def _send_rarp(self, payload: Rarp, fds: FdBag) -> None:
        checks.check_mac(payload.mac)
        self._device.send_rarp(payload.mac)

    def _net_set_mtu(self, payload: U64, fds: FdBag) -> None:
        checks.check_mtu(payload.value)
        self._device.set_mtu(payload.value)

    def _set_backend_req_fd(self, payload: Empty, fds: FdBag) -> None:
        self._device.set_backend_req_fd(fds.take())

    def _get_config(self, payload: Config, fds: FdBag) -> Config:
        """Refused with the 12-byte form whose size is 0: rust-vmm takes that for an error."""
        try:
            checks.check_config_window(payload.offset, payload.size)
            content = self._device.get_config(payload.offset, payload.size)
        except RequestError as error:
            raise RefusedWith(error.reason, Config(payload.offset, 0, payload.flags, b"")) from error
        return Config(payload.offset, len(content), payload.flags, content)

    def _set_config(self, payload: Config, fds: FdBag) -> None:
        checks.check_config_write(payload.offset, payload.size, payload.data, payload.flags)
        self._device.set_config(payload.offset, payload.data, payload.flags)

    def _set_status(self, payload: U64, fds: FdBag) -> None:
        """0 is a reset of the device: every ring stops. What else was said of rings, memory and connection
        stays, for QEMU does not say all of it again.

        Rings run from SET_VRING_KICK on, whatever the status: a legacy guest may use them before DRIVER_OK.
        """
        checks.check_status(payload.value)
        self._status = payload.value
        if not self._status:
            self._step(sorted(self._rings), RingEvent.STOP)

    def _get_status(self, payload: Empty, fds: FdBag) -> U64:
        """What was set; without FEATURES_OK as long as no features were accepted."""
        return U64(self._status if self._has_features else self._status & ~c.STATUS_FEATURES_OK)

    def _reset_device(self, payload: Empty, fds: FdBag) -> None:
        self._reset_rings()
        self._status = 0


def _where(message: Message) -> str:
    match message.payload:
        case VringState(index=index) | VringAddr(index=index) | VringFd(index=index):
            return f"{message.name} ring {index}"
        case _:
            return message.name


def _fd_of(payload: VringFd, fds: FdBag) -> int | None:
    return fds.take() if payload.has_fd else None


def _number(result: int | None) -> int:
    assert result is not None, "GET_VRING_BASE was completed without a base"
    return result
