"""The search for the rate without loss, over back-ends that are functions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vhostuser.frontend.bench.ndr import Attempt, search


def loses_above(limit: int) -> Callable[[int], Attempt]:
    return lambda rate: Attempt(rate, rate, 1 if rate > limit else 0, 1.0)


@pytest.mark.parametrize("limit", [10_000, 100_000, 555_555, 990_000, 1_000_000, 2_000_000])
def test_rate_is_found_to_a_hundredth(limit: int) -> None:
    best = search(loses_above(limit), 1_000_000)
    assert best is not None
    assert min(limit, 1_000_000) * 0.98 <= best.offered <= limit


def test_all_that_loses_is_nothing() -> None:
    tried = []

    def attempt(rate: int) -> Attempt:
        tried.append(rate)
        return Attempt(rate, rate, 5, 1.0)

    assert search(attempt, 1_000_000) is None
    assert len(tried) <= 16


def test_loss_that_is_allowed_passes() -> None:
    best = search(lambda rate: Attempt(rate, rate, rate // 200, 1.0), 1000_000, loss=0.005)
    assert best is not None
    assert best.offered == 1_000_000


def test_rate_that_was_not_held_does_not_pass() -> None:
    best = search(lambda rate: Attempt(rate, min(rate, 300_000), 0, 1.0), 1_000_000)
    assert best is not None
    assert 0.97 * 300_000 <= best.offered <= 304_000


def test_single_loss_is_tried_again() -> None:
    tried: dict[int, int] = {}

    def attempt(rate: int) -> Attempt:
        tried[rate] = tried.get(rate, 0) + 1
        return Attempt(rate, rate, 1 if tried[rate] == 1 else 0, 1.0)

    best = search(attempt, 1000)
    assert best is not None
    assert (best.offered, tried) == (1000, {1000: 2})
