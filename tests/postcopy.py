"""A guest that has moved here before its memory did, played on a `site` that offers postcopy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.plain_frontend import SERVED_PROTOCOL
from tests.site import Stepper, frame, wait
from vhostuser.frontend import calls
from vhostuser.frontend.late_pages import LatePages
from vhostuser.wire.features import ProtocolFeature
from vhostuser.wire.messages import MemoryRegion

PAGE = 4096
WRITTEN = 16 * PAGE
"""What a small ring pair and its buffers take at least, from the first page on."""

PROTOCOL = ProtocolFeature((SERVED_PROTOCOL | 1 << 8) & ~(1 << 15))


def advise(driver: Stepper) -> int:
    """The back-end's userfaultfd, after POSTCOPY_LISTEN."""
    driver.frontend.set_protocol_features(PROTOCOL)
    uffd = driver.do(calls.postcopy_advise())
    assert uffd is not None
    driver.do(calls.postcopy_listen())
    return uffd


def say_table(driver: Stepper, late: LatePages | None = None) -> tuple[MemoryRegion, ...]:
    """SET_MEM_TABLE, its answer, and the acknowledgement of that."""
    regions = driver.frontend.map_mem_table(calls.memory_table(driver.memory), driver.memory.fds())
    if late is not None:
        late.bases = regions
    driver.frontend.confirm_mem_table()
    return regions


@contextmanager
def arriving(driver: Stepper) -> Iterator[LatePages]:
    """Its rings run, and a page that is taken comes when it is asked for."""
    uffd = advise(driver)
    with LatePages(driver.memory, uffd, say_table(driver)) as late:
        driver.say_all("memory")
        yield late


@contextmanager
def arriving_whole(driver: Stepper) -> Iterator[LatePages]:
    """As `arriving`, but all that was written so far is late, too: rings, and frames that wait in them."""
    uffd = advise(driver)
    with LatePages(driver.memory, uffd, say_table(driver)) as late:
        if driver.iommu is None:
            late.take(PAGE, WRITTEN)
        else:
            for page in driver.iommu.memory.pages:
                late.take(page, PAGE)
            assert driver.nic.channel_fd is not None
            driver.frontend.set_backend_req_fd(driver.nic.channel_fd)
        driver.say("enable")  # first, for a ring that starts disabled drops what waits in it
        driver.say_all("memory")
        if driver.iommu is not None:
            for page in driver.iommu.memory.pages:
                driver.iommu.tell(driver.frontend, page)
        yield late


@contextmanager
def stuck(driver: Stepper) -> Iterator[LatePages]:
    """The device's worker waits for a page, which does not come before the gate is opened."""
    with arriving(driver) as late:
        send_until_asked(driver, late)
        yield late


def send_until_asked(driver: Stepper, late: LatePages) -> None:
    """Clears the gate and sends `frame(1)` until one does not come back, for it needs a page."""
    late.gate.clear()
    while not late.asked:
        driver.send(frame(1))
        wait(lambda: bool(late.asked) or driver.recv_now() is not None)
