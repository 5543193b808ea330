from __future__ import annotations

import os

import pytest

from vhostuser.memory.regions import RegionTable
from vhostuser.net.notify_fd import NotifyFd
from vhostuser.net.ring_items import RingItems, fd_of
from vhostuser.session.states import RingState
from vhostuser.wire.payloads import MemoryRegion, VringAddr

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


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize(
    ("part", "split_bytes", "packed_bytes"),
    [("desc", 256 * 16, 256 * 16), ("avail", 6 + 2 * 256, 4), ("used", 6 + 8 * 256, 4)],
)
def test_each_part_has_to_be_in_memory_whole(
    part: str, split_bytes: int, packed_bytes: int, is_packed: bool
) -> None:
    start, length = 0x2000000, packed_bytes if is_packed else split_bytes
    # One part alone, at the very end of its region.
    place = {"desc": 0x1000000, "avail": 0x1002000, "used": 0x1004000} | {part: start + 0x2000 - length}
    ring = RingItems(size=256, addr=VringAddr(1, 0, place["desc"], place["used"], place["avail"], 0))
    rest = MemoryRegion(0, 0x10000, 0x1000000, 0)

    def table(size: int) -> RegionTable:
        return RegionTable([rest, MemoryRegion(0x100000, size, start, 0)])

    assert ring.outside(table(0x2000), is_packed) == ""
    assert f"{length} bytes at user address {place[part]:#x}" in ring.outside(table(0x1FFF), is_packed)


def test_ring_without_addresses_lies_nowhere_and_so_in_no_wrong_place() -> None:
    assert RingItems(size=256).outside(RegionTable([MemoryRegion(0, 1, 0, 0)]), False) == ""
