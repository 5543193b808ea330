"""The request tables: one row per request, all 45 of the front-end and all 10 of the back-end.

A row says what a request carries, how it is answered, what has to be negotiated first, and which method of
the `REQUEST_GROUPS` of `vhostuser.session.session` serves it. A row without a handler is refused in this
version. The same rows parse and check messages (`connection`), on either end, and decide the reply
(`session`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType
from typing import Final

from vhostuser.wire.constants import (
    DEVICE_STATE_ACCEPTED,
    DEVICE_STATE_REFUSED,
    BackendRequest,
    Request,
)
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.payloads import (
    U64,
    Config,
    Empty,
    Inflight,
    Iotlb,
    Log,
    MemTable,
    Mmap,
    Opaque,
    Payload,
    Rarp,
    SharedObject,
    ShmemConfig,
    SingleRegion,
    TransferState,
    VringAddr,
    VringArea,
    VringFd,
    VringState,
)

_NO_PROTOCOL, _NO_VIRTIO = P(0), V(0)


class Fds(Enum):
    """How many fds come with a request."""

    NONE = auto()
    ONE = auto()
    AT_MOST_ONE = auto()
    UNLESS_NOFD = auto()
    """One, or none with the NOFD bit set: kick, call, err."""
    PER_REGION = auto()
    """As many as the memory table has regions."""


class ReplyKind(Enum):
    """How a request is answered. Front-ends wait for exactly this many replies: one too many, and every later
    reply is taken for the answer to the wrong request."""

    OWN = auto()
    """Always with a payload of its own. Never acknowledged on top: QEMU fixed that mistake three times."""
    ACK = auto()
    """A u64, 0 or not, and only if REPLY_ACK was negotiated and the message asks for it."""
    ALWAYS_U64 = auto()
    """A u64 in any case."""
    OWN_WITH_LOG_SHMFD = auto()
    """OWN once LOG_SHMFD is negotiated, ACK before."""
    OWN_IN_POSTCOPY = auto()
    """OWN between POSTCOPY_LISTEN and POSTCOPY_END, ACK otherwise."""


class RingRule(Enum):
    """What a request says about a ring, and in which state that ring has to be."""

    NONE = auto()
    """Names no ring."""
    ANY = auto()
    STOPPED = auto()
    """Once the ring has this item, it may come again only while the ring is stopped."""
    BEFORE_START = auto()
    """Only while the ring is stopped, also for the first time."""
    UNMOVED = auto()
    """As STOPPED, but the same addresses with another log flag may come at any time: how migration begins."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What has to be negotiated before a request is legal.

    Some virtio bits count from the *offer* on: QEMU sends NET_SET_MTU and SET_VRING_ENABLE before
    SET_FEATURES, and a front-end may use GET/SET_PROTOCOL_FEATURES without ever acknowledging bit 30.
    """

    protocol: P = _NO_PROTOCOL
    """All of these were acknowledged with SET_PROTOCOL_FEATURES."""
    offered: V = _NO_VIRTIO
    acked: V = _NO_VIRTIO


@dataclass(frozen=True, slots=True)
class RequestRow:
    request: Request | BackendRequest
    payload: tuple[type[Payload], ...]
    """The layouts it may have; the size decides."""
    reply: ReplyKind
    fds: Fds = Fds.NONE
    gate: Gate = Gate()
    ring: RingRule = RingRule.NONE
    handler: str | None = None
    is_sent: bool = False
    """Of the back-end's own: whether this one ever asks it."""
    answer: tuple[type[Payload], ...] = (U64,)
    """The layouts its reply may have."""
    acceptance: int = 0
    refusal: int = 1
    """The u64 that says yes, and the one that says no."""

    @property
    def name(self) -> str:
        return self.request.name

    @property
    def is_question(self) -> bool:
        """Carries nothing and is answered in any case: nothing that runs has to stand still for it."""
        return self.payload == (Empty,) and self.reply in (ReplyKind.OWN, ReplyKind.ALWAYS_U64)


_OWN, _ACK, _ALWAYS = ReplyKind.OWN, ReplyKind.ACK, ReplyKind.ALWAYS_U64
_ANY, _STOPPED = RingRule.ANY, RingRule.STOPPED
_BIT_30 = Gate(offered=V.PROTOCOL_FEATURES)
_STATE = (VringState,)
_R, _B = Request, BackendRequest


def _on(protocol: P) -> Gate:
    return Gate(protocol=protocol)


def _table(rows: Iterable[RequestRow]) -> Mapping[int, RequestRow]:
    return MappingProxyType({int(row.request): row for row in rows})


_ROW = RequestRow

