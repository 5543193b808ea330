"""The message orders of known front-ends, as scripts: QEMU, DPDK's virtio-user, Cloud Hypervisor.

They follow traces of the real ones. A script yields `Call`s and is sent their answers; who runs it, and how,
is `frontend.py`'s business. Back-ends must take every one of these orders, so a driver can speak in any.
"""

from __future__ import annotations

import os
from collections.abc import Container, Generator
from enum import Enum
from typing import Any, TypeVar

from vhostuser.errors import PeerError
from vhostuser.frontend import calls
from vhostuser.frontend.calls import Call
from vhostuser.frontend.dialogue import Script
from vhostuser.frontend.nic import Nic, Ring
from vhostuser.frontend.ring_position import FIRST, parse_base
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V

T = TypeVar("T")

STATUS_ACKNOWLEDGE, STATUS_DRIVER, STATUS_DRIVER_OK, STATUS_FEATURES_OK = 1, 2, 4, 8
_CONFIG_SIZE = 12
"""mac, status, max_virtqueue_pairs, mtu: what a driver reads of the config space."""


class Order(Enum):
    """Who to behave like."""

    QEMU = "qemu"
    VIRTIO_USER = "virtio-user"
    CLOUD_HYPERVISOR = "cloud-hypervisor"


PROTOCOL_FEATURES: dict[Order, P] = {
    # No CONFIG: QEMU's network device prints a warning and drops it.
    Order.QEMU: P.MQ
    | P.LOG_SHMFD
    | P.RARP
    | P.REPLY_ACK
    | P.MTU
    | P.BACKEND_REQ
    | P.CROSS_ENDIAN
    | P.CONFIGURE_MEM_SLOTS
    | P.STATUS,
    Order.VIRTIO_USER: P.MQ | P.REPLY_ACK | P.STATUS,
    Order.CLOUD_HYPERVISOR: P.MQ
    | P.LOG_SHMFD
    | P.REPLY_ACK
    | P.CONFIG
    | P.CONFIGURE_MEM_SLOTS
    | P.INFLIGHT_SHMFD,
}
"""What each acknowledges out of an offer, as far as this front-end has the messages that follow from it."""

ACKS: dict[Order, Container[Request]] = {
    Order.QEMU: frozenset(
        {
            Request.SET_MEM_TABLE,
            Request.ADD_MEM_REG,
            Request.REM_MEM_REG,
            Request.SET_VRING_KICK,
            Request.SET_VRING_CALL,
            Request.SET_VRING_ERR,
            Request.SET_VRING_ENABLE,
            Request.NET_SET_MTU,
            Request.SET_BACKEND_REQ_FD,
            Request.SET_CONFIG,
            Request.IOTLB_MSG,
        }
    ),
    Order.VIRTIO_USER: frozenset({Request.SET_MEM_TABLE, Request.SET_STATUS}),
    Order.CLOUD_HYPERVISOR: frozenset(Request),
}
"""Which requests carry NEED_REPLY once REPLY_ACK is negotiated; Cloud Hypervisor's do all, GET_* too."""


def negotiate(nic: Nic) -> Script[None]:
    """Everything before the guest's driver has chosen: features, protocol features, ownership.

    Afterwards every ring's base is that of a new ring.
    """
    yield from _NEGOTIATE[nic.order](nic)
    nic.begin_anew()


def start(nic: Nic) -> Script[None]:
    """From the driver's choice of features to running rings."""
    return _START[nic.order](nic)


def stop(nic: Nic) -> Script[None]:
    """Stop every ring; each `Ring.base` says where. PeerError for a base that is outside of a packed ring."""
    return _STOP[nic.order](nic)


def _ask(call: Call[T]) -> Generator[Call[Any], Any, T]:
    answer: T = yield call
    return answer


def _features(nic: Nic) -> Script[None]:
    nic.offered = yield from _ask(calls.get_features())
    nic.features = nic.offered & nic.wanted


def _protocol(nic: Nic) -> Script[None]:
    """Legal as soon as bit 30 is offered, acknowledged or not."""
    if V.PROTOCOL_FEATURES in nic.offered:
        offered = yield from _ask(calls.get_protocol_features())
        wanted = nic.protocol_wanted
        nic.protocol = offered & (PROTOCOL_FEATURES[nic.order] if wanted is None else wanted)
        yield calls.set_protocol_features(nic.protocol)


def _owner(nic: Nic) -> Script[None]:
    if not nic.owned:
        yield calls.set_owner()
        nic.owned = True


