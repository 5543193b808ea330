"""A worker for each test, and the check that nothing stays mapped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import live_regions
from tests.datapath.rig import Bench
from tests.datapath.stations import Lan
from tests.datapath.wires import Wire


@pytest.fixture
def bench() -> Iterator[Bench]:
    before = live_regions()
    with Bench() as bench:
        yield bench
    assert live_regions() == before


@pytest.fixture
def wire(bench: Bench) -> Iterator[Wire]:
    """A port fd; the rings on it are taken off before it is closed."""
    wire = Wire()
    yield wire
    for ring in bench.rings:
        ring.pair.set_port(None)
    wire.close()


@pytest.fixture
def lan(bench: Bench) -> Iterator[Lan]:
    lan = Lan(bench)
    yield lan
    lan.close()
