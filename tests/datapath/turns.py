"""How long a worker's turns take, for tests of what a hostile guest can cost the others on it."""

from __future__ import annotations

import time

from tests.datapath.rig import Bench

MOST_MS = 6.0
"""Of processor time in a turn; one is to end after half a millisecond, if the machine is not slow just then.

What is held against it took 13 to 110 ms.
"""


def longest_turn(bench: Bench) -> float:
    """ms, until all is done."""
    longest = 0
    while True:
        before = time.thread_time_ns()
        more = bench.turn()
        longest = max(longest, time.thread_time_ns() - before)
        if not more and not bench.wakes():
            return longest / 1e6
