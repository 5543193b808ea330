"""Which pair goes where, and when that is looked at."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from vhostuser.server import balance
from vhostuser.server.balance import Balancer, Served, choose


@pytest.mark.parametrize(
    ("loads", "pairs", "choice"),
    [
        # Two share a full worker, the other one has nothing to do.
        ([1.0, 0.0], [Served(0, 50), Served(0, 50)], (0, 1)),
        ([0.0, 1.0], [Served(1, 50), Served(1, 50)], (0, 0)),
        # The one that leaves both with the least.
        ([1.0, 0.1], [Served(0, 70), Served(0, 20), Served(0, 10), Served(1, 5)], (0, 1)),
        ([1.0, 0.5], [Served(0, 70), Served(0, 30)], (1, 1)),
        # To the idlest of several.
        ([0.3, 1.0, 0.1], [Served(1, 50), Served(1, 50), Served(0, 9), Served(2, 3)], (0, 2)),
        # Alone on its worker: it would only be full elsewhere.
        ([1.0, 0.0], [Served(0, 100)], None),
        ([1.0, 0.0], [Served(0, 100), Served(0, 0)], None),
        # Both full, or nobody.
        ([1.0, 0.95], [Served(0, 50), Served(0, 50), Served(1, 90)], None),
        ([0.7, 0.0], [Served(0, 50), Served(0, 50)], None),
        # Three alike on two workers: as it is, or the other way round.
        ([1.0, 0.5], [Served(0, 50), Served(0, 50), Served(1, 50)], None),
        # What keeps the worker busy is none of these.
        ([1.0, 0.0], [Served(1, 5)], None),
        ([1.0, 0.0], [], None),
    ],
)
def test_pair_is_moved_when_that_makes_the_busiest_worker_less_busy(
    loads: list[float], pairs: list[Served], choice: tuple[int, int] | None
) -> None:
    assert choose(loads, pairs) == choice


class FakeWorker:
    load_ns = 0


class FakePair:
    def __init__(self, worker: FakeWorker) -> None:
        self.worker = worker
        self.spent = 0


class FakeDevice:
    def __init__(self, *pairs: FakePair) -> None:
        self.pairs = dict(enumerate(pairs))
        self.moves: list[tuple[int, FakeWorker]] = []

    def move_pair(self, n: int, worker: FakeWorker) -> None:
        self.moves.append((n, worker))
        self.pairs[n].worker = worker


class Rig:
    """Two workers; on the first a device of two pairs, both of which are busy."""

    def __init__(self) -> None:
        self.workers: Any = [FakeWorker(), FakeWorker()]
        self.device = FakeDevice(FakePair(self.workers[0]), FakePair(self.workers[0]))
        self.balancer = Balancer(self.workers, self.devices)

    def devices(self) -> Iterator[tuple[str, Any]]:
        yield "vm1", self.device

    def work(self) -> None:
        self.workers[0].load_ns += 10**9
        for pair in self.device.pairs.values():
            pair.spent += 10**8


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "WINDOW_SECONDS", 0.02)
    monkeypatch.setattr(balance, "REST_SECONDS", 0.1)


async def test_crowded_worker_gives_one_pair_away(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vhostuser")
    rig = Rig()
    for _ in range(3):
        rig.balancer.on_crowded()
    rig.work()
    await asyncio.sleep(0.05)
    assert rig.device.moves == [(0, rig.workers[1])]
    assert "vm1: pair 0 moves from worker 0, which was busy for " in caplog.text

    # What was moved has to show first.
    rig.device.pairs[0].worker = rig.workers[0]
    rig.balancer.on_crowded()
    rig.work()
    await asyncio.sleep(0.04)
    assert len(rig.device.moves) == 1
    await asyncio.sleep(0.1)
    rig.balancer.on_crowded()
    rig.work()
    await asyncio.sleep(0.05)
    assert len(rig.device.moves) == 2


async def test_worker_that_was_crowded_for_a_moment_gives_nothing_away() -> None:
    rig = Rig()
    rig.balancer.on_crowded()
    await asyncio.sleep(0.05)
    assert rig.device.moves == []


async def test_pair_that_is_lent_out_or_new_is_not_moved() -> None:
    rig = Rig()
    rig.device.pairs[0].worker = FakeWorker()
    rig.balancer.on_crowded()
    rig.work()
    rig.device.pairs[2] = FakePair(rig.workers[0])
    rig.device.pairs[2].spent = 10**8
    await asyncio.sleep(0.05)
    assert rig.device.moves == []


async def test_nothing_is_moved_after_the_end() -> None:
    rig = Rig()
    rig.balancer.on_crowded()
    rig.balancer.close()
    rig.balancer.on_crowded()
    rig.work()
    await asyncio.sleep(0.05)
    assert rig.device.moves == []
