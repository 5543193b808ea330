"""Moves pairs from worker threads that have too much to do to those that have less.

Nothing happens, and no timer runs, until a worker says that it is crowded (`EventKind.CROWDED`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vhostuser.datapath.vring import PacketDevice, RingPair
from vhostuser.datapath.worker import Worker

WINDOW_SECONDS = 0.25
"""How long loads are looked at before one pair is moved."""
REST_SECONDS = 2.0
"""After that nothing is moved: what was has to show, and one that could be on either side stays."""
_FULL = 0.8
_WORTH = 0.1
"""Share of a worker's time by which the busiest one has to have less to do."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """A pair: who serves it, and what it cost in the window, in any unit."""

    worker: int
    spent: int


def choose(loads: Sequence[float], pairs: Sequence[Served]) -> tuple[int, int] | None:
    """Which pair goes to which worker, by their numbers; None when nothing would be much better.

    ``loads``: the share of its time that each worker was busy. What a pair asks for is not known, only what
    it got: of a worker that is full each has been given its part, so it counts with that.
    """
    crowded = max(range(len(loads)), key=loads.__getitem__)
    target = min(range(len(loads)), key=loads.__getitem__)
    total = sum(pair.spent for pair in pairs if pair.worker == crowded)
    if loads[crowded] < _FULL or not total:
        return None

    def busiest_after(number: int) -> float:
        part = loads[crowded] * pairs[number].spent / total
        return max(loads[crowded] - part, loads[target] + part)

    movable = [number for number, pair in enumerate(pairs) if pair.worker == crowded and pair.spent]
    best = min(movable, key=busiest_after)
    return (best, target) if busiest_after(best) <= loads[crowded] - _WORTH else None


@dataclass(frozen=True, slots=True)
class _Look:
    """What everybody had done at a moment."""

    at: float
    loads: dict[Worker, int]
    spent: dict[RingPair, int]


class Balancer:
    """Owns nothing. `on_crowded` is called from the loop; after `close` nothing is moved any more."""

    def __init__(
        self, workers: Sequence[Worker], devices: Callable[[], Iterable[tuple[str, PacketDevice]]]
    ) -> None:
        self._workers = workers
        self._devices = devices
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._rests_until = 0.0

    def on_crowded(self) -> None:
        if self._timer is None and self._loop.time() >= self._rests_until:
            self._timer = self._loop.call_later(WINDOW_SECONDS, self._balance, self._look())

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rests_until = float("inf")

    def _look(self) -> _Look:
        pairs = (pair for _, device in self._devices() for pair in device.pairs.values())
        loads = {worker: worker.load_ns for worker in self._workers}
        return _Look(self._loop.time(), loads, {pair: pair.spent for pair in pairs})

    def _balance(self, before: _Look) -> None:
        self._timer = None
        now = self._look()
        self._rests_until = now.at + REST_SECONDS
        window = (now.at - before.at) * 1e9
        loads = [(now.loads[worker] - before.loads[worker]) / window for worker in self._workers]
        # Not those of a device that is on a worker of its own (postcopy), nor those that are new.
        found = [
            (name, device, n, pair)
            for name, device in self._devices()
            for n, pair in device.pairs.items()
            if pair in before.spent and pair.worker in self._workers
        ]
        served = [
            Served(self._workers.index(pair.worker), now.spent[pair] - before.spent[pair])
            for _, _, _, pair in found
        ]
        if (choice := choose(loads, served)) is None:
            return
        name, device, n, _ = found[choice[0]]
        source, target = served[choice[0]].worker, choice[1]
        device.move_pair(n, self._workers[target])
        _log.info(
            "%s: pair %d moves from worker %d, which was busy for %.0f %% of the time, to worker %d, %.0f %%",
            name,
            n,
            source,
            100 * loads[source],
            target,
            100 * loads[target],
        )
