"""A device that does nothing and remembers everything, for tests of whatever talks to a Device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vhostuser.errors import RequestError
from vhostuser.session.device import Pending
from vhostuser.session.states import RingState
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.messages import Inflight, MemoryRegion, VringAddr

OFFER = (
    V.CSUM
    | V.GUEST_CSUM
    | V.MTU
    | V.GUEST_TSO4
    | V.HOST_TSO4
    | V.MRG_RXBUF
    | V.STATUS
    | V.GUEST_ANNOUNCE
    | V.MQ
    | V.ANY_LAYOUT
    | V.INDIRECT_DESC
    | V.EVENT_IDX
    | V.VERSION_1
    | V.IN_ORDER
)
PROTOCOL_OFFER = P.MQ | P.RARP | P.REPLY_ACK | P.MTU | P.BACKEND_REQ | P.CONFIG | P.RESET_DEVICE
INFLIGHT_OFFER = PROTOCOL_OFFER | P.INFLIGHT_SHMFD | P.GET_VRING_BASE_INFLIGHT | P.GET_VRING_BASE_SKIP_DRAIN


@dataclass
class FakeDevice:
    """Records each call as ``(method, *arguments)`` in ``calls``.

    It owns the fds that it is given as numbers only, in ``fds``: tests that hand it real ones close those.
    """

    features: V = OFFER
    protocol_features: P = PROTOCOL_OFFER
    queues: int = 128
    vrings: int = 256
    config: bytes = bytes(range(60)) + bytes(196)
    calls: list[tuple[object, ...]] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)
    uffd: int | None = 77
    bases: dict[int, int] = field(default_factory=dict)
    states: dict[int, RingState] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Method name -> reason to refuse it with."""
    deferred: dict[str, Pending] = field(default_factory=dict)
    """Method name -> what it returns in place of a result."""

    def take_calls(self) -> list[tuple[object, ...]]:
        """The calls since the last time."""
        taken, self.calls = self.calls, []
        return taken

    def _note(self, method: str, *arguments: object) -> None:
        self.calls.append((method, *arguments))
        if method in self.refused:
            raise RequestError(self.refused[method])

    def offered_features(self) -> V:
        return self.features

    def offered_protocol_features(self) -> P:
        return self.protocol_features

    def set_features(self, acked: V) -> None:
        self._note("set_features", acked)

    def set_protocol_features(self, acked: P) -> None:
        self._note("set_protocol_features", acked)

    def set_owner(self) -> None:
        self._note("set_owner")

    def reset_device(self) -> None:
        self._note("reset_device")
        self.bases.clear()

    def reset_driver(self) -> None:
        self._note("reset_driver")

    def queue_count(self) -> int:
        return self.queues

    def vring_count(self) -> int:
        return self.vrings

    def set_mem_table(self, regions: tuple[MemoryRegion, ...], fds: list[int]) -> Pending | None:
        self.fds += fds
        self._note("set_mem_table", regions, fds)
        return self.deferred.get("set_mem_table")

    def postcopy_advise(self) -> int | None:
        self._note("postcopy_advise")
        return self.uffd

    def postcopy_listen(self) -> None:
        self._note("postcopy_listen")

    def map_mem_table(self, regions: tuple[MemoryRegion, ...], fds: list[int]) -> tuple[int, ...]:
        self.fds += fds
        self._note("map_mem_table", regions, fds)
        return tuple(0x7000_0000 + number * 0x1000 for number in range(len(regions)))

    def confirm_mem_table(self) -> None:
        self._note("confirm_mem_table")

    def postcopy_end(self) -> None:
        self._note("postcopy_end")

    def add_mem_reg(self, region: MemoryRegion, fd: int) -> None:
        self.fds.append(fd)
        self._note("add_mem_reg", region, fd)

    def rem_mem_reg(self, region: MemoryRegion) -> None:
        self._note("rem_mem_reg", region)

    def set_log_base(self, size: int, offset: int, fd: int) -> Pending | None:
        self.fds.append(fd)
        self._note("set_log_base", size, offset, fd)
        return self.deferred.get("set_log_base")

    def get_inflight_fd(self, wanted: Inflight) -> tuple[Inflight, int]:
        self._note("get_inflight_fd", wanted)
        return replace(wanted, mmap_size=4096), 99

    def set_inflight_fd(self, layout: Inflight, fd: int) -> None:
        self.fds.append(fd)
        self._note("set_inflight_fd", layout, fd)

    def set_vring_num(self, index: int, num: int) -> None:
        self._note("set_vring_num", index, num)

    def set_vring_addr(self, addr: VringAddr) -> None:
        self._note("set_vring_addr", addr)

    def set_vring_base(self, index: int, base: int) -> None:
        self._note("set_vring_base", index, base)
        self.bases[index] = base

    def set_vring_endian(self, index: int, is_big: bool) -> None:
        self._note("set_vring_endian", index, is_big)

    def get_vring_base(self, index: int) -> int | Pending:
        self._note("get_vring_base", index)
        return self.deferred.get("get_vring_base") or self.bases.get(index, 0)

    def set_vring_kick(self, index: int, fd: int | None) -> None:
        self._take_fd("set_vring_kick", index, fd)

    def vring_kick(self, index: int) -> None:
        self._note("vring_kick", index)

    def set_vring_call(self, index: int, fd: int | None) -> None:
        self._take_fd("set_vring_call", index, fd)

    def set_vring_err(self, index: int, fd: int | None) -> None:
        self._take_fd("set_vring_err", index, fd)

    def _take_fd(self, method: str, index: int, fd: int | None) -> None:
        self.fds += [fd] if fd is not None else []
        self._note(method, index, fd)

    def set_vring_states(self, states: Mapping[int, RingState]) -> None:
        self.states.update(states)
        for index, state in states.items():
            self._note("set_vring_state", index, state)

    def send_rarp(self, mac: bytes) -> None:
        self._note("send_rarp", mac)

    def set_mtu(self, mtu: int) -> None:
        self._note("set_mtu", mtu)

    def set_backend_req_fd(self, fd: int) -> None:
        self.fds.append(fd)
        self._note("set_backend_req_fd", fd)

    def set_device_state_fd(self, direction: int, fd: int) -> None:
        self.fds.append(fd)
        self._note("set_device_state_fd", direction, fd)

    def check_device_state(self) -> Pending:
        self._note("check_device_state")
        return self.deferred.get("check_device_state", Pending())

    def iotlb_update(self, iova: int, last: int, uva: int, access: int) -> None:
        self._note("iotlb_update", iova, last, uva, access)

    def iotlb_invalidate(self, iova: int, last: int) -> None:
        self._note("iotlb_invalidate", iova, last)

    def get_config(self, offset: int, size: int) -> bytes:
        self._note("get_config", offset, size)
        return self.config[offset : offset + size]

    def set_config(self, offset: int, data: bytes, flags: int) -> None:
        self._note("set_config", offset, data, flags)
