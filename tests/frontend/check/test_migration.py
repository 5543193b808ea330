"""The log as the checks read it, and what they know of frames that were delivered."""

from __future__ import annotations

import os

import pytest

from vhostuser.frontend.check.migration import HIGH, LOW, PAGE, Log, assert_marked, migrating, pages
from vhostuser.frontend.check.model import CheckFailedError
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.wire.features import VirtioFeature as V


def test_pages_of_a_range() -> None:
    assert pages(PAGE, 1) == {1}
    assert pages(PAGE - 1, 2) == {0, 1}
    assert pages(0, 0) == {0}


def test_log_reads_its_bits_at_its_offset() -> None:
    with Log(16, offset=100) as log:
        os.pwrite(log.fd, b"\x05", 101)
        assert log.pages() == {8, 10}
        assert log.is_untouched_outside()
        os.pwrite(log.fd, b"\x01", 116)
        assert not log.is_untouched_outside()
        log.clear()
        assert log.pages() == set()


def test_log_is_as_large_as_the_memory_needs() -> None:
    with GuestMemory(regions=LOW) as memory, Log.of(memory) as log:
        assert log.size == 8 * 256 // 8
    with GuestMemory(regions=HIGH) as memory, Log.of(memory) as log:
        assert log.size == (HIGH[0].end - 1) // (8 * PAGE) + 1


def test_missing_marks_are_named() -> None:
    with Log(16) as log:
        os.pwrite(log.fd, b"\x02", 0)
        assert_marked(log, {1}, "it")
        with pytest.raises(CheckFailedError, match=r"expected it marked, saw pages \['0x2'\] not marked"):
            assert_marked(log, {1, 2}, "it")


@pytest.mark.parametrize("features", [DEFAULT_FEATURES, DEFAULT_FEATURES | V.RING_PACKED])
def test_exchange_knows_where_frames_were_written(peer: Peer, features: V) -> None:
    with migrating(peer, features=features) as (migration, _):
        written = migration.exchange(0, count=4)
        assert written
        assert written <= {page for region in LOW for page in pages(region.gpa, region.size)}
        assert not migration.delivered()
        assert migration.used_pages()
