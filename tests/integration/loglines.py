"""The log of the attacked device: what was said about it as a warning or worse."""

from __future__ import annotations

import logging

import pytest

ATTACKED = "a"


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings and errors about the attacked device, in order."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and getattr(record, "device", ATTACKED) == ATTACKED
    ]


def assert_one_line(caplog: pytest.LogCaptureFixture, *words: str) -> None:
    """Exactly one complaint, and each of these words is in it."""
    lines = complaints(caplog)
    assert len(lines) == 1, lines
    assert [word for word in words if word not in lines[0]] == [], lines[0]
