"""A userfaultfd of ours, and the memory whose missing pages it reports to the front-end."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from vhostuser.datapath._datapath import lib
from vhostuser.errors import RequestError

if TYPE_CHECKING:
    from vhostuser.datapath.mapping import MappedMemory


class PageFaults:
    """Owns its fd until `close`. Raises OSError when the kernel has none for us.

    Nothing here waits for a page.
    """

    def __init__(self) -> None:
        self._fd = lib.vu_uffd_open()
        if self._fd < 0:
            raise OSError(-self._fd, os.strerror(-self._fd))

    def copy_fd(self) -> int:
        """A duplicate for the front-end, who reads it and fills pages in; the caller's to close."""
        return os.dup(self._fd)

    def register(self, memory: MappedMemory) -> None:
        """A table that was mapped ``late`` can be touched now: whoever does, waits for the front-end.

        Raises RequestError when the kernel cannot do that with some region's file; nothing may touch it then.
        """
        error = lib.vu_memory_register(memory.borrowed, self._fd)
        if error:
            raise RequestError(f"page faults in this memory cannot be reported: {os.strerror(-error)}")

    def unregister(self, memory: MappedMemory) -> None:
        """Pages that never came are zeros; who waits for one goes on at once."""
        lib.vu_memory_unregister(memory.borrowed, self._fd)

    def cut(self, memory: MappedMemory) -> None:
        """The front-end has gone: who waits for a page or touches one has a fault as in truncated memory.

        Ends this object's life, and returns at once: a thread does it, in 80 ms for each GiB that was touched
        (seen).
        """
        handle, fd, self._fd = memory.handle, self._fd, -1

        def work() -> None:
            lib.vu_memory_cut(handle, fd)
            lib.vu_memory_put(handle)
            os.close(fd)

        try:
            threading.Thread(target=work, name="vhostuser-cut", daemon=True).start()
        except RuntimeError:  # the kernel has no thread for us: better late than never
            work()

    def close(self) -> None:
        """Every table must be unregistered or cut. The front-end has a descriptor of its own still."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
