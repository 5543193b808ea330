from __future__ import annotations

import os

import pytest

from tests.conftest import live_regions, open_fds
from tests.net.device_rig import Rig
from vhostuser.datapath.worker import EventKind
from vhostuser.errors import RequestError
from vhostuser.frontend.virtqueue import Segment
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.payloads import Inflight, MemoryRegion


def test_memory_that_is_replaced_is_unmapped(rig: Rig) -> None:
    rig.start(1)
    before = live_regions()

    rig.say_memory()

    assert live_regions() == before
    assert rig.helper.jobs == []  # ports do not wait for it


def test_memory_table_that_is_refused_leaves_the_old_one(rig: Rig) -> None:
    rig.start(1)
    before = live_regions()
    fd = os.memfd_create("short")
    os.ftruncate(fd, 4096)

    with pytest.raises(RequestError, match="needs a file of"):
        rig.device.set_mem_table((MemoryRegion(0, 8192, 0x7000, 0),), [fd])

    assert live_regions() == before
    assert rig.settle() == []
    assert rig.device.idle_reasons() == {}


FAR = MemoryRegion(1 << 40, 4096, 0x1000, 0)


def memfd(size: int = 4096) -> int:
    fd = os.memfd_create("region")
    os.ftruncate(fd, size)
    return fd


def rows(rig: Rig) -> list[MemoryRegion]:
    return [MemoryRegion(row.gpa, row.size, row.uva or 0, row.mmap_offset) for row in rig.memory.regions]


def ring_region(rig: Rig, index: int) -> tuple[MemoryRegion, int]:
    """The row that a ring lies in, and its fd."""
    user = rig.virtqueue(index).user_place.desc
    row = next(n for n, region in enumerate(rows(rig)) if region.uva <= user < region.uva + region.size)
    return rows(rig)[row], rig.memory.fds()[row]


def test_rings_run_in_memory_that_came_region_by_region(rig: Rig) -> None:
    for name, say in rig.items(1).items():
        if name != "memory":
            say()
    assert rig.settle() == []
    assert rig.device.idle_reasons() == {1: "SET_MEM_TABLE or ADD_MEM_REG has not come yet"}

    for region, fd in zip(rows(rig), rig.memory.fds(), strict=True):
        rig.device.add_mem_reg(region, os.dup(fd))

    assert [event.kind for event in rig.settle()] == [EventKind.RING_STARTED]


def test_region_that_no_ring_lies_in_comes_and_goes_unnoticed(rig: Rig) -> None:
    rig.start(1)
    before = live_regions()

    rig.device.add_mem_reg(FAR, memfd())
    assert live_regions() == before + 1
    rig.device.rem_mem_reg(FAR)

    assert live_regions() == before
    assert rig.settle() == []
    assert rig.device.idle_reasons() == {}


def send(rig: Rig, count: int) -> None:
    queue = rig.virtqueue(1)
    for token in range(count):
        queue.add([Segment(rig.memory.alloc(64), 64)], [], token)
    queue.publish()


