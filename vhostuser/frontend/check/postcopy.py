"""Memory that comes after its guest: every page is asked for when it is touched, and not before."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vhostuser.frontend import calls
from vhostuser.frontend.check.model import Group, Severity, expect
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stepper import TX, Stepper
from vhostuser.frontend.check.traffic import MARK, PROBE, SMALLEST, assert_serves, frame, pass_frames, settle
from vhostuser.frontend.late_pages import LatePages
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.frontend.net_header import PLAIN
from vhostuser.frontend.timeouts import Deadline
from vhostuser.frontend.virtqueue_base import Segment
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.messages import MemoryRegion

GROUP = Group("postcopy", "pages that come when they are touched")

_ADVISE = 'vhost-user, "VHOST_USER_POSTCOPY_ADVISE"'
_TABLE = 'vhost-user, "VHOST_USER_SET_MEM_TABLE"'
_END = 'vhost-user, "VHOST_USER_POSTCOPY_END"'
_RULE = 'vhost-user, "VHOST_USER_POSTCOPY_LISTEN"'
_SPLIT = V(0)
_LARGE = 1400
_PAGE = mmap.PAGESIZE
_LATE = 128 * _PAGE
"""From the first page on; rings and the buffers of some frames lie there."""


def _advise(driver: Stepper) -> int:
    """The back-end's userfaultfd, which is the caller's."""
    driver.acknowledge(driver.protocol_features | P.PAGEFAULT)
    uffd = driver.do(calls.postcopy_advise())
    expect(uffd is not None, "an fd with the reply to POSTCOPY_ADVISE", "none")
    assert uffd is not None
    return uffd


def _say_table(driver: Stepper) -> tuple[MemoryRegion, ...]:
    regions = driver.frontend.map_mem_table(calls.memory_table(driver.memory), driver.memory.fds())
    driver.frontend.confirm_mem_table()
    return regions


@contextmanager
def _arriving(peer: Peer, extra: V) -> Iterator[tuple[Stepper, LatePages]]:
    """Features and memory were said, and pages come when they are asked for."""
    with peer.stepper(features=DEFAULT_FEATURES | extra) as driver:
        with LatePages(driver.memory, _advise(driver), ()) as late:
            driver.do(calls.postcopy_listen())
            driver.say("features")
            late.bases = _say_table(driver)
            yield driver, late
        expect(
            not late.strange,
            "faults within the regions of the reply",
            f"one at {(late.strange or [0])[0]:#x}",
        )


@GROUP.check(
    "postcopy-advise",
    "POSTCOPY_ADVISE is answered with a userfaultfd.",
    _ADVISE,
    protocol=P.PAGEFAULT,
)
def _advised(peer: Peer) -> None:
    with peer.stepper() as driver:
        uffd = _advise(driver)
        what = os.readlink(f"/proc/self/fd/{uffd}")
        os.close(uffd)
        expect("userfaultfd" in what, "a userfaultfd", what)


@GROUP.check(
    "postcopy-table",
    "After POSTCOPY_LISTEN the table is answered with itself and the addresses where it was mapped.",
    _TABLE,
    protocol=P.PAGEFAULT,
)
def _table(peer: Peer) -> None:
    with _arriving(peer, _SPLIT) as (driver, late):
        said = calls.memory_table(driver.memory).regions
        back = [(row.gpa, row.size) for row in late.bases]
        expect(back == [(row.gpa, row.size) for row in said], "the regions that were said", back)
        expect(all(row.uva for row in late.bases), "an address for each region", "0")


def _add(name: str, extra: V) -> None:
    def pages(peer: Peer) -> None:
        with _arriving(peer, extra) as (driver, late):
            for _ in range(4):
                driver.send(frame(0, _LARGE).replace(MARK, PROBE))
            late.take(_PAGE, _LATE)
            driver.say("enable")  # first: a ring that starts disabled may drop what waits in it
            driver.say_all("features", "memory")
            came = driver.wait_for_call([TX], Deadline(peer.patience))
            expect(bool(late.asked), "pages asked for", "none")
            expect(came, "a call for what waited in the ring", "none")
            settle(peer, driver)
            pass_frames(peer, driver, 32, _LARGE)

    def ended(peer: Peer) -> None:
        with _arriving(peer, extra) as (driver, late):
            driver.say_all("features", "memory")
            settle(peer, driver)
            pass_frames(peer, driver, 8, _LARGE)
            driver.do(calls.postcopy_end())
            before = len(late.asked)
            _send_late(driver, late)
            pass_frames(peer, driver, 32, _LARGE, first=8)
            expect(len(late.asked) == before, "no page asked for", f"{len(late.asked) - before} asked for")

    GROUP.check(
        f"postcopy-pages{name}",
        "Rings and frames in pages that come late are served when they have come.",
        _RULE,
        virtio=extra,
        protocol=P.PAGEFAULT,
    )(pages)
    GROUP.check(
        f"postcopy-end{name}",
        "After POSTCOPY_END no page is asked for any more, and frames go on.",
        _END,
        virtio=extra,
        protocol=P.PAGEFAULT,
    )(ended)


for _name, _extra in (("", _SPLIT), ("-packed", V.RING_PACKED)):
    _add(_name, _extra)


def _send_late(driver: Stepper, late: LatePages) -> None:
    """A frame in a page that has not come; it is not one of ours."""
    gpa = driver.memory.alloc(_PAGE, _PAGE)
    content = PLAIN.build(driver.header_size) + frame(0).replace(MARK, PROBE)
    driver.memory.write(gpa, content)
    late.take(gpa, len(content))
    ring = driver.virtqueues[TX]
    # What the driver frees when the chain comes back is a stand-in.
    token = Segment(driver.memory.alloc(SMALLEST), SMALLEST)
    assert ring.add([Segment(gpa, len(content))], (), token) is not None
    ring.publish()
    driver.kick(TX)


@GROUP.check(
    "postcopy-silence",
    "A page that does not come holds up neither messages nor, afterwards, other front-ends.",
    _RULE,
    Severity.ROBUSTNESS,
    protocol=P.PAGEFAULT,
)
def _silence(peer: Peer) -> None:
    with _arriving(peer, _SPLIT) as (driver, late):
        driver.say_all("features", "memory")
        settle(peer, driver)
        before = len(late.asked)
        late.gate.clear()
        _send_late(driver, late)
        deadline = Deadline(peer.patience)
        while len(late.asked) == before and deadline.left:
            time.sleep(0.001)
        expect(len(late.asked) > before, "the page asked for", "it is not")
        driver.frontend.get_features()
    assert_serves(peer)
