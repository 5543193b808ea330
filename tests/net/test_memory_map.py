from __future__ import annotations

import os

import pytest

from tests.conftest import live_regions
from tests.net.device_rig import Rig
from vhostuser.errors import RequestError
from vhostuser.wire.payloads import MemoryRegion


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
