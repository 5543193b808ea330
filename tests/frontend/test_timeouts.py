"""Waits that scale."""

from __future__ import annotations

import pytest

from vhostuser.frontend.timeouts import SCALE_VARIABLE, Deadline, scaled


@pytest.mark.parametrize(("value", "expected"), [("3", 6.0), ("0.5", 1.0), ("", 2.0)])
def test_seconds_are_scaled_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: float
) -> None:
    monkeypatch.setenv(SCALE_VARIABLE, value)
    assert scaled(2.0) == expected


def test_seconds_stay_as_they_are_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SCALE_VARIABLE, raising=False)
    assert scaled(2.0) == 2.0


def test_deadline_counts_down_and_stops_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.delenv(SCALE_VARIABLE, raising=False)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    deadline = Deadline(2.0)
    assert deadline.left == 2.0
    now[0] = 101.9995
    assert 0 < deadline.left < 0.001
    assert deadline.left_ms == 1, "rounded up, so that poll sleeps"
    now[0] = 103.0
    assert (deadline.left, deadline.left_ms) == (0.0, 0)
