"""Faults in memory that comes late: reported for loads and for system calls, and never a wait without end."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import struct
import threading
from collections.abc import Iterator

import pytest

from tests.conftest import live_regions, open_fds
from tests.datapath.test_mapping import memfd, region
from tests.site import wait
from vhostuser.datapath.mapping import MappedMemory
from vhostuser.datapath.page_faults import PageFaults
from vhostuser.datapath.reaper import reaper

PAGE = mmap.PAGESIZE
COPY = 0xC028AA03
libc = ctypes.CDLL(None, use_errno=True)


class Late:
    """One region of four pages, none of which is there, and who reads its userfaultfd."""

    def __init__(self) -> None:
        self.file = memfd()
        self.faults = PageFaults()
        self.memory = MappedMemory([region()], [os.dup(self.file)], late=True)
        self.base = self.memory.base_of(region())
        self.uffd = self.faults.copy_fd()
        self.result = 0

    def fault(self) -> int:
        """Where somebody waits."""
        assert select.select([self.uffd], [], [], 20)[0]
        event, address = struct.unpack("=B15xQ8x", os.read(self.uffd, 32))
        assert event == 0x12
        return int(address)

    def fill(self, address: int, content: bytes) -> None:
        source = ctypes.create_string_buffer(content, PAGE)
        fcntl.ioctl(self.uffd, COPY, struct.pack("=QQQQq", address, ctypes.addressof(source), PAGE, 0, 0))

    def write_from(self, page: int) -> threading.Thread:
        """A thread that writes four bytes of that page into a pipe: the kernel touches the memory."""

        def run() -> None:
            read_end, write_end = os.pipe()
            count = libc.write(write_end, ctypes.c_void_p(self.base + page * PAGE), ctypes.c_size_t(4))
            self.result = count if count > 0 else -ctypes.get_errno()
            self.written = os.read(read_end, 4) if count > 0 else b""
            os.close(read_end)
            os.close(write_end)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def close(self) -> None:
        self.memory.close()
        self.faults.close()
        os.close(self.uffd)
        os.close(self.file)


@pytest.fixture
def late() -> Iterator[Late]:
    before = open_fds().keys()
    late = Late()
    yield late
    late.close()
    assert reaper.wait(20)
    wait(lambda: open_fds().keys() <= before and live_regions() == 0)


def test_nothing_can_touch_it_before_it_is_registered(late: Late) -> None:
    thread = late.write_from(0)
    thread.join()

    assert late.result < 0
    assert not select.select([late.uffd], [], [], 0)[0]


def test_system_call_waits_for_the_page_that_it_touches(late: Late) -> None:
    late.faults.register(late.memory)
    thread = late.write_from(2)

    address = late.fault()
    assert address == late.base + 2 * PAGE
    late.fill(address, b"late")
    thread.join()
    assert (late.result, late.written) == (4, b"late")


def test_page_that_the_file_has_is_not_asked_for(late: Late) -> None:
    late.faults.register(late.memory)
    os.pwrite(late.file, b"here", PAGE)
    thread = late.write_from(1)
    thread.join()

    assert late.written == b"here"
    assert not select.select([late.uffd], [], [], 0)[0]


def test_unregistering_lets_go_of_who_waits_with_zeros(late: Late) -> None:
    late.faults.register(late.memory)
    thread = late.write_from(0)
    late.fault()

    late.faults.unregister(late.memory)
    thread.join()
    assert late.written == bytes(4)


def test_cutting_lets_go_of_who_waits_and_leaves_the_file_alone(late: Late) -> None:
    late.faults.register(late.memory)
    thread = late.write_from(0)
    late.fault()

    late.faults.cut(late.memory)
    thread.join()
    assert late.result == -14  # EFAULT
    assert os.fstat(late.file).st_blocks == 0
    # Also who comes afterwards.
    late.write_from(3).join()
    assert late.result == -14


def test_closing_ours_wakes_nobody_as_long_as_the_front_end_has_its_own(late: Late) -> None:
    """Which is why a front-end that goes away is no reason to rely on it."""
    late.faults.register(late.memory)
    thread = late.write_from(0)
    address = late.fault()
    late.faults.close()
    thread.join(0.1)

    assert thread.is_alive()
    late.fill(address, b"late")
    thread.join()


def test_kernel_without_one_for_us(monkeypatch: pytest.MonkeyPatch) -> None:
    class Denied:
        def vu_uffd_open(self) -> int:
            return -1

    monkeypatch.setattr("vhostuser.datapath.page_faults.lib", Denied())
    with pytest.raises(PermissionError):
        PageFaults()
