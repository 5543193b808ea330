from __future__ import annotations

from vhostuser.wire import constants as c


def test_request_numbers_have_no_hole() -> None:
    assert [int(request) for request in c.Request] == list(range(1, 46))
    assert [int(request) for request in c.BackendRequest] == list(range(1, 11))


def test_request_numbers_that_every_peer_uses() -> None:
    """As in the specification's list; a shift by one would be invisible to a test of our two ends."""
    assert c.Request.SET_VRING_KICK.value == 12
    assert c.Request.SET_VRING_ENABLE.value == 18
    assert c.Request.SET_BACKEND_REQ_FD.value == 21
    assert c.Request.GET_CONFIG.value == 24
    assert c.Request.RESET_DEVICE.value == 34
    assert c.Request.ADD_MEM_REG.value == 37
    assert c.Request.GET_STATUS.value == 40
    assert c.Request.SET_DEVICE_STATE_FD.value == 42
    assert c.BackendRequest.CONFIG_CHANGE_MSG.value == 2
    assert c.BackendRequest.SHARED_OBJECT_LOOKUP.value == 8


def test_reply_flags_are_what_qemu_compares_with() -> None:
    assert c.REPLY_FLAGS == 0x5
    assert c.REQUEST_FLAGS == 0x9
