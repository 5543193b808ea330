"""How long to wait for a peer, scaled for machines where everything is slow (emulation, sanitizers, CI)."""

from __future__ import annotations

import os
import time

SCALE_VARIABLE = "VHOSTUSER_TIMEOUT_SCALE"


def scaled(seconds: float) -> float:
    """`seconds` times the factor in the environment, 1 when there is none."""
    return seconds * float(os.environ.get(SCALE_VARIABLE) or 1)


class Deadline:
    """A point in time that several waits share."""

    def __init__(self, seconds: float) -> None:
        self.seconds = scaled(seconds)
        self._end = time.monotonic() + self.seconds

    @property
    def left(self) -> float:
        """Seconds until then, 0 when it has passed."""
        return max(0.0, self._end - time.monotonic())

    @property
    def left_ms(self) -> int:
        """For poll, rounded up so that it never spins on the last fraction."""
        return -int(-self.left * 1000 // 1)
