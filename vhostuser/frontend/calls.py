"""Requests as values: one function for each, whose `Call` says what to send and how to read the answer.

No I/O. `frontend.py` runs a call, blocking or on an event loop; `orders.py` yields them in the order in which
known front-ends send them. Fds in a call stay the caller's: the message passes on copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from vhostuser.errors import PeerError
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature, VirtioFeature
from vhostuser.wire.messages import (
    U64,
    Config,
    Empty,
    Inflight,
    Iotlb,
    Log,
    MemoryRegion,
    MemTable,
    Payload,
    Rarp,
    Reply,
    SingleRegion,
    TransferState,
    VringAddr,
    VringFd,
    VringState,
)

Answer = TypeVar("Answer")
Got = TypeVar("Got")


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """One request, its fds, and what its reply means to the caller."""

    request: Request
    payload: Payload
    read: Callable[[Reply | None], Answer]
    """Gets None when no reply was due. Raises PeerError for a reply that says no or makes no sense."""
    fds: tuple[int, ...] = ()


def _payload(reply: Reply | None, kind: type[Got]) -> Got:
    if reply is None or not isinstance(reply.payload, kind):
        raise PeerError(f"reply {reply} where a {kind.__name__} was due")
    return reply.payload


def _number(reply: Reply | None) -> int:
    return _payload(reply, U64).value


def _nothing(reply: Reply | None) -> None:
    """Of an acknowledgement: 0 and none at all are both fine."""
    if reply is not None and isinstance(reply.payload, U64) and reply.payload.value:
        raise PeerError(f"back-end refused {Request(reply.request).name}: {reply.payload.value:#x}")


def _do(request: Request, payload: Payload, fds: Sequence[int] = ()) -> Call[None]:
    return Call(request, payload, _nothing, tuple(fds))


# Features and the session


def get_features() -> Call[VirtioFeature]:
    return Call(Request.GET_FEATURES, Empty(), lambda reply: VirtioFeature(_number(reply)))


def set_features(features: int) -> Call[None]:
    return _do(Request.SET_FEATURES, U64(features))


def get_protocol_features() -> Call[ProtocolFeature]:
    return Call(Request.GET_PROTOCOL_FEATURES, Empty(), lambda reply: ProtocolFeature(_number(reply)))


def set_protocol_features(features: int) -> Call[None]:
    return _do(Request.SET_PROTOCOL_FEATURES, U64(features))


def set_owner() -> Call[None]:
    return _do(Request.SET_OWNER, Empty())


def reset_owner() -> Call[None]:
    return _do(Request.RESET_OWNER, Empty())


def reset_device() -> Call[None]:
    return _do(Request.RESET_DEVICE, Empty())


def get_queue_num() -> Call[int]:
    return Call(Request.GET_QUEUE_NUM, Empty(), _number)


def get_status() -> Call[int]:
    return Call(Request.GET_STATUS, Empty(), _number)


def set_status(status: int) -> Call[None]:
    return _do(Request.SET_STATUS, U64(status))


def set_backend_req_fd(fd: int) -> Call[None]:
    return _do(Request.SET_BACKEND_REQ_FD, Empty(), (fd,))


# Memory


def memory_table(memory: GuestMemory, guest_addresses: bool = False) -> MemTable:
    """The table that describes `memory`; `memory.fds()` go with it.

    With GPA_ADDRESSES user addresses are guest addresses.
    """
    return MemTable(
        tuple(
            MemoryRegion(r.gpa, r.size, r.gpa if guest_addresses else _known(r.uva), r.mmap_offset)
            for r in memory.regions
        )
    )


def _known(uva: int | None) -> int:
    assert uva is not None
    return uva


def set_mem_table(table: MemTable, fds: Sequence[int]) -> Call[None]:
    return _do(Request.SET_MEM_TABLE, table, fds)


def add_mem_reg(region: MemoryRegion, fd: int) -> Call[None]:
    return _do(Request.ADD_MEM_REG, SingleRegion(region), (fd,))


def rem_mem_reg(region: MemoryRegion) -> Call[None]:
    return _do(Request.REM_MEM_REG, SingleRegion(region))


def get_max_mem_slots() -> Call[int]:
    return Call(Request.GET_MAX_MEM_SLOTS, Empty(), _number)


def set_log_base(size: int, offset: int, fd: int) -> Call[None]:
    return _do(Request.SET_LOG_BASE, Log(size, offset), (fd,))


def set_log_fd(fd: int) -> Call[None]:
    return _do(Request.SET_LOG_FD, Empty(), (fd,))


def iotlb_msg(message: Iotlb) -> Call[None]:
    return _do(Request.IOTLB_MSG, message)


# Rings


def set_vring_num(index: int, size: int) -> Call[None]:
    return _do(Request.SET_VRING_NUM, VringState(index, size))


def set_vring_addr(
    index: int, desc: int, used: int, avail: int, *, flags: int = 0, log: int = 0
) -> Call[None]:
    """Addresses are the front-end's (`uva`)."""
    return _do(Request.SET_VRING_ADDR, VringAddr(index, flags, desc, used, avail, log))


