"""Pages that come late: the source of a postcopy migration, played on memory that is all here.

`take` moves the content of pages out of the guest's memory; a thread puts each back when the back-end touches
it, as QEMU does from the other host.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import struct
import threading
from collections.abc import Sequence
from types import TracebackType

from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.wire.messages import MemoryRegion

_MESSAGE = struct.Struct("=B7xQQ8x")
"""struct uffd_msg of linux/userfaultfd.h: event, flags, address."""
_PAGEFAULT = 0x12
_COPY = struct.Struct("=QQQQq")
"""struct uffdio_copy: to, from, length, mode, bytes copied."""
_UFFDIO_COPY = 0xC028AA03
_UFFDIO_WAKE = 0x8010AA02


class LatePages:
    """Serves the faults of one userfaultfd from `start` to `close`; owns the fd. A context manager.

    While `gate` is cleared no page comes. ``bases`` are the regions as the back-end mapped them.
    """

    def __init__(self, memory: GuestMemory, uffd: int, bases: Sequence[MemoryRegion]) -> None:
        self._memory = memory
        self._page = memory.page_size
        self._uffd = uffd
        self.bases = bases
        self._taken: dict[int, bytes] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[int] = []
        """Guest addresses of the pages that the back-end waited for, in order."""
        self.strange: list[int] = []
        """Addresses in none of the regions: nobody knows what should be there, and nothing comes."""
        self._stop_fd = os.eventfd(0)
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="late-pages")
        self._thread.start()

    def __enter__(self) -> LatePages:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread and closes the fd; pages that have not come will not."""
        if self._stopping:
            return
        self._stopping = True
        os.eventfd_write(self._stop_fd, 1)
        self.gate.set()
        self._thread.join()
        os.close(self._stop_fd)
        os.close(self._uffd)

    def take(self, at: int, length: int) -> None:
        """The pages of this range, in a driver's addresses, come late, with what they hold now.

        Nobody here may touch them before.
        """
        for page in range(at // self._page * self._page, at + length, self._page):
            self._taken[self._memory.guest_address(page)] = self._memory.read(page, self._page)
            self._memory.punch(page, self._page)

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._uffd, select.POLLIN)
        poll.register(self._stop_fd, select.POLLIN)
        while not self._stopping:
            poll.poll()
            try:
                message = os.read(self._uffd, _MESSAGE.size)
            except BlockingIOError:
                continue
            event, _, address = _MESSAGE.unpack(message)
            if event == _PAGEFAULT:
                self._fill(address // self._page * self._page)

    def _fill(self, address: int) -> None:
        gpa = self._guest_address(address)
        if gpa is None:
            self.strange.append(address)
            return
        self.asked.append(gpa)
        self.gate.wait()
        if self._stopping:
            return
        content = ctypes.create_string_buffer(self._taken.pop(gpa, bytes(self._page)), self._page)
        copy = bytearray(_COPY.pack(address, ctypes.addressof(content), self._page, 0, 0))
        try:
            fcntl.ioctl(self._uffd, _UFFDIO_COPY, copy)
        except OSError as error:
            if error.errno != errno.EEXIST:
                return  # the back-end has let go of the memory
            fcntl.ioctl(self._uffd, _UFFDIO_WAKE, bytearray(struct.pack("=QQ", address, self._page)))

    def _guest_address(self, address: int) -> int | None:
        for region in self.bases:
            if region.uva <= address < region.uva + region.size:
                return region.gpa + address - region.uva
        return None
