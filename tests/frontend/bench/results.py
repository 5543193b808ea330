"""Results that nobody measured."""

from __future__ import annotations

from typing import Any

from vhostuser.frontend.bench.model import Case, Document, Sample, Series, Work


def case(**fields: Any) -> Case:
    return Case(**{"work": Work.ECHO, "size": 64, "ring": 256, "poll": "busy", **fields})


def sample(rate: float, **fields: Any) -> Sample:
    return Sample(rate=rate, sent=10, received=10, seconds=1.0, **fields)


def document(*series: Series) -> Document:
    return Document(
        version="0",
        machine="m",
        started="2026-01-01T00:00:00+00:00",
        backend="b",
        seconds=0.5,
        series=list(series),
    )