FRONTEND_REQUESTS: Final = _table(
    (
        _ROW(_R.GET_FEATURES, (Empty,), _OWN, handler="get_features"),
        _ROW(_R.SET_FEATURES, (U64,), _ACK, handler="set_features"),
        _ROW(_R.SET_OWNER, (Empty,), _ACK, handler="set_owner"),
        _ROW(_R.RESET_OWNER, (Empty,), _ACK, handler="reset_owner"),
        _ROW(
            _R.SET_MEM_TABLE,
            (MemTable,),
            ReplyKind.OWN_IN_POSTCOPY,
            Fds.PER_REGION,
            handler="set_mem_table",
            answer=(U64, MemTable),
        ),
        # The reply's size is not in the specification; rust-vmm's front-end used to take the echoed log only.
        _ROW(
            _R.SET_LOG_BASE,
            (Log, U64),
            ReplyKind.OWN_WITH_LOG_SHMFD,
            Fds.AT_MOST_ONE,
            _on(P.LOG_SHMFD),
            handler="set_log_base",
            answer=(Log, U64, Empty),
        ),
        _ROW(_R.SET_LOG_FD, (Empty, U64), _ACK, Fds.ONE, handler="set_log_fd"),
        _ROW(_R.SET_VRING_NUM, (VringState,), _ACK, ring=_STOPPED, handler="set_vring_num"),
        _ROW(_R.SET_VRING_ADDR, (VringAddr,), _ACK, ring=RingRule.UNMOVED, handler="set_vring_addr"),
        _ROW(_R.SET_VRING_BASE, (VringState,), _ACK, ring=_STOPPED, handler="set_vring_base"),
        _ROW(_R.GET_VRING_BASE, (VringState,), _OWN, ring=_ANY, handler="get_vring_base", answer=_STATE),
        _ROW(_R.SET_VRING_KICK, (VringFd,), _ACK, Fds.UNLESS_NOFD, ring=_ANY, handler="set_vring_kick"),
        _ROW(_R.SET_VRING_CALL, (VringFd,), _ACK, Fds.UNLESS_NOFD, ring=_ANY, handler="set_vring_call"),
        _ROW(_R.SET_VRING_ERR, (VringFd,), _ACK, Fds.UNLESS_NOFD, ring=_ANY, handler="set_vring_err"),
        _ROW(_R.GET_PROTOCOL_FEATURES, (Empty,), _OWN, gate=_BIT_30, handler="get_protocol_features"),
        _ROW(_R.SET_PROTOCOL_FEATURES, (U64,), _ACK, gate=_BIT_30, handler="set_protocol_features"),
        _ROW(_R.GET_QUEUE_NUM, (Empty,), _OWN, gate=_on(P.MQ), handler="get_queue_num"),
        _ROW(_R.SET_VRING_ENABLE, (VringState,), _ACK, gate=_BIT_30, ring=_ANY, handler="set_vring_enable"),
        _ROW(_R.SEND_RARP, (Rarp,), _ACK, gate=_on(P.RARP), handler="send_rarp"),
        _ROW(_R.NET_SET_MTU, (U64,), _ACK, gate=Gate(P.MTU, offered=V.MTU), handler="net_set_mtu"),
        _ROW(
            _R.SET_BACKEND_REQ_FD,
            (Empty,),
            _ACK,
            Fds.ONE,
            _on(P.BACKEND_REQ),
            handler="set_backend_req_fd",
        ),
        _ROW(_R.IOTLB_MSG, (Iotlb,), _ALWAYS, gate=Gate(acked=V.ACCESS_PLATFORM), handler="iotlb_msg"),
        _ROW(
            _R.SET_VRING_ENDIAN,
            (VringState,),
            _ACK,
            gate=_on(P.CROSS_ENDIAN),
            ring=RingRule.BEFORE_START,
            handler="set_vring_endian",
        ),
        # An error is the 12-byte form for rust-vmm, no payload at all for QEMU.
        _ROW(
            _R.GET_CONFIG,
            (Config,),
            _OWN,
            gate=_on(P.CONFIG),
            handler="get_config",
            answer=(Config, Empty),
        ),
        _ROW(_R.SET_CONFIG, (Config,), _ACK, gate=_on(P.CONFIG), handler="set_config"),
        _ROW(_R.CREATE_CRYPTO_SESSION, (Opaque,), _OWN, gate=_on(P.CRYPTO_SESSION), answer=(Opaque,)),
        _ROW(_R.CLOSE_CRYPTO_SESSION, (U64,), _ACK, gate=_on(P.CRYPTO_SESSION)),
        _ROW(
            _R.POSTCOPY_ADVISE,
            (Empty,),
            _OWN,
            gate=_on(P.PAGEFAULT),
            handler="postcopy_advise",
            answer=(Empty,),
        ),
        _ROW(_R.POSTCOPY_LISTEN, (Empty,), _ACK, gate=_on(P.PAGEFAULT), handler="postcopy_listen"),
        _ROW(_R.POSTCOPY_END, (Empty,), _ALWAYS, gate=_on(P.PAGEFAULT), handler="postcopy_end"),
        _ROW(
            _R.GET_INFLIGHT_FD,
            (Inflight,),
            _OWN,
            gate=_on(P.INFLIGHT_SHMFD),
            handler="get_inflight_fd",
            answer=(Inflight,),
        ),
        _ROW(
            _R.SET_INFLIGHT_FD,
            (Inflight,),
            _ACK,
            Fds.ONE,
            _on(P.INFLIGHT_SHMFD),
            handler="set_inflight_fd",
        ),
        _ROW(_R.GPU_SET_SOCKET, (Empty,), _ACK, Fds.ONE),
        _ROW(_R.RESET_DEVICE, (Empty,), _ACK, gate=_on(P.RESET_DEVICE), handler="reset_device"),
        _ROW(
            _R.VRING_KICK,
            (VringState,),
            _ACK,
            gate=_on(P.INBAND_NOTIFICATIONS),
            ring=_ANY,
            handler="vring_kick",
        ),
        _ROW(
            _R.GET_MAX_MEM_SLOTS,
            (Empty,),
            _OWN,
            gate=_on(P.CONFIGURE_MEM_SLOTS),
            handler="get_max_mem_slots",
        ),
        _ROW(
            _R.ADD_MEM_REG,
            (SingleRegion,),
            ReplyKind.OWN_IN_POSTCOPY,
            Fds.ONE,
            _on(P.CONFIGURE_MEM_SLOTS),
            handler="add_mem_reg",
            answer=(U64, SingleRegion),
        ),
        _ROW(
            _R.REM_MEM_REG,
            (SingleRegion,),
            _ACK,
            Fds.AT_MOST_ONE,
            _on(P.CONFIGURE_MEM_SLOTS),
            handler="rem_mem_reg",
        ),
        _ROW(_R.SET_STATUS, (U64,), _ACK, gate=_on(P.STATUS), handler="set_status"),
        _ROW(_R.GET_STATUS, (Empty,), _OWN, gate=_on(P.STATUS), handler="get_status"),
        _ROW(_R.GET_SHARED_OBJECT, (SharedObject,), _OWN, gate=_on(P.SHARED_OBJECT), answer=(Empty,)),
        _ROW(
            _R.SET_DEVICE_STATE_FD,
            (TransferState,),
            _ALWAYS,
            Fds.ONE,
            _on(P.DEVICE_STATE),
            handler="set_device_state_fd",
            acceptance=DEVICE_STATE_ACCEPTED,
            refusal=DEVICE_STATE_REFUSED,
        ),
        _ROW(
            _R.CHECK_DEVICE_STATE,
            (Empty,),
            _ALWAYS,
            gate=_on(P.DEVICE_STATE),
            handler="check_device_state",
        ),
        _ROW(_R.GET_SHMEM_CONFIG, (Empty,), _OWN, gate=_on(P.SHMEM), answer=(ShmemConfig,)),
        _ROW(
            _R.GET_VRING_BASE_SKIP_DRAIN,
            (VringState,),
            _OWN,
            gate=_on(P.INFLIGHT_SHMFD | P.GET_VRING_BASE_INFLIGHT | P.GET_VRING_BASE_SKIP_DRAIN),
            ring=_ANY,
            handler="get_vring_base_skip_drain",
            answer=_STATE,
        ),
    )
)
"""Front-end to back-end, by number."""

