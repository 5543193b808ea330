from __future__ import annotations

import pytest

from vhostuser.wire.constants import BackendRequest, Request
from vhostuser.wire.messages import U64, Empty, FdBag, Message, Reply, request_name


def test_bag_gives_fds_in_order_and_once() -> None:
    bag = FdBag([7, 8, 9])
    assert bag.take() == 7
    assert bag.take_all() == [8, 9]
    assert len(bag) == 0
    assert bag.drain() == []


def test_bag_keeps_what_nobody_takes() -> None:
    bag = FdBag([7])
    bag.add([8])
    bag.take()
    assert len(bag) == 1
    assert bag.drain() == [8]


def test_bag_takes_fd_0_for_an_fd() -> None:
    """A process that closed its stdin gets 0 for the next one."""
    assert FdBag([0]).take() == 0


def test_bag_that_is_empty_gives_nothing() -> None:
    with pytest.raises(IndexError):
        FdBag().take()


def test_bag_shows_its_numbers() -> None:
    assert repr(FdBag([3, 4])) == "FdBag([3, 4])"


def test_messages_do_not_share_a_bag() -> None:
    first, second = Message(Request.SET_OWNER, Empty()), Message(Request.SET_OWNER, Empty())
    first.fds.add([3])
    assert len(second.fds) == 0


def test_names() -> None:
    assert Message(Request.SET_OWNER, Empty()).name == "SET_OWNER"
    assert Message(77, Empty()).name == "request 77"
    assert request_name(BackendRequest.VRING_CALL) == "VRING_CALL"


def test_reply_has_no_fds_unless_it_is_given_some() -> None:
    assert Reply(Request.GET_FEATURES, U64(1)).fds == ()
