"""A whole run: every case in turn, as often as was asked for, and the document of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from vhostuser import __version__
from vhostuser.frontend.bench.measure import measure, measure_ours
from vhostuser.frontend.bench.model import Case, Document, Sample, Series


@dataclass(frozen=True, slots=True)
class Method:
    """How to measure, whatever the case."""

    sockets: Sequence[str] = ()
    """Of somebody else's back-end; empty for servers of our own."""
    seconds: float = 0.5
    runs: int = 3
    loss: float = 0.0
    """The share of frames that an NDR search lets pass as none."""
    workers: int = 1
    cpus: Set[int] | None = None
    """Of servers of our own; None for where this process may be."""


@dataclass(slots=True)
class Bench:
    """Cases and what was found so far; after a Ctrl-C that is still a result."""

    cases: Sequence[Case]
    method: Method
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    backend: str = "vhostuser"
    series: list[Series] = field(init=False)

    def __post_init__(self) -> None:
        self.series = [Series(case) for case in self.cases]

    def run(self, shown: Callable[[Series], None]) -> None:
        """Measure, and show the series after each measurement."""
        for _ in range(self.method.runs):
            for series in self.series:
                sample, self.backend = self._measure(series.case)
                series.samples.append(sample)
                shown(series)

    def _measure(self, case: Case) -> tuple[Sample, str]:
        method = self.method
        if method.sockets:
            return measure(case, method.sockets, method.seconds, method.loss)
        return measure_ours(case, method.seconds, method.loss, method.workers, method.cpus)

    def document(self) -> Document:
        return Document(
            version=__version__,
            machine=machine(),
            started=self.started.isoformat(timespec="seconds"),
            backend=self.backend,
            seconds=self.method.seconds,
            series=[series for series in self.series if series.samples],
        )


def machine() -> str:
    """Processor, kernel and Python, in a line."""
    cpuinfo = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    names = (line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name"))
    model = next(names, platform.machine())
    return f"{os.cpu_count()} x {model}, Linux {platform.release()}, Python {platform.python_version()}"
