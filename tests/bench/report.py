"""What every benchmark ends with: a table of medians with their spread, and the same as JSON."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vhostuser.frontend.bench import run
from vhostuser.frontend.bench.table import spread_text


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


def side_by_side(
    name: str, unit: str, peer_name: str, runs: int, ours: Callable[[], float], peer: Callable[[], float]
) -> Figure:
    """Ours and the peer's in turns, A B A B; what came of it is printed at once."""
    pairs = [(ours(), peer()) for _ in range(runs)]
    figure = Figure(name, unit, [mine for mine, _ in pairs], [theirs for _, theirs in pairs], peer_name)
    print(f"{name}: {figure.ours} against {figure.peer}", flush=True)
    return figure


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
            peer = f"{figure.peer_name}: {spread_text(figure.peer)} {figure.unit}" if figure.peer else ""
            ratio = spread_text(figure.ratios()) if figure.ratios() else ""
            lines.append(f"| {figure.name} | {spread_text(figure.ours)} {figure.unit} | {peer} | {ratio} |")
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


def machine() -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return f"{run.machine()}, commit {commit}"
