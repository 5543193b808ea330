"""The inflight region's file and mapping: where C says how far each ring is, for who serves it next."""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import TYPE_CHECKING

from vhostuser.datapath._datapath import ffi, lib
from vhostuser.datapath.reaper import reaper
from vhostuser.errors import RequestError
from vhostuser.memory.inflight import check_region
from vhostuser.memory.regions import map_window
from vhostuser.wire.payloads import Inflight

if TYPE_CHECKING:
    from vhostuser.datapath._datapath import _Inflight


def make_file(size: int) -> int:
    """A file of zeros, which say that nobody has used it yet, sealed to that size; the fd is the caller's.

    It takes memory only where rings use it. Raises RequestError when the kernel has no file to give.
    """
    try:
        fd = os.memfd_create("vhostuser-inflight", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise RequestError(f"no inflight region of {size:#x} bytes: {error.strerror}") from error
    return fd


class InflightRegion:
    """A region that is mapped. Owns the mapping until `close`.

    Takes ``fd``, also when it raises. Raises RequestError when the numbers make no sense for rings of that
    format, when the file does not hold as much, or cannot be mapped.
    """

    def __init__(self, fd: int, layout: Inflight, is_packed: bool) -> None:
        self._inflight: _Inflight = ffi.NULL
        try:
            check_region(layout, os.fstat(fd).st_size, is_packed)
            page_size = max(os.fstatvfs(fd).f_bsize, mmap.PAGESIZE)
            plan = map_window(layout.mmap_offset, layout.mmap_size, page_size)
            failed = ffi.new("int *")
            self._inflight = lib.vu_inflight_map(
                fd, *plan, layout.mmap_size, layout.num_queues, layout.queue_size, failed
            )
            if self._inflight == ffi.NULL:
                raise RequestError(
                    f"inflight region of {layout.mmap_size:#x} bytes cannot be mapped read-write: "
                    f"{os.strerror(failed[0])}"
                )
        finally:
            reaper.close([fd])

    @property
    def handle(self) -> _Inflight:
        return self._inflight

    def close(self) -> None:
        """No device may use it any more."""
        inflight, self._inflight = self._inflight, ffi.NULL
        if inflight != ffi.NULL:
            reaper.submit(lambda: lib.vu_inflight_free(inflight))
