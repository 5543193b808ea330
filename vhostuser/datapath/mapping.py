"""The mappings of one memory table: the region fds, and what C has mapped of them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vhostuser.datapath._datapath import ffi, lib
from vhostuser.datapath.reaper import reaper
from vhostuser.errors import RequestError
from vhostuser.memory.regions import RegionTable, check_file, map_plan
from vhostuser.wire.payloads import MemoryRegion

if TYPE_CHECKING:
    from vhostuser.datapath._datapath import _Memory


class MappedMemory:
    """A memory table that is mapped. Owns one reference to C's until `close`.

    Tables that are made from one another share what they have in common: a region is mapped once, and given
    back with the last table that has it. The fds are taken, also with RequestError, and closed with the
    mapping; RequestError when a file is too small, cannot be mapped, or the table contradicts itself.
    """

    def __init__(self, regions: Sequence[MemoryRegion], fds: Sequence[int], *, late: bool = False) -> None:
        """``late``: nothing may touch it until `PageFaults.register`."""
        self._memory: _Memory = ffi.NULL
        try:
            self.table = RegionTable(regions)
            self._files = dict(zip(regions, map(_file_of, fds), strict=True))
            self._memory = _map_all(self.table.regions, fds, late)
        finally:
            if self._memory == ffi.NULL:
                reaper.close(fds)

    @classmethod
    def _made(
        cls, table: RegionTable, files: dict[MemoryRegion, tuple[int, int]], memory: _Memory
    ) -> MappedMemory:
        made = cls.__new__(cls)
        made.table, made._files, made._memory = table, files, memory
        return made

    def has(self, region: MemoryRegion, fd: int) -> bool:
        """Whether just this region of just this file is in the table."""
        return self._files.get(region) == _file_of(fd)

    def plus(self, region: MemoryRegion, fd: int) -> MappedMemory:
        """A table with one more region; takes ``fd`` as the constructor does. Nothing else is mapped anew."""
        memory = ffi.NULL
        try:
            table = self.table.plus(region)
            setup, failed_errno = ffi.new("struct vu_region_setup *"), ffi.new("int *")
            _describe(setup, region, fd)
            memory = lib.vu_memory_plus(self._memory, setup, failed_errno)
            if memory == ffi.NULL:
                raise _cannot_be_mapped(len(self.table.regions), region, failed_errno[0])
            return self._made(table, self._files | {region: _file_of(fd)}, memory)
        finally:
            if memory == ffi.NULL:
                reaper.close([fd])

    def minus(self, region: MemoryRegion) -> MappedMemory | None:
        """A table without this region, None if that leaves nothing. RequestError if it is not in this one."""
        table = self.table.minus(region)
        if table is None:
            return None
        memory = lib.vu_memory_minus(self._memory, region.gpa)
        if memory == ffi.NULL:
            raise MemoryError
        files = {kept: self._files[kept] for kept in table.regions}
        return self._made(table, files, memory)

    @property
    def handle(self) -> _Memory:
        """A new reference to C's `struct vu_memory`, for vu_device_set_memory to take over."""
        lib.vu_memory_get(self._memory)
        return self._memory

    @property
    def borrowed(self) -> _Memory:
        """C's `struct vu_memory` itself, for a call that keeps no reference."""
        return self._memory

    def base_of(self, region: MemoryRegion) -> int:
        """Where a region of the table begins in our address space."""
        return lib.vu_memory_base(self._memory, region.gpa)

    def close(self) -> None:
        """Drops the reference; what no other table has is unmapped and closed, in its own time (`reaper`)."""
        memory, self._memory = self._memory, ffi.NULL
        if memory != ffi.NULL:
            reaper.submit(lambda: lib.vu_memory_put(memory))


def live_regions() -> int:
    """Regions mapped by this process now; 0 after the last front-end has gone."""
    return lib.vu_memory_live_regions()


def _map_all(regions: Sequence[MemoryRegion], fds: Sequence[int], late: bool) -> _Memory:
    setups = ffi.new("struct vu_region_setup[]", len(regions))
    for region, fd, setup in zip(regions, fds, setups, strict=True):
        _describe(setup, region, fd)
        setup.late = late
    failed_region, failed_errno = ffi.new("uint32_t *"), ffi.new("int *")
    memory: _Memory = lib.vu_memory_map(setups, len(regions), failed_region, failed_errno)
    if memory == ffi.NULL:
        raise _cannot_be_mapped(failed_region[0], regions[failed_region[0]], failed_errno[0])
    return memory


def _file_of(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _describe(setup: Any, region: MemoryRegion, fd: int) -> None:
    """Fills C's description in, when the file holds the region."""
    page_size = max(os.fstatvfs(fd).f_bsize, mmap.PAGESIZE)  # hugetlbfs: its huge page
    check_file(region, os.fstat(fd).st_size, page_size)
    setup.gpa, setup.size, setup.uva = region.gpa, region.size, region.uva
    setup.map_offset, setup.map_length, setup.map_delta = map_plan(region, page_size)
    setup.fd = fd


def _cannot_be_mapped(number: int, region: MemoryRegion, error: int) -> RequestError:
    return RequestError(
        f"region {number} (guest address {region.gpa:#x}, {region.size} bytes) cannot be mapped read-write: "
        f"{os.strerror(error)}"
    )
