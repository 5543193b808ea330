"""The search for the greatest rate at which nothing is lost (RFC 2544, section 26.1, by halving).

No clock and no rings here: an attempt is a function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

PRECISION = 0.01
"""The rate that is reported and the one that failed are this close."""
_TRIES = 2
"""A machine that does other things, too, loses a frame at any rate: a rate failed when it did so twice."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one offered rate."""

    offered: int
    sent: int
    lost: int
    seconds: float

    @property
    def held(self) -> bool:
        """Whether the rate was really offered: a ring that is full holds the sender back."""
        return self.sent >= 0.99 * self.offered * self.seconds

    def passes(self, loss: float) -> bool:
        return self.held and self.lost <= loss * self.sent


def search(attempt: Callable[[int], Attempt], most: int, loss: float = 0.0) -> Attempt | None:
    """The best that passed, up to `most` frames a second; None when nothing did.

    `loss` is the share of frames that may be lost. 15 rates at most, twice each: what is below 1/128 of
    `most` counts as nothing.
    """
    best = _try(attempt, most, loss)
    low, high = 0, most
    while best is None or best.offered < most:
        if high - low <= max(PRECISION * high, 1) or high <= most >> 7:
            break
        rate = (low + high) // 2
        found = _try(attempt, rate, loss)
        if found is None:
            high = rate
        else:
            best, low = found, rate
    return best


def _try(attempt: Callable[[int], Attempt], rate: int, loss: float) -> Attempt | None:
    for _ in range(_TRIES):
        made = attempt(rate)
        if made.passes(loss):
            return made
    return None
