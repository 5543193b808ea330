from __future__ import annotations

import os

from vhostuser.net.notify_fd import NotifyFd
from vhostuser.net.ring_items import RingItems, fd_of
from vhostuser.session.states import RingState
from vhostuser.wire.payloads import VringAddr

ADDR = VringAddr(index=1, flags=0, desc=0x1000, used=0x3000, avail=0x2000, log=0)


def test_new_ring_lacks_everything() -> None:
    assert RingItems().missing() == ["SET_VRING_KICK", "SET_VRING_NUM", "SET_VRING_ADDR"]
    assert not RingItems().is_complete


def test_ring_is_complete_whatever_came_first() -> None:
    ring = RingItems(state=RingState.STARTED_DISABLED, size=256, addr=ADDR)

    assert ring.is_complete
    assert ring.missing() == []


def test_ring_that_was_refused_is_not_complete() -> None:
    assert not RingItems(state=RingState.STARTED_ENABLED, size=256, addr=ADDR, refusal="x").is_complete


def test_setup_passes_on_what_was_said() -> None:
    reader, writer = os.pipe()
    ring = RingItems(RingState.STARTED_ENABLED, 256, 7, ADDR, NotifyFd(reader), NotifyFd(os.eventfd(0)))

    setup = ring.setup()

    assert (setup.desc, setup.avail, setup.used) == (0x1000, 0x2000, 0x3000)
    assert (setup.size, setup.base) == (256, 7)
    assert (setup.kick_fd, setup.kick_is_drained) == (reader, True)
    assert (setup.call_fd, setup.err_fd) == (fd_of(ring.call), -1)
    ring.close()
    os.close(writer)


def test_close_kick_and_call_leaves_the_err_fd() -> None:
    ring = RingItems(kick=NotifyFd(os.eventfd(0)), call=NotifyFd(os.eventfd(0)), err=NotifyFd(os.eventfd(0)))

    ring.close_kick_and_call()

    assert (ring.kick, ring.call) == (None, None)
    assert fd_of(ring.err) >= 0
    ring.close()
    assert ring.err is None
