"""The dirty log of live migration: what is marked, page by page, and logs that come, go and change.

`bad_dirty_log.py` has logs that are too small or make no sense.
"""

from __future__ import annotations

import contextlib
import time

from vhostuser.frontend.check.migration import (
    HIGH,
    PAGE,
    Log,
    assert_marked,
    migrating,
    pages,
)
from vhostuser.frontend.check.model import Group, Severity, expect
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stepper import TX, Stepper
from vhostuser.frontend.check.traffic import frame, rest, take_in, wait_used
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V

GROUP = Group("dirty-log", "the dirty log of live migration")

_MIGRATION = 'vhost-user, "Migration"'
_BASE = 'vhost-user, "VHOST_USER_SET_LOG_BASE"'


@GROUP.check(
    "log-frames",
    "Every page that a frame is written to is marked.",
    _MIGRATION,
    virtio=V.LOG_ALL,
    protocol=P.LOG_SHMFD,
    echo=True,
)
def _log_frames(peer: Peer) -> None:
    with migrating(peer) as (migration, log):
        migration.set_log(log)
        migration.switch(True)
        for size in (60, 1514):
            log.clear()
            written = migration.exchange(0, size=size)
            assert_marked(log, written, "the pages of delivered frames")


@GROUP.check(
    "log-packed-frames",
    "The same with packed rings.",
    _MIGRATION,
    virtio=V.LOG_ALL | V.RING_PACKED,
    protocol=P.LOG_SHMFD,
    echo=True,
)
def _log_packed_frames(peer: Peer) -> None:
    with migrating(peer, features=DEFAULT_FEATURES | V.RING_PACKED) as (migration, log):
        migration.set_log(log)
        migration.switch(True)
        assert_marked(log, migration.exchange(0), "the pages of delivered frames")


@GROUP.check(
    "log-used-ring",
    "Where a ring's addresses came with the log flag, what is written to its used part is marked.",
    _MIGRATION,
    virtio=V.LOG_ALL,
    protocol=P.LOG_SHMFD,
)
def _log_used_ring(peer: Peer) -> None:
    with migrating(peer) as (migration, log):
        migration.set_log(log)
        migration.switch(True)
        for round_ in range(4):
            log.clear()
            migration.exchange(8 * round_)
            used = migration.driver.queues[TX].place.used
            assert_marked(log, pages(used + 2, 2), "the page of the used index")


@GROUP.check(
    "log-high-memory",
    "Pages beyond 4 GiB have their bits where they belong.",
    _MIGRATION,
    virtio=V.LOG_ALL,
    protocol=P.LOG_SHMFD,
)
def _log_high_memory(peer: Peer) -> None:
    with migrating(peer, HIGH) as (migration, log):
        migration.set_log(log)
        migration.switch(True)
        written = migration.exchange(0)
        used = migration.driver.queues[TX].place.used
        assert_marked(log, written | pages(used + 2, 2), "pages beyond 4 GiB")


@GROUP.check(
    "log-nothing-else",
    "Pages that nothing was written to are not marked: each is copied once more.",
    _MIGRATION,
    Severity.SHOULD,
    virtio=V.LOG_ALL,
    protocol=P.LOG_SHMFD,
)
def _log_nothing_else(peer: Peer) -> None:
    with migrating(peer) as (migration, log):
        migration.set_log(log)
        migration.switch(True)
        written = migration.exchange(0) | migration.used_pages()
        wrong = sorted(log.pages() - written)
        expect(
            not wrong, f"marks on {len(written)} pages only", f"{[hex(page) for page in wrong]} marked, too"
        )
        expect(log.is_untouched_outside(), "nothing written beside the log", "something")


@GROUP.check(
    "log-offset",
    "A log that begins inside its file is written there.",
    _BASE,
    virtio=V.LOG_ALL,
    protocol=P.LOG_SHMFD,
)
def _log_offset(peer: Peer) -> None:
    _use_log_at(peer, PAGE)