def test_ring_stops_with_its_region_and_goes_on_when_that_is_back(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.start(1)
    send(rig, 3)
    rig.device.set_vring_kick(1, os.eventfd(1))
    rig.settle()
    region, fd = ring_region(rig, 1)

    rig.device.rem_mem_reg(region)

    assert "ring 1 waits for its memory to come back: " in caplog.text
    assert f"user address {rig.virtqueue(1).user_place.desc:#x}" in rig.device.idle_reasons()[1]
    send(rig, 2)
    rig.device.add_mem_reg(FAR, memfd())  # it is not this that it waits for
    assert rig.settle() == []

    rig.device.add_mem_reg(region, os.dup(fd))

    (event,) = rig.settle()
    assert (event.kind, event.ring, event.values) == (EventKind.RING_STARTED, 1, (3, 3, 3, 5))
    assert rig.virtqueue(1).read_used_index() == 5
    assert rig.device.idle_reasons() == {}
    assert caplog.text.count("waits for its memory") == 1


def test_ring_that_waits_for_its_memory_can_be_stopped(rig: Rig) -> None:
    rig.start(1)
    send(rig, 3)
    rig.device.set_vring_kick(1, os.eventfd(1))
    rig.settle()
    rig.device.rem_mem_reg(ring_region(rig, 1)[0])

    assert rig.stop(1) == 3
    assert rig.device.idle_reasons() == {}


def test_addresses_that_are_said_again_are_tried_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.start(1)
    rig.device.rem_mem_reg(ring_region(rig, 1)[0])
    rig.settle()

    rig.items(1)["addr"]()
    rig.settle()

    assert "ring 1 does not start: ring part 0" in caplog.text


def test_memory_without_any_region_left_is_none(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.start(0, 1)

    for region in rows(rig):
        rig.device.rem_mem_reg(region)

    assert live_regions() == 0
    assert rig.settle() == []
    assert set(rig.device.idle_reasons().values()) == {"SET_MEM_TABLE or ADD_MEM_REG has not come yet"}
    assert caplog.text.count("waits for its memory to come back: ") == 2
    rig.say_memory()
    assert sorted(event.ring for event in rig.settle()) == [0, 1]


def test_what_is_refused_leaves_memory_and_rings_as_they_are(rig: Rig) -> None:
    rig.start(1)
    before, fds = live_regions(), open_fds()

    for region, size in ((rows(rig)[0], 1 << 20), (FAR, 4095)):  # the same region of another file
        with pytest.raises(RequestError):
            rig.device.add_mem_reg(region, memfd(size))
    with pytest.raises(RequestError, match="no region has 0x1000 bytes at guest address 0x10000000000"):
        rig.device.rem_mem_reg(FAR)

    assert (live_regions(), open_fds()) == (before, fds)
    assert rig.settle() == []
    assert rig.device.idle_reasons() == {}


def test_removal_before_there_is_any_memory_is_refused(rig: Rig) -> None:
    with pytest.raises(RequestError, match="there is no memory, so none of 0x1000 bytes at"):
        rig.device.rem_mem_reg(FAR)


def test_region_that_is_there_may_be_added_again(rig: Rig) -> None:
    """As QEMU 7.2 does it, once for each queue pair."""
    rig.start(1)
    before, fds = live_regions(), open_fds()

    for region, fd in zip(rows(rig), rig.memory.fds(), strict=True):
        rig.device.add_mem_reg(region, os.dup(fd))

    assert (live_regions(), open_fds()) == (before, fds)
    assert rig.settle() == []


def test_region_that_was_removed_may_be_removed_again(rig: Rig) -> None:
    rig.start(1)
    fd = memfd()
    for _ in range(2):
        rig.device.add_mem_reg(FAR, os.dup(fd))
    before = live_regions()
    for _ in range(3):
        rig.device.rem_mem_reg(FAR)
    assert live_regions() == before - 1

    # It can come back, and go once more; and when all is gone the last ones may go again.
    rig.device.add_mem_reg(FAR, fd)
    assert live_regions() == before
    for region in [*rows(rig), FAR] * 2:
        rig.device.rem_mem_reg(region)
    assert live_regions() == 0


def test_what_was_removed_is_forgotten_with_the_front_end_and_after_509_others(rig: Rig) -> None:
    for number in range(510):
        rig.device.add_mem_reg(MemoryRegion(number << 32, 4096, 0x1000, 0), memfd())
        rig.device.rem_mem_reg(MemoryRegion(number << 32, 4096, 0x1000, 0))
    rig.device.rem_mem_reg(MemoryRegion(1 << 32, 4096, 0x1000, 0))
    with pytest.raises(RequestError):
        rig.device.rem_mem_reg(MemoryRegion(0, 4096, 0x1000, 0))
    rig.device.disconnect()
    with pytest.raises(RequestError):
        rig.device.rem_mem_reg(MemoryRegion(1 << 32, 4096, 0x1000, 0))


def inflight_mappings() -> int:
    """Inflight regions mapped now, when those are unmapped that are on their way."""
    open_fds()
    with open("/proc/self/maps") as maps:
        return sum("memfd:vhostuser-inflight" in line for line in maps)


@pytest.mark.parametrize(("features", "part"), [(V.VERSION_1, 4160), (V.VERSION_1 | V.RING_PACKED, 8256)])
def test_inflight_region_is_of_the_negotiated_format(rig: Rig, features: V, part: int) -> None:
    rig.device.set_features(features)
    layout, fd = rig.device.get_inflight_fd(Inflight(7, 7, 4, 256, padded=False))

    assert layout == Inflight(4 * part, 0, 4, 256, padded=False)
    assert os.fstat(fd).st_size == layout.mmap_size
    os.close(fd)


def test_inflight_region_that_is_replaced_is_unmapped_and_its_fds_closed(rig: Rig) -> None:
    before = open_fds().keys()
    for _ in range(1000):
        _, fd = rig.device.get_inflight_fd(Inflight(0, 0, 256, 32768))
        os.close(fd)

    assert inflight_mappings() == 1
    assert open_fds().keys() == before
    rig.device.disconnect()
    assert inflight_mappings() == 0


def test_inflight_region_that_is_refused_leaves_the_old_one(rig: Rig) -> None:
    layout, fd = rig.device.get_inflight_fd(Inflight(0, 0, 2, 16))
    with pytest.raises(RequestError, match="needs a file of"):
        rig.device.set_inflight_fd(Inflight(layout.mmap_size + 64, 0, 2, 16), os.dup(fd))
    rig.start(1)

    assert os.pread(fd, 2, layout.mmap_size // 2 + 8) == (1).to_bytes(2, "little")
    os.close(fd)


def test_inflight_region_that_the_front_end_brings_is_used(rig: Rig) -> None:
    layout, fd = rig.device.get_inflight_fd(Inflight(0, 0, 2, 16))
    other, other_fd = rig.device.get_inflight_fd(Inflight(0, 0, 2, 16))
    assert other == layout
    rig.device.set_inflight_fd(layout, os.dup(fd))
    rig.start(1)

    versions = [os.pread(one, 2, layout.mmap_size // 2 + 8) for one in (fd, other_fd)]
    assert versions == [(1).to_bytes(2, "little"), bytes(2)]
    os.close(fd)
    os.close(other_fd)
