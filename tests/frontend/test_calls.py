"""Requests as values: what each sends, and how its answer is read."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from vhostuser.errors import PeerError
from vhostuser.frontend import calls
from vhostuser.frontend.calls import Call
from vhostuser.frontend.guest_memory import GuestMemory, Region
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

REGION = MemoryRegion(gpa=0, size=4096, uva=0x1000, mmap_offset=0)
LAYOUT = Inflight(4096, 0, 2, 256)

SENT: list[tuple[Call[Any], Request, Payload, tuple[int, ...]]] = [
    (calls.get_features(), Request.GET_FEATURES, Empty(), ()),
    (calls.set_features(5), Request.SET_FEATURES, U64(5), ()),
    (calls.get_protocol_features(), Request.GET_PROTOCOL_FEATURES, Empty(), ()),
    (calls.set_protocol_features(9), Request.SET_PROTOCOL_FEATURES, U64(9), ()),
    (calls.set_owner(), Request.SET_OWNER, Empty(), ()),
    (calls.reset_owner(), Request.RESET_OWNER, Empty(), ()),
    (calls.reset_device(), Request.RESET_DEVICE, Empty(), ()),
    (calls.get_queue_num(), Request.GET_QUEUE_NUM, Empty(), ()),
    (calls.get_status(), Request.GET_STATUS, Empty(), ()),
    (calls.set_status(15), Request.SET_STATUS, U64(15), ()),
    (calls.set_backend_req_fd(7), Request.SET_BACKEND_REQ_FD, Empty(), (7,)),
    (calls.set_mem_table(MemTable((REGION,)), [7]), Request.SET_MEM_TABLE, MemTable((REGION,)), (7,)),
    (calls.add_mem_reg(REGION, 7), Request.ADD_MEM_REG, SingleRegion(REGION), (7,)),
    (calls.rem_mem_reg(REGION), Request.REM_MEM_REG, SingleRegion(REGION), ()),
    (calls.get_max_mem_slots(), Request.GET_MAX_MEM_SLOTS, Empty(), ()),
    (calls.set_log_base(8192, 64, 7), Request.SET_LOG_BASE, Log(8192, 64), (7,)),
    (calls.set_log_fd(7), Request.SET_LOG_FD, Empty(), (7,)),
    (calls.iotlb_msg(Iotlb(1, 2, 3, 3, 2)), Request.IOTLB_MSG, Iotlb(1, 2, 3, 3, 2), ()),
    (calls.set_vring_num(1, 256), Request.SET_VRING_NUM, VringState(1, 256), ()),
    (
        calls.set_vring_addr(1, 0x10, 0x20, 0x30, flags=1, log=0x40),
        Request.SET_VRING_ADDR,
        VringAddr(index=1, flags=1, desc=0x10, used=0x20, avail=0x30, log=0x40),
        (),
    ),
    (calls.set_vring_base(1, 9), Request.SET_VRING_BASE, VringState(1, 9), ()),
    (calls.get_vring_base(1), Request.GET_VRING_BASE, VringState(1, 0), ()),
    (calls.get_vring_base_skip_drain(1), Request.GET_VRING_BASE_SKIP_DRAIN, VringState(1, 0), ()),
    (calls.set_vring_kick(1, 7), Request.SET_VRING_KICK, VringFd(1, True), (7,)),
    (calls.set_vring_kick(1, None), Request.SET_VRING_KICK, VringFd(1, False), ()),
    (calls.set_vring_call(1, 0), Request.SET_VRING_CALL, VringFd(1, True), (0,)),
    (calls.set_vring_err(1, None), Request.SET_VRING_ERR, VringFd(1, False), ()),
    (calls.set_vring_enable(1, True), Request.SET_VRING_ENABLE, VringState(1, 1), ()),
    (calls.set_vring_endian(1, False), Request.SET_VRING_ENDIAN, VringState(1, 0), ()),
    (calls.vring_kick(1), Request.VRING_KICK, VringState(1, 0), ()),
    (calls.send_rarp(b"\x02\0\0\0\0\1"), Request.SEND_RARP, Rarp(b"\x02\0\0\0\0\1"), ()),
    (calls.net_set_mtu(1500), Request.NET_SET_MTU, U64(1500), ()),
    (calls.get_config(4, 8), Request.GET_CONFIG, Config(4, 8, 0, bytes(8)), ()),
    (calls.set_config(4, b"ab", 1), Request.SET_CONFIG, Config(4, 2, 1, b"ab"), ()),
    (calls.get_inflight_fd(2, 256), Request.GET_INFLIGHT_FD, Inflight(0, 0, 2, 256), ()),
    (calls.set_inflight_fd(LAYOUT, 7), Request.SET_INFLIGHT_FD, LAYOUT, (7,)),
    (calls.set_device_state_fd(1, 7), Request.SET_DEVICE_STATE_FD, TransferState(1, 0), (7,)),
    (calls.check_device_state(), Request.CHECK_DEVICE_STATE, Empty(), ()),
    (calls.postcopy_advise(), Request.POSTCOPY_ADVISE, Empty(), ()),
    (calls.postcopy_listen(), Request.POSTCOPY_LISTEN, Empty(), ()),
    (calls.postcopy_end(), Request.POSTCOPY_END, Empty(), ()),
]

NEVER_SENT = {
    Request.CREATE_CRYPTO_SESSION,
    Request.CLOSE_CRYPTO_SESSION,
    Request.GPU_SET_SOCKET,
    Request.GET_SHARED_OBJECT,
    Request.GET_SHMEM_CONFIG,
}
"""Requests of other kinds of device."""


@pytest.mark.parametrize(
    ("call", "request_", "payload", "fds"), SENT, ids=[f"{row[1].name}-{i}" for i, row in enumerate(SENT)]
)
def test_call_sends_its_request(
    call: Call[Any], request_: Request, payload: Payload, fds: tuple[int, ...]
) -> None:
    assert (call.request, call.payload, call.fds) == (request_, payload, fds)


def test_every_request_of_a_network_device_has_a_call() -> None:
    assert {row[1] for row in SENT} == set(Request) - NEVER_SENT


NO_REQUEST = ("memory_table", "map_mem_table", "confirm_mem_table")
"""The first is none, the others are SET_MEM_TABLE in postcopy: below."""


def test_tables_of_postcopy() -> None:
    table = MemTable((MemoryRegion(0, 4096, 1 << 40, 0),))
    mapped = MemTable((MemoryRegion(0, 4096, 1 << 30, 0),))

    offered = calls.map_mem_table(table, [7])
    assert (offered.request, offered.payload, offered.fds) == (Request.SET_MEM_TABLE, table, (7,))
    assert answer(offered, mapped) == mapped.regions
    confirmed = calls.confirm_mem_table()
    assert (confirmed.request, confirmed.payload) == (Request.SET_MEM_TABLE, U64(0))


def test_every_call_is_tried_here() -> None:
    functions = {
        name.upper()
        for name, member in inspect.getmembers(calls, inspect.isfunction)
        if member.__module__ == calls.__name__ and not name.startswith("_") and name not in NO_REQUEST
    }
    assert functions == {row[1].name for row in SENT}


def answer(call: Call[Any], payload: Payload, fds: tuple[int, ...] = ()) -> Any:
    return call.read(Reply(call.request, payload, fds))


def test_answers_are_read_as_what_they_mean() -> None:
    assert answer(calls.get_features(), U64(1 << 32)) is VirtioFeature.VERSION_1
    assert answer(calls.get_protocol_features(), U64(8)) is ProtocolFeature.REPLY_ACK
    assert answer(calls.get_queue_num(), U64(128)) == 128
    assert answer(calls.get_vring_base(1), VringState(1, 77)) == 77
    assert answer(calls.get_vring_base_skip_drain(1), VringState(1, 78)) == 78
    assert answer(calls.get_config(0, 2), Config(0, 2, 0, b"ab")) == b"ab"
    assert answer(calls.get_inflight_fd(2, 256), LAYOUT, (9,)) == (LAYOUT, 9)
    assert answer(calls.set_device_state_fd(0, 7), U64(0x100)) == 0x100
    assert answer(calls.postcopy_advise(), Empty(), (9,)) == 9
    assert answer(calls.postcopy_advise(), Empty()) is None


def test_acknowledgement_of_zero_and_none_at_all_are_fine() -> None:
    call = calls.set_owner()
    assert answer(call, U64(0)) is None
    assert call.read(None) is None


def test_refusal_names_the_request_and_the_value() -> None:
    with pytest.raises(PeerError, match="refused SET_FEATURES: 0x1"):
        answer(calls.set_features(0), U64(1))


def test_reply_of_another_shape_is_a_fault_of_the_peer() -> None:
    with pytest.raises(PeerError, match="where a U64 was due"):
        answer(calls.get_features(), Empty())


def test_inflight_region_without_its_fd_is_a_fault_of_the_peer() -> None:
    with pytest.raises(PeerError, match="without its fd"):
        answer(calls.get_inflight_fd(2, 256), LAYOUT)


def test_memory_table_describes_every_region() -> None:
    regions = [
        Region(gpa=0, size=4096, uva=0x5000),
        Region(gpa=1 << 32, size=8192, mmap_offset=4096, uva=0x9000),
    ]
    with GuestMemory(regions=regions) as memory:
        assert calls.memory_table(memory).regions == (
            MemoryRegion(gpa=0, size=4096, uva=0x5000, mmap_offset=0),
            MemoryRegion(gpa=1 << 32, size=8192, uva=0x9000, mmap_offset=4096),
        )
        assert [region.uva for region in calls.memory_table(memory, guest_addresses=True).regions] == [
            0,
            1 << 32,
        ]
