"""What every benchmark ends with: a table of medians with their spread, and the same as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One thing measured several times; with ``peer``, beside another in the same run, A B A B."""

    name: str
    unit: str
    ours: Sequence[float]
    peer: Sequence[float] = ()
    peer_name: str = ""

    def ratios(self) -> list[float]:
        """Ours over the peer's, pair by pair as they were measured."""
        return [ours / peer for ours, peer in zip(self.ours, self.peer, strict=False) if peer]


@dataclass
class Report:
    title: str
    figures: list[Figure] = field(default_factory=list)

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", machine(), ""]
        lines += [
            "| what | ours, median (min to max) | peer | ratio, median (min to max) |",
            "| --- | --- | --- | --- |",
        ]
        for figure in self.figures:
            peer = f"{figure.peer_name}: {spread(figure.peer)} {figure.unit}" if figure.peer else ""
            ratio = spread(figure.ratios()) if figure.ratios() else ""
            lines.append(f"| {figure.name} | {spread(figure.ours)} {figure.unit} | {peer} | {ratio} |")
        return "\n".join(lines)

    def json(self) -> str:
        rows = [
            {
                "name": figure.name,
                "unit": figure.unit,
                "ours": list(figure.ours),
                "peer": list(figure.peer),
                "peer_name": figure.peer_name,
                "ratio": statistics.median(figure.ratios()) if figure.ratios() else None,
            }
            for figure in self.figures
        ]
        return json.dumps({"title": self.title, "machine": machine(), "figures": rows}, indent=1)

    def finish(self, path: str | None) -> None:
        """Print the table; write the JSON to ``path`` if there is one."""
        print(self.markdown())
        if path:
            Path(path).write_text(self.json())


def spread(samples: Sequence[float]) -> str:
    return f"{_short(statistics.median(samples))} ({_short(min(samples))} to {_short(max(samples))})"


def machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    kernel, python = platform.release(), sys.version.split()[0]
    return f"{os.cpu_count()} x {model}, Linux {kernel}, Python {python}, commit {commit}"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
