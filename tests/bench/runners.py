"""What turns our rings in a measurement, and which works are measured: the options that benchmarks share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

WORKS = ("sink", "echo", "tap")
RUNNERS: dict[str, tuple[str, ...]] = {
    "loop": (),
    "event": ("--workers", "1", "--poll", "event"),
    "adaptive": ("--workers", "1", "--poll", "adaptive"),
    "busy": ("--workers", "1", "--poll", "busy"),
}
"""The event loop, or one thread that waits in one of the ways; all of it on the back-end's one core."""


def add_options(parser: argparse.ArgumentParser, works: Sequence[str] = WORKS) -> None:
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--runner", choices=RUNNERS, default="busy")
    parser.add_argument("--work", choices=works, action="append", help="all of them by default")
    parser.add_argument("--json", metavar="FILE")


def title(front: str, runner: str) -> str:
    ours = "event loop" if runner == "loop" else f"one thread, --poll {runner}"
    return f"{front}, one core each, ring of 1024, {ours} against DPDK's polling"