@GROUP.check(
    "log-offset-within-a-page",
    "Where the log begins need not be a multiple of a page.",
    _BASE,
    Severity.SHOULD,
    virtio=V.LOG_ALL,
    protocol=P.LOG_SHMFD,
)
def _log_offset_within_a_page(peer: Peer) -> None:
    _use_log_at(peer, PAGE + 64)


def _use_log_at(peer: Peer, offset: int) -> None:
    with migrating(peer, offset=offset) as (migration, log):
        migration.set_log(log)
        migration.switch(True)
        written = migration.exchange(0)
        assert_marked(log, written | pages(migration.driver.queues[TX].place.used + 2, 2), "pages")
        expect(log.is_untouched_outside(), "nothing written beside the log", "something")


@GROUP.check(
    "log-without-base",
    "LOG_ALL without a log is harmless: QEMU starts a migrating guest so.",
    "QEMU, vhost_dev_start",
    virtio=V.LOG_ALL,
    protocol=P.LOG_SHMFD,
)
def _log_without_base(peer: Peer) -> None:
    with migrating(peer) as (migration, log):
        migration.switch(True)
        migration.exchange(0)
        migration.set_log(log)
        written = migration.exchange(8)
        assert_marked(log, written, "pages written since the log came")


@GROUP.check(
    "log-cancelled",
    "When LOG_ALL is taken back while rings run, they run on, and the log is left alone.",
    _MIGRATION,
    virtio=V.LOG_ALL,
    protocol=P.LOG_SHMFD,
)
def _log_cancelled(peer: Peer) -> None:
    with migrating(peer) as (migration, log):
        migration.set_log(log)
        for round_ in range(3):
            migration.switch(True)
            migration.exchange(16 * round_)
            migration.switch(False)
            log.clear()
            migration.exchange(16 * round_ + 8)
            found = log.pages()
            expect(not found, "no page marked without LOG_ALL", f"{len(found)} pages")


@GROUP.check(
    "log-replaced",
    "When SET_LOG_BASE is answered, nothing goes to the log before: Cloud Hypervisor changes it each pass.",
    "cloud-hypervisor, vhost_user/mod.rs",
    virtio=V.LOG_ALL,
    protocol=P.LOG_SHMFD,
)
def _log_replaced(peer: Peer) -> None:
    with migrating(peer) as (migration, first), contextlib.ExitStack() as stack:
        migration.set_log(first)
        migration.switch(True)
        old = first
        for round_ in range(20):
            log = stack.enter_context(Log.of(migration.driver.memory))
            for number in range(4):
                migration.driver.send(frame(number), timeout=peer.patience)
            migration.set_log(log)
            old.clear()
            wait_used(peer, migration.driver)
            _take_in_late(migration.driver)
            written = migration.exchange(round_)
            assert_marked(log, written, "pages written since the log came")
            late = old.pages()
            expect(not late, "nothing more marked in the log before", f"{len(late)} pages")
            old = log


def _take_in_late(driver: Stepper) -> None:
    """Take in what is on its way."""
    time.sleep(0.005)
    take_in(driver)


@GROUP.check(
    "log-when-stopped",
    "The log is complete when GET_VRING_BASE is answered: the last pages are read then.",
    _MIGRATION,
    virtio=V.LOG_ALL,
    protocol=P.LOG_SHMFD,
)
def _log_when_stopped(peer: Peer) -> None:
    with migrating(peer) as (migration, log):
        migration.set_log(log)
        migration.switch(True)
        for number in range(24):
            migration.driver.send(frame(number), timeout=peer.patience)
        migration.driver.stop_rings()
        marked = log.pages()
        written = {page for gpa, length in migration.delivered() for page in pages(gpa, length)}
        missing = written - marked
        expect(not missing, "every page marked by then", f"{len(missing)} not marked")
        log.clear()
        rest()
        expect(not log.pages(), "nothing marked later", f"{len(log.pages())} pages")