def _queue_num(nic: Nic, unit: int) -> Script[None]:
    """QEMU takes the answer for pairs, rust-vmm for rings: `unit` is 1 or 2."""
    if P.MQ not in nic.protocol:
        if nic.pairs > 1:
            raise PeerError(f"back-end has one queue pair, {nic.pairs} were asked for")
        return
    most = yield from _ask(calls.get_queue_num())
    if most < nic.pairs * unit:
        raise PeerError(f"back-end serves {most} {'rings' if unit == 2 else 'queue pairs'}, too few")


def _status(nic: Nic, bits: int) -> Script[None]:
    if P.STATUS in nic.protocol:
        old = yield from _ask(calls.get_status())
        yield calls.set_status(old | bits)


def _mem_table(nic: Nic) -> Script[None]:
    table = calls.memory_table(nic.memory, P.GPA_ADDRESSES in nic.protocol)
    yield calls.set_mem_table(table, nic.memory.fds())
    nic.told = list(table.regions)


def _mem_slots(nic: Nic) -> Script[None]:
    """As QEMU brings a back-end's regions up to date: the last is removed first, and then new ones come."""
    table = calls.memory_table(nic.memory, P.GPA_ADDRESSES in nic.protocol)
    rows = dict(zip(table.regions, nic.memory.fds(), strict=True))
    for region in [told for told in reversed(nic.told) if told not in rows]:
        yield calls.rem_mem_reg(region)
        nic.told.remove(region)
    for region in [region for region in rows if region not in nic.told]:
        yield calls.add_mem_reg(region, rows[region])
        nic.told.append(region)


def _endian(nic: Nic, ring: Ring, big: bool) -> Script[None]:
    """QEMU says nothing where the guest has the host's byte order, and gives up where it cannot say it."""
    if nic.big_endian:
        if P.CROSS_ENDIAN not in nic.protocol:
            raise PeerError("back-end serves no guest of the other byte order: it lacks CROSS_ENDIAN")
        yield calls.set_vring_endian(ring.index, big)


def _inflight(nic: Nic) -> Script[None]:
    """A region from this back-end, or the one from its predecessor; the one as the other is then set."""
    if P.INFLIGHT_SHMFD not in nic.protocol:
        return
    if nic.inflight is None:
        nic.inflight = yield from _ask(calls.get_inflight_fd(len(nic.rings), nic.rings[0].size))
    layout, fd = nic.inflight
    yield calls.set_inflight_fd(layout, fd)


def _address(ring: Ring) -> Call[None]:
    assert ring.place is not None, "a ring has its place before it is started"
    return calls.set_vring_addr(ring.index, ring.place.desc, ring.place.used, ring.place.avail)


def _stop_ring(nic: Nic, ring: Ring) -> Script[None]:
    """The answer is kept as it is, as QEMU keeps it, which knows both halves of a packed one."""
    ring.base = yield from _ask(calls.get_vring_base(ring.index))
    if nic.packed:
        parse_base(ring.base, ring.size)


def _qemu_negotiate(nic: Nic) -> Script[None]:
    """QEMU makes one vhost device out of each pair, all on one socket: most of it comes once a pair."""
    for number, rings in enumerate(nic.groups):
        yield from _features(nic)
        yield from _protocol(nic)
        if number == 0:
            yield from _queue_num(nic, 1)
        if P.CONFIGURE_MEM_SLOTS in nic.protocol:
            slots = yield from _ask(calls.get_max_mem_slots())
            if slots < len(nic.memory.regions):
                raise PeerError(f"back-end has {slots} memory slots, too few")
        if number == 0:
            if P.BACKEND_REQ in nic.protocol and nic.channel_fd is not None:
                yield calls.set_backend_req_fd(nic.channel_fd)
            yield from _owner(nic)
        yield from _features(nic)
        for ring in rings:
            yield calls.set_vring_call(ring.index, ring.masked_fd)
            yield calls.set_vring_err(ring.index, ring.err_fd)


