"""The dirty log's mapping: where C marks what it wrote while a guest migrates."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

from vhostuser.datapath._datapath import ffi, lib
from vhostuser.datapath.reaper import reaper
from vhostuser.errors import RequestError
from vhostuser.memory.log_window import check_log_window
from vhostuser.memory.regions import map_window

if TYPE_CHECKING:
    from vhostuser.datapath._datapath import _Log


class DirtyLog:
    """``size`` bytes of bits at ``offset`` of a file. Owns the mapping until `close`.

    Takes ``fd``, also when it raises. Raises RequestError when the file does not hold that many, or cannot be
    mapped.
    """

    def __init__(self, fd: int, size: int, offset: int) -> None:
        self._log: _Log = ffi.NULL
        try:
            page_size = max(os.fstatvfs(fd).f_bsize, mmap.PAGESIZE)
            check_log_window(size, offset, os.fstat(fd).st_size)
            plan = map_window(offset, size, page_size)
            failed = ffi.new("int *")
            self._log = lib.vu_log_map(fd, *plan, size, failed)
            if self._log == ffi.NULL:
                raise RequestError(
                    f"log of {size:#x} bytes cannot be mapped read-write: {os.strerror(failed[0])}"
                )
        finally:
            reaper.close([fd])

    @property
    def handle(self) -> _Log:
        return self._log

    @property
    def outside(self) -> int:
        """Bytes written to addresses beyond the log."""
        return lib.vu_log_outside(self._log)

    def close(self) -> None:
        """No device may use it any more."""
        log, self._log = self._log, ffi.NULL
        if log != ffi.NULL:
            reaper.submit(lambda: lib.vu_log_free(log))
