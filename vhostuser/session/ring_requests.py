"""Requests that name a ring."""

from __future__ import annotations

from vhostuser.session import checks
from vhostuser.session.conversation import Conversation, Deferred
from vhostuser.session.device import Pending
from vhostuser.session.states import RingEvent
from vhostuser.wire.messages import FdBag, Payload, VringAddr, VringFd, VringState


class RingRequests:
    """One method per request; the table of requests names them."""

    def __init__(self, said: Conversation) -> None:
        self._said = said

    def set_vring_num(self, payload: VringState, fds: FdBag) -> None:
        checks.check_vring_num(payload.num, self._said.is_packed)
        self._said.device.set_vring_num(payload.index, payload.num)

    def set_vring_addr(self, payload: VringAddr, fds: FdBag) -> None:
        checks.check_vring_addr(payload, self._said.is_packed)
        self._said.device.set_vring_addr(payload)

    def set_vring_base(self, payload: VringState, fds: FdBag) -> None:
        checks.check_vring_base(payload.num, self._said.is_packed)
        self._said.device.set_vring_base(payload.index, payload.num)

    def set_vring_endian(self, payload: VringState, fds: FdBag) -> None:
        checks.check_vring_endian(payload.num, self._said.features)
        self._said.device.set_vring_endian(payload.index, bool(payload.num))

    def get_vring_base(self, payload: VringState, fds: FdBag) -> Payload | Deferred:
        """The num of the request means nothing: DPDK virtio-user leaves there what was on its stack."""
        index = payload.index
        self._said.step([index], RingEvent.STOP)
        base = self._said.device.get_vring_base(index)
        if isinstance(base, Pending):
            return Deferred(base, lambda result: VringState(index, _number(result)))
        return VringState(index, base)

    def get_vring_base_skip_drain(self, payload: VringState, fds: FdBag) -> Payload | Deferred:
        """Nothing is ever left to drain: there is no shorter way to stop."""
        return self.get_vring_base(payload, fds)

    def set_vring_kick(self, payload: VringFd, fds: FdBag) -> None:
        self._said.device.set_vring_kick(payload.index, _fd_of(payload, fds))
        self._said.step([payload.index], RingEvent.START)

    def vring_kick(self, payload: VringState, fds: FdBag) -> None:
        """Also starts the ring. Acknowledged when whoever runs the ring is woken, not when it has run."""
        checks.check_vring_kick(payload.num)
        self._said.device.vring_kick(payload.index)
        self._said.step([payload.index], RingEvent.START)

    def set_vring_call(self, payload: VringFd, fds: FdBag) -> None:
        self._said.device.set_vring_call(payload.index, _fd_of(payload, fds))

    def set_vring_err(self, payload: VringFd, fds: FdBag) -> None:
        self._said.device.set_vring_err(payload.index, _fd_of(payload, fds))

    def set_vring_enable(self, payload: VringState, fds: FdBag) -> None:
        checks.check_vring_enable(payload.num)
        self._said.step([payload.index], RingEvent.ENABLE if payload.num else RingEvent.DISABLE)


def _fd_of(payload: VringFd, fds: FdBag) -> int | None:
    return fds.take() if payload.has_fd else None


def _number(result: int | None) -> int:
    assert result is not None, "GET_VRING_BASE was completed without a base"
    return result
