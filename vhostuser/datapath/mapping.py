"""The mappings of one memory table: the region fds, and what C has mapped of them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vhostuser.datapath._datapath import ffi, lib
from vhostuser.datapath.reaper import reaper
from vhostuser.errors import RequestError
from vhostuser.memory.regions import RegionTable, check_file, map_plan
from vhostuser.wire.payloads import MemoryRegion

if TYPE_CHECKING:
    from vhostuser.datapath._datapath import _Memory


class MappedMemory:
    """A memory table that is mapped. Owns the fds and one reference to the mapping until `close`.

    Raises RequestError when a file is too small, cannot be mapped, or the table contradicts itself; the fds
    are closed then.
    """

    def __init__(self, regions: Sequence[MemoryRegion], fds: Sequence[int]) -> None:
        self._fds = list(fds)
        self._memory: _Memory = ffi.NULL
        try:
            self.table = RegionTable(regions)
            self._memory = self._map()
        except BaseException:
            self.close()
            raise

    def _map(self) -> _Memory:
        setups = ffi.new("struct vu_region_setup[]", max(len(self._fds), 1))
        for region, fd, setup in zip(self.table.regions, self._fds, setups, strict=False):
            page_size = max(os.fstatvfs(fd).f_bsize, mmap.PAGESIZE)  # hugetlbfs: its huge page
            check_file(region, os.fstat(fd).st_size, page_size)
            plan = map_plan(region, page_size)
            setup.gpa, setup.size, setup.uva = region.gpa, region.size, region.uva
            setup.map_offset, setup.map_length, setup.map_delta = plan
            setup.fd = fd
        failed_region, failed_errno = ffi.new("uint32_t *"), ffi.new("int *")
        memory: _Memory = lib.vu_memory_map(setups, len(self._fds), failed_region, failed_errno)
        if memory == ffi.NULL:
            region = self.table.regions[failed_region[0]]
            raise RequestError(
                f"region {failed_region[0]} (guest address {region.gpa:#x}, {region.size} bytes) cannot be "
                f"mapped read-write: {os.strerror(failed_errno[0])}"
            )
        return memory

    @property
    def handle(self) -> _Memory:
        """A new reference to C's `struct vu_memory`, for vu_device_set_memory to take over."""
        lib.vu_memory_get(self._memory)
        return self._memory

    def close(self) -> None:
        """Drops the reference and closes the fds; where that takes long, later (`reaper`)."""
        memory, fds = self._memory, self._fds
        self._memory, self._fds = ffi.NULL, []

        def give_back() -> None:
            # The mapping first: it is what keeps an fd's file alive, and C looks at the fds until then.
            if memory != ffi.NULL:
                lib.vu_memory_put(memory)
            for fd in fds:
                os.close(fd)

        if fds or memory != ffi.NULL:
            reaper.submit(give_back)


def live_regions() -> int:
    """Regions mapped by this process now; 0 after the last front-end has gone."""
    return lib.vu_memory_live_regions()