def _qemu_start(nic: Nic) -> Script[None]:
    # When the guest writes its features: pair 0 on, the others off, before SET_FEATURES and any memory.
    if V.PROTOCOL_FEATURES in nic.features:
        for ring in nic.rings:
            yield calls.set_vring_enable(ring.index, ring.index < 2)
    if V.MTU in nic.features and P.MTU in nic.protocol and nic.mtu is not None:
        yield calls.net_set_mtu(nic.mtu)
    for number, rings in enumerate(nic.groups):
        if V.PROTOCOL_FEATURES in nic.features:
            for ring in rings:
                yield calls.set_vring_enable(ring.index, True)
        yield calls.set_features(nic.features)
        yield from _status(nic, STATUS_FEATURES_OK)
        if number == 0:
            yield from _mem_slots(nic) if P.CONFIGURE_MEM_SLOTS in nic.protocol else _mem_table(nic)
        for ring in rings:
            yield calls.set_vring_num(ring.index, ring.size)
            yield calls.set_vring_base(ring.index, ring.base)
            yield from _endian(nic, ring, True)
            yield _address(ring)
            yield calls.set_vring_kick(ring.index, ring.kick_fd)
            if ring.kick_fd is not None:
                os.eventfd_write(ring.kick_fd, 1)
            yield calls.set_vring_call(ring.index, ring.call_fd)
    yield from _status(nic, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK)


def _qemu_stop(nic: Nic) -> Script[None]:
    for ring in nic.rings:
        yield from _stop_ring(nic, ring)
        yield from _endian(nic, ring, False)
    if P.STATUS in nic.protocol:
        yield calls.set_status(0)


def _virtio_user_negotiate(nic: Nic) -> Script[None]:
    yield from _owner(nic)
    yield from _features(nic)
    yield from _protocol(nic)


def _virtio_user_start(nic: Nic) -> Script[None]:
    for ring in nic.rings:
        yield calls.set_vring_call(ring.index, ring.call_fd)
    yield calls.set_features(nic.features)
    if P.STATUS in nic.protocol:
        yield calls.set_status(STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK)
        yield calls.get_status()
    yield from _mem_table(nic)
    for ring in nic.rings:
        yield calls.set_vring_num(ring.index, ring.size)
        # 0 whatever the rings did before: a back-end has to look at used->idx. Of packed rings, which are
        # new at each start, only the available position.
        yield calls.set_vring_base(ring.index, FIRST.word if nic.packed else 0)
        yield _address(ring)
        yield calls.set_vring_kick(ring.index, ring.kick_fd)
    if V.PROTOCOL_FEATURES in nic.features:
        for ring in nic.rings:
            yield calls.set_vring_enable(ring.index, True)
    if P.STATUS in nic.protocol:
        yield calls.set_status(STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK)


def _virtio_user_stop(nic: Nic) -> Script[None]:
    if V.PROTOCOL_FEATURES in nic.features:
        for ring in nic.rings:
            yield calls.set_vring_enable(ring.index, False)
    for ring in nic.rings:
        yield from _stop_ring(nic, ring)


def _cloud_hypervisor_negotiate(nic: Nic) -> Script[None]:
    yield from _owner(nic)
    yield from _features(nic)
    yield from _protocol(nic)
    yield from _queue_num(nic, 2)
    if P.CONFIG in nic.protocol:
        nic.config = yield from _ask(calls.get_config(0, _CONFIG_SIZE))


def _cloud_hypervisor_start(nic: Nic) -> Script[None]:
    yield calls.set_features(nic.features)
    yield from _mem_table(nic)
    for ring in nic.rings:
        yield calls.set_vring_num(ring.index, ring.size)
    yield from _inflight(nic)
    for ring in nic.rings:
        yield _address(ring)
        yield calls.set_vring_base(ring.index, ring.base)
        yield calls.set_vring_call(ring.index, ring.call_fd)
        yield calls.set_vring_kick(ring.index, ring.kick_fd)
        if V.PROTOCOL_FEATURES in nic.features:
            yield calls.set_vring_enable(ring.index, True)


def _cloud_hypervisor_stop(nic: Nic) -> Script[None]:
    for ring in nic.rings:
        if V.PROTOCOL_FEATURES in nic.features:
            yield calls.set_vring_enable(ring.index, False)
        yield from _stop_ring(nic, ring)


_NEGOTIATE = {
    Order.QEMU: _qemu_negotiate,
    Order.VIRTIO_USER: _virtio_user_negotiate,
    Order.CLOUD_HYPERVISOR: _cloud_hypervisor_negotiate,
}
_START = {
    Order.QEMU: _qemu_start,
    Order.VIRTIO_USER: _virtio_user_start,
    Order.CLOUD_HYPERVISOR: _cloud_hypervisor_start,
}
_STOP = {
    Order.QEMU: _qemu_stop,
    Order.VIRTIO_USER: _virtio_user_stop,
    Order.CLOUD_HYPERVISOR: _cloud_hypervisor_stop,
}