_IN_BAND = _on(P.BACKEND_REQ | P.INBAND_NOTIFICATIONS)

BACKEND_REQUESTS: Final = _table(
    (
        _ROW(
            _B.IOTLB_MSG,
            (Iotlb,),
            _ACK,
            gate=Gate(P.BACKEND_REQ, acked=V.ACCESS_PLATFORM),
            is_sent=True,
        ),
        _ROW(_B.CONFIG_CHANGE_MSG, (Empty,), _ACK, gate=_on(P.BACKEND_REQ | P.CONFIG), is_sent=True),
        _ROW(
            _B.VRING_HOST_NOTIFIER_MSG,
            (VringArea,),
            _ACK,
            Fds.UNLESS_NOFD,
            _on(P.BACKEND_REQ | P.HOST_NOTIFIER | P.BACKEND_SEND_FD),
            _ANY,
        ),
        _ROW(_B.VRING_CALL, _STATE, _ACK, gate=_IN_BAND, ring=_ANY, is_sent=True),
        _ROW(_B.VRING_ERR, _STATE, _ACK, gate=_IN_BAND, ring=_ANY, is_sent=True),
        _ROW(_B.SHARED_OBJECT_ADD, (SharedObject,), _ACK, gate=_on(P.BACKEND_REQ | P.SHARED_OBJECT)),
        _ROW(_B.SHARED_OBJECT_REMOVE, (SharedObject,), _ACK, gate=_on(P.BACKEND_REQ | P.SHARED_OBJECT)),
        _ROW(_B.SHARED_OBJECT_LOOKUP, (SharedObject,), _ALWAYS, gate=_on(P.BACKEND_REQ | P.SHARED_OBJECT)),
        _ROW(_B.SHMEM_MAP, (Mmap,), _ACK, Fds.ONE, _on(P.BACKEND_REQ | P.SHMEM)),
        _ROW(_B.SHMEM_UNMAP, (Mmap,), _ACK, gate=_on(P.BACKEND_REQ | P.SHMEM)),
    )
)
"""Back-end to front-end, by number; a number space of its own."""
