"""What a message order knows of the device."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.nic import Nic, Ring
from vhostuser.frontend.orders import Order
from vhostuser.frontend.ring_position import FIRST_BASE
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.payloads import Inflight


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory(1 << 20) as memory:
        yield memory


def nic(memory: GuestMemory, *, control: bool = False) -> Nic:
    rings = [Ring(index, 256, None, None, None, None, base=7) for index in range(4 + control)]
    return Nic(Order.QEMU, V.VERSION_1, 2, rings, memory)


def test_groups_are_the_pairs_and_the_control_ring(memory: GuestMemory) -> None:
    assert [[ring.index for ring in group] for group in nic(memory).groups] == [[0, 1], [2, 3]]
    assert [[ring.index for ring in group] for group in nic(memory, control=True).groups] == [
        [0, 1],
        [2, 3],
        [4],
    ]


@pytest.mark.parametrize(("features", "base"), [(V.VERSION_1, 0), (V.VERSION_1 | V.RING_PACKED, FIRST_BASE)])
def test_new_rings_begin_at_the_first_position_of_their_format(
    memory: GuestMemory, features: V, base: int
) -> None:
    device = nic(memory, control=True)
    device.features = features
    device.begin_anew()
    assert [ring.base for ring in device.rings] == [base] * 5


def test_dropping_the_inflight_region_closes_its_fd_once(memory: GuestMemory) -> None:
    device = nic(memory)
    device.inflight = (Inflight(8320, 0, 2, 256), os.memfd_create("inflight"))
    fd = device.inflight[1]
    device.drop_inflight()
    assert device.inflight is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    device.drop_inflight()
