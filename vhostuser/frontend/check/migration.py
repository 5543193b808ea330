"""A dirty log, and a device whose guest is being migrated: what the checks of the log are made of."""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Iterable, Iterator

from vhostuser.frontend import calls
from vhostuser.frontend.check.model import CheckFailedError, expect
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stepper import RX, TX, Stepper
from vhostuser.frontend.check.stream import u64
from vhostuser.frontend.check.traffic import frame, settle, take_in, wait_used
from vhostuser.frontend.guest_memory import GuestMemory, Region
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.frontend.packed_virtqueue import PackedVirtqueue
from vhostuser.frontend.timeouts import Deadline
from vhostuser.wire.constants import VRING_F_LOG, Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V

PAGE = 4096
LOW = (Region(gpa=0, size=8 << 20),)
HIGH = (Region(gpa=1 << 33, size=8 << 20),)


class Log:
    """A memfd with one bit for each page of guest memory. Owns it; a context manager."""

    def __init__(self, size: int, offset: int = 0) -> None:
        self.size, self.offset = size, offset
        length = -(-(size + offset) // PAGE) * PAGE
        self.fd = os.memfd_create("log", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, length)
        self._bits = mmap.mmap(self.fd, length)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._bits.close()
        os.close(self.fd)

    @classmethod
    def of(cls, memory: GuestMemory, offset: int = 0) -> Log:
        """As large as this memory needs it."""
        last = max(region.end for region in memory.regions) - 1
        return cls(last // (8 * PAGE) + 1, offset)

    def pages(self) -> set[int]:
        """The pages that are marked."""
        content = self._bits[self.offset : self.offset + self.size]
        return {
            8 * at + bit for at, byte in enumerate(content) if byte for bit in range(8) if byte >> bit & 1
        }

    def is_untouched_outside(self) -> bool:
        return not any(self._bits[: self.offset]) and not any(self._bits[self.offset + self.size :])

    def clear(self) -> None:
        self._bits[self.offset : self.offset + self.size] = bytes(self.size)


def pages(gpa: int, length: int) -> set[int]:
    return set(range(gpa // PAGE, (gpa + max(length, 1) - 1) // PAGE + 1))


class Migration:
    """A device that runs, and what a front-end does to it while its guest is migrated."""

    def __init__(self, peer: Peer, driver: Stepper) -> None:
        self.peer = peer
        self.driver = driver
        self.stream = peer.over(driver)

    def set_log(self, log: Log) -> None:
        body = u64(log.size) + u64(log.offset)
        self.stream.ask(Request.SET_LOG_BASE, body, [log.fd])

    def switch(self, on: bool) -> None:
        """Features and ring addresses again, with the log's bits in them or without."""
        self.driver.do(calls.set_features(self.driver.features | (V.LOG_ALL if on else 0)))
        for index in (RX, TX):
            self.set_addr(index, on)

    def set_addr(self, index: int, on: bool, log: int | None = None) -> None:
        place = self.driver.nic.rings[index].place
        assert place is not None
        queue = self.driver.virtqueues[index]
        where = (queue.place.desc if self.driver.packed else queue.place.used) if log is None else log
        flags = VRING_F_LOG if on else 0
        self.driver.do(
            calls.set_vring_addr(
                index, place.desc, place.used, place.avail, flags=flags, log=where if on else 0
            )
        )

    def used_pages(self) -> set[int]:
        """Where used entries, used index and the words beside them lie, of both rings."""
        found = set()
        for queue in self.driver.virtqueues:
            if self.driver.packed:
                found |= pages(queue.place.desc, 16 * queue.size) | pages(queue.place.used, 4)
            else:
                found |= pages(queue.place.used, 6 + 8 * queue.size)
        return found

    def exchange(self, first: int, count: int = 8, size: int = 60) -> set[int]:
        """Frames there and back; the pages of the buffers that they were written into."""
        written = set[int]()
        for number in range(first, first + count):
            done = len(self.delivered())
            self.driver.send(frame(number, size), timeout=self.peer.patience)
            wait_used(self.peer, self.driver)
            if not self.peer.echoes:
                continue
            deadline = Deadline(self.peer.patience)
            while len(delivered := self.delivered()) == done:
                if not deadline.left:
                    raise CheckFailedError(f"frame {number} back", "none")
                time.sleep(0.0002)
            for gpa, length in delivered:
                written |= pages(gpa, length)
            take_in(self.driver)
        return written

    def delivered(self) -> list[tuple[int, int]]:
        """Guest address and length of every buffer that was filled and not yet taken in."""
        queue = self.driver.virtqueues[RX]
        if isinstance(queue, PackedVirtqueue):
            return [] if (one := queue.read_used(queue.used_position)) is None else [(one.gpa, one.length)]
        split = self.driver.queues[RX]
        found = []
        for slot in range(
            split.used_index, split.used_index + (split.read_used_index() - split.used_index) % 65536
        ):
            head, length = split.read_used_entry(slot)
            found.append((split.read_descriptor(head).gpa, length))
        return found


@contextlib.contextmanager
def migrating(
    peer: Peer, regions: tuple[Region, ...] = LOW, features: V = DEFAULT_FEATURES, offset: int = 0
) -> Iterator[tuple[Migration, Log]]:
    """Running since before it began, as QEMU has it."""
    with (
        GuestMemory(regions=regions) as memory,
        Log.of(memory, offset) as log,
        peer.stepper(memory=memory, features=features) as driver,
    ):
        driver.acknowledge(driver.protocol_features | P.LOG_SHMFD)
        driver.say_all()
        settle(peer, driver)
        take_in(driver)
        yield Migration(peer, driver), log


def assert_marked(log: Log, pages: Iterable[int], what: str) -> None:
    missing = sorted(set(pages) - log.pages())
    expect(not missing, f"{what} marked", f"pages {[hex(page) for page in missing]} not marked")
