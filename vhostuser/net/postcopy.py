"""A device whose guest memory comes page by page: who may wait for a page, and who never does.

From POSTCOPY_LISTEN to POSTCOPY_END every touch of guest memory may last as long as the front-end likes. The
device's pairs are then on a worker of their own, the only one that waits. Nobody waits for that worker: what
changes the device is done by `when_quiet`, at once or when the worker next is between two turns. POSTCOPY_END
and the end of the connection come first, for they let go of who waits for a page.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from vhostuser.datapath.mapping import MappedMemory
from vhostuser.datapath.page_faults import PageFaults
from vhostuser.datapath.vring import PacketDevice
from vhostuser.datapath.worker import Worker
from vhostuser.errors import EnvironmentLacksError, RequestError
from vhostuser.wire.payloads import MemoryRegion


class WorkerLender(Protocol):
    """Who has workers that run, beside those that every device shares."""

    def lend(self, on_quiet: Callable[[], None]) -> Worker:
        """A new one, on a thread of its own. ``on_quiet`` is called where the device lives whenever it has
        left a turn and is held. Raises EnvironmentLacksError."""

    def take_back(self, worker: Worker) -> None:
        """Ends its thread after the turn that it is in. It must have no pairs any more."""


class Postcopy:
    """The postcopy of one device, from one POSTCOPY_ADVISE to its POSTCOPY_END or `leave`."""

    def __init__(
        self, packet: PacketDevice, lender: WorkerLender | None, log: logging.LoggerAdapter[logging.Logger]
    ) -> None:
        self._packet = packet
        self._lender = lender
        self._log = log
        self._faults: PageFaults | None = None
        self._mapped: MappedMemory | None = None
        """The table that the front-end has yet to confirm."""
        self._worker: Worker | None = None
        self._home: Sequence[Worker] = ()
        """Where the pairs go afterwards."""
        self.is_cut = False
        """The front-end has gone, and faults in its memory are no news."""
        self._waiting: list[Callable[[], None]] = []
        """What is to be done when the worker is quiet; it is held as long as there is any."""

    # What the front-end says

    def advise(self) -> int | None:
        self._forget_faults()
        try:
            self._faults = PageFaults()
            return self._faults.copy_fd()
        except OSError as error:
            self._log.error(
                "no postcopy: the kernel gives us no userfaultfd (%s); it takes CAP_SYS_PTRACE, access to "
                "/dev/userfaultfd, or vm.unprivileged_userfaultfd=1",
                error.strerror,
            )
            return None

    def listen(self, memory: MappedMemory | None) -> None:
        if memory is not None:
            raise RequestError("comes after guest memory, of which pages may have been touched")
        assert self._lender is not None, "postcopy is offered only where workers can be lent"
        try:
            self._worker = self._lender.lend(self._on_quiet)
        except EnvironmentLacksError as error:
            raise RequestError(str(error)) from None
        self._home = self._packet.workers
        self._packet.move([self._worker])

    def map(self, regions: tuple[MemoryRegion, ...], fds: list[int]) -> tuple[int, ...]:
        """From here to `confirm` the worker is held: the front-end knows the new addresses alone by now, and
        a fault at one of the old ones would be nobody's."""
        assert self._worker is not None
        self._mapped = MappedMemory(regions, fds, late=True)
        self._worker.hold()
        return tuple(map(self._mapped.base_of, regions))

    def confirm(self) -> MappedMemory:
        """The memory that may be touched now; the caller's."""
        assert self._faults is not None
        assert self._mapped is not None
        assert self._worker is not None
        memory, self._mapped = self._mapped, None
        self._worker.resume()
        try:
            self._faults.register(memory)
        except RequestError:
            memory.close()
            raise
        return memory

    def end(self, memory: MappedMemory | None) -> None:
        """All pages of ``memory`` are there."""
        if self._faults is not None and self._worker is not None and memory is not None:
            self._faults.unregister(memory)
        waiting, self._waiting = self._waiting, []
        self._go_home()
        for work in waiting:
            work()

    # What the device says

    def when_quiet(self, work: Callable[[], None]) -> None:
        """Does ``work``, which may pause the device: now, or when that waits for nobody's page."""
        if self._worker is None:
            work()
            return
        self._waiting.append(work)
        if len(self._waiting) == 1:
            self._worker.hold()
        self._on_quiet()

    def cut(self, memory: MappedMemory | None, then: Callable[[], None]) -> None:
        """The front-end has gone: nobody waits for a page of ``memory`` any more, and ``then`` is all that is
        still done, with the worker quiet: at once, unless that is in a turn, where it may be waiting."""
        if self._worker is None:
            then()
            return
        self.is_cut = True
        self._waiting = [then]
        self._worker.hold()
        if not self._worker.is_quiet and self._faults is not None and memory is not None:
            self._faults.cut(memory)
        self._on_quiet()

    def leave(self) -> None:
        """In what `cut` does, when the memory has been given back."""
        self._go_home()
        self.is_cut = False
        if self._mapped is not None:
            self._mapped.close()
            self._mapped = None

    def _on_quiet(self) -> None:
        worker = self._worker
        if worker is None or not self._waiting or not worker.is_quiet:
            return
        waiting, self._waiting = self._waiting, []
        try:
            for work in waiting:
                work()
        finally:
            # Not so if what was done was the end of the connection.
            if self._worker is worker:
                worker.resume()

    def _go_home(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            assert self._lender is not None
            self._packet.move(self._home)
            self._lender.take_back(worker)
        self._forget_faults()

    def _forget_faults(self) -> None:
        if self._faults is not None:
            self._faults.close()
            self._faults = None
