"""A worker for each test, and the check that nothing stays mapped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.datapath.rig import Bench
from vhostuser.datapath.mapping import live_regions


@pytest.fixture
def bench() -> Iterator[Bench]:
    before = live_regions()
    with Bench() as bench:
        yield bench
    assert live_regions() == before