def set_vring_base(index: int, base: int) -> Call[None]:
    return _do(Request.SET_VRING_BASE, VringState(index, base))


def get_vring_base(index: int) -> Call[int]:
    return Call(Request.GET_VRING_BASE, VringState(index, 0), lambda reply: _payload(reply, VringState).num)


def get_vring_base_skip_drain(index: int) -> Call[int]:
    return Call(
        Request.GET_VRING_BASE_SKIP_DRAIN,
        VringState(index, 0),
        lambda reply: _payload(reply, VringState).num,
    )


def _vring_fd(request: Request, index: int, fd: int | None) -> Call[None]:
    return _do(request, VringFd(index, fd is not None), () if fd is None else (fd,))


def set_vring_kick(index: int, fd: int | None) -> Call[None]:
    """None: the back-end is to poll."""
    return _vring_fd(Request.SET_VRING_KICK, index, fd)


def set_vring_call(index: int, fd: int | None) -> Call[None]:
    """None: the driver polls."""
    return _vring_fd(Request.SET_VRING_CALL, index, fd)


def set_vring_err(index: int, fd: int | None) -> Call[None]:
    return _vring_fd(Request.SET_VRING_ERR, index, fd)


def set_vring_enable(index: int, enable: bool) -> Call[None]:
    return _do(Request.SET_VRING_ENABLE, VringState(index, int(enable)))


def set_vring_endian(index: int, big: bool) -> Call[None]:
    return _do(Request.SET_VRING_ENDIAN, VringState(index, int(big)))


def vring_kick(index: int) -> Call[None]:
    return _do(Request.VRING_KICK, VringState(index, 0))


# The network device


def send_rarp(mac: bytes) -> Call[None]:
    return _do(Request.SEND_RARP, Rarp(mac))


def net_set_mtu(mtu: int) -> Call[None]:
    return _do(Request.NET_SET_MTU, U64(mtu))


def get_config(offset: int, size: int) -> Call[bytes]:
    """The config space's bytes, as many as the back-end gave."""
    return Call(
        Request.GET_CONFIG,
        Config(offset, size, 0, bytes(size)),
        lambda reply: _payload(reply, Config).data,
    )


def set_config(offset: int, content: bytes, flags: int = 0) -> Call[None]:
    return _do(Request.SET_CONFIG, Config(offset, len(content), flags, content))


# State that survives


def get_inflight_fd(num_queues: int, queue_size: int) -> Call[tuple[Inflight, int]]:
    """The region as the back-end laid it out, and its fd, which is the caller's to close."""

    def read(reply: Reply | None) -> tuple[Inflight, int]:
        layout = _payload(reply, Inflight)
        if reply is None or len(reply.fds) != 1:
            raise PeerError(f"GET_INFLIGHT_FD came without its fd: {reply}")
        return layout, reply.fds[0]

    return Call(Request.GET_INFLIGHT_FD, Inflight(0, 0, num_queues, queue_size), read)


def set_inflight_fd(layout: Inflight, fd: int) -> Call[None]:
    return _do(Request.SET_INFLIGHT_FD, layout, (fd,))


def set_device_state_fd(direction: int, fd: int) -> Call[int]:
    """0 saves, 1 loads. The answer is the raw word: 0x100 is success without an fd of the back-end's."""
    return Call(Request.SET_DEVICE_STATE_FD, TransferState(direction, 0), _number, (fd,))


def check_device_state() -> Call[int]:
    return Call(Request.CHECK_DEVICE_STATE, Empty(), _number)


def postcopy_advise() -> Call[int | None]:
    """The userfaultfd, which is the caller's to close; None when the back-end has none."""
    return Call(Request.POSTCOPY_ADVISE, Empty(), lambda reply: reply.fds[0] if reply and reply.fds else None)


def postcopy_listen() -> Call[None]:
    return _do(Request.POSTCOPY_LISTEN, Empty())


def map_mem_table(table: MemTable, fds: Sequence[int]) -> Call[tuple[MemoryRegion, ...]]:
    """SET_MEM_TABLE in postcopy: the regions with the user addresses where the back-end mapped them."""
    return Call(Request.SET_MEM_TABLE, table, lambda reply: _payload(reply, MemTable).regions, tuple(fds))


def confirm_mem_table() -> Call[None]:
    """The acknowledgement of that answer: faults at those addresses will be served. It has no answer."""
    return Call(Request.SET_MEM_TABLE, U64(0), lambda reply: None)


def postcopy_end() -> Call[None]:
    return _do(Request.POSTCOPY_END, Empty())
