"""The played source of a postcopy migration, without a back-end."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator

import pytest

from vhostuser.datapath.mapping import MappedMemory
from vhostuser.datapath.page_faults import PageFaults
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.late_pages import LatePages
from vhostuser.wire.payloads import MemoryRegion

PAGE = 4096
libc = ctypes.CDLL(None)


class Backend:
    """Maps the memory a second time, and reads it in a system call, which waits for its pages."""

    def __init__(self, memory: GuestMemory) -> None:
        rows = [MemoryRegion(row.gpa, row.size, row.uva or 0, row.mmap_offset) for row in memory.regions]
        self.mapped = MappedMemory(rows, [os.dup(fd) for fd in memory.fds()], late=True)
        self.faults = PageFaults()
        self.faults.register(self.mapped)
        self.bases = [
            MemoryRegion(row.gpa, row.size, self.mapped.base_of(row), row.mmap_offset) for row in rows
        ]

    def read(self, gpa: int) -> bytes:
        base = next(row for row in self.bases if row.gpa <= gpa < row.gpa + row.size)
        read_end, write_end = os.pipe()
        libc.write(write_end, ctypes.c_void_p(base.uva + gpa - base.gpa), ctypes.c_size_t(4))
        content = os.read(read_end, 4)
        os.close(read_end)
        os.close(write_end)
        return content

    def close(self) -> None:
        self.faults.unregister(self.mapped)
        self.mapped.close()
        self.faults.close()


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory(1 << 20) as memory:
        yield memory


@pytest.fixture
def backend(memory: GuestMemory) -> Iterator[Backend]:
    backend = Backend(memory)
    yield backend
    backend.close()


def test_page_that_was_taken_comes_with_what_it_held(memory: GuestMemory, backend: Backend) -> None:
    memory.write(PAGE, b"page")
    high = memory.regions[1].gpa
    memory.write(high, b"high")
    with LatePages(memory, backend.faults.copy_fd(), backend.bases) as late:
        late.take(PAGE, 1)
        late.take(high, 1)

        assert backend.read(PAGE) == b"page"
        assert backend.read(high) == b"high"
        assert late.asked == [PAGE, high]
        assert memory.read(PAGE, 4) == b"page"


def test_page_that_nobody_wrote_comes_as_zeros(memory: GuestMemory, backend: Backend) -> None:
    with LatePages(memory, backend.faults.copy_fd(), backend.bases) as late:
        assert backend.read(2 * PAGE) == bytes(4)
        assert late.asked == [2 * PAGE]


def test_no_page_comes_while_the_gate_is_cleared(memory: GuestMemory, backend: Backend) -> None:
    got: list[bytes] = []
    with LatePages(memory, backend.faults.copy_fd(), backend.bases) as late:
        late.gate.clear()
        thread = threading.Thread(target=lambda: got.append(backend.read(PAGE)))
        thread.start()
        thread.join(0.05)
        assert got == []
        late.gate.set()
        thread.join()
    assert got == [bytes(4)]


def test_closing_twice_does_nothing(memory: GuestMemory, backend: Backend) -> None:
    late = LatePages(memory, backend.faults.copy_fd(), backend.bases)
    late.close()
    late.close()
