from __future__ import annotations

import pytest

from vhostuser.session.session import REQUEST_GROUPS
from vhostuser.wire.constants import BackendRequest, Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.payloads import VringAddr, VringArea, VringFd, VringState
from vhostuser.wire.requests import (
    BACKEND_REQUESTS,
    FRONTEND_REQUESTS,
    Fds,
    ReplyKind,
    RequestRow,
    RingRule,
)

ALL_ROWS = [*FRONTEND_REQUESTS.values(), *BACKEND_REQUESTS.values()]

SERVED = {*range(1, 26), 28, 29, 30, 31, 32, 34, 35, 36, 37, 38, 39, 40, 42, 43, 45}


def test_every_request_has_a_row_under_its_number() -> None:
    assert {row.request for row in FRONTEND_REQUESTS.values()} == set(Request)
    assert {row.request for row in BACKEND_REQUESTS.values()} == set(BackendRequest)
    assert all(number == row.request for number, row in FRONTEND_REQUESTS.items())


def test_these_are_served_and_no_others() -> None:
    assert {number for number, row in FRONTEND_REQUESTS.items() if row.handler} == SERVED
    assert not any(row.handler for row in BACKEND_REQUESTS.values())


@pytest.mark.parametrize("row", [row for row in ALL_ROWS if row.handler], ids=lambda row: row.name)
def test_a_handler_is_a_method_of_one_group(row: RequestRow) -> None:
    assert row.handler is not None
    assert [callable(vars(group)[row.handler]) for group in REQUEST_GROUPS if row.handler in vars(group)] == [
        True
    ]


def test_every_method_of_a_group_is_the_handler_of_a_row() -> None:
    methods = {name for group in REQUEST_GROUPS for name in vars(group) if not name.startswith("_")}

    assert methods == {row.handler for row in ALL_ROWS if row.handler}


def test_questions_change_nothing_that_runs() -> None:
    questions = {number for number, row in FRONTEND_REQUESTS.items() if row.is_question}
    assert questions == {1, 15, 17, 28, 30, 36, 40, 43, 44}


def test_these_are_answered_with_a_payload_of_their_own() -> None:
    """An acknowledgement on top of it would desynchronise the stream, whatever NEED_REPLY says."""
    own = {number for number, row in FRONTEND_REQUESTS.items() if row.reply is ReplyKind.OWN}
    always = {number for number, row in FRONTEND_REQUESTS.items() if row.reply is ReplyKind.ALWAYS_U64}
    assert own == {1, 11, 15, 17, 24, 26, 28, 31, 36, 40, 41, 44, 45}
    assert always == {22, 30, 42, 43}
    assert FRONTEND_REQUESTS[Request.SET_LOG_BASE].reply is ReplyKind.OWN_WITH_LOG_SHMFD
    assert FRONTEND_REQUESTS[Request.SET_MEM_TABLE].reply is ReplyKind.OWN_IN_POSTCOPY
    assert FRONTEND_REQUESTS[Request.ADD_MEM_REG].reply is ReplyKind.OWN_IN_POSTCOPY


def test_these_bring_fds() -> None:
    bring = {number for number, row in FRONTEND_REQUESTS.items() if row.fds is not Fds.NONE}
    assert bring == {5, 6, 7, 12, 13, 14, 21, 32, 33, 37, 38, 42}


def test_a_row_that_names_a_ring_has_a_payload_with_an_index() -> None:
    ringed = {row.name for row in ALL_ROWS if row.ring is not RingRule.NONE}
    indexed = {row.name for row in ALL_ROWS if set(row.payload) & {VringState, VringAddr, VringFd, VringArea}}
    assert ringed == indexed


def test_mtu_and_enable_count_from_the_offer_on() -> None:
    """QEMU sends both before SET_FEATURES."""
    mtu = FRONTEND_REQUESTS[Request.NET_SET_MTU].gate
    enable = FRONTEND_REQUESTS[Request.SET_VRING_ENABLE].gate
    assert (mtu.protocol, mtu.offered, mtu.acked) == (P.MTU, V.MTU, V(0))
    assert (enable.protocol, enable.offered, enable.acked) == (P(0), V.PROTOCOL_FEATURES, V(0))
