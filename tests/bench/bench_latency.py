"""Round trips of single frames through echo, beside DPDK's net_vhost, which polls.

    .venv/bin/python -m tests.bench.bench_latency [--runs 5] [--seconds 1] [--runner busy]

The embedded C driver on core 1 sends one frame, polls until it is back, and sends the next; the back-end is
on core 0. Every runner, or the one that is named, and the peer take turns in one run. Needs root and
dpdk-testpmd.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from tests.bench.bench_driver import FEATURES, PEER, ours, peer
from tests.bench.report import Figure, Report
from tests.bench.runners import RUNNERS
from tests.interop.netns import Namespace
from tests.interop.testpmd import FRONT_CORE
from vhostuser.frontend.flood import Flood, Load

RING = 256
WARM_UP = 2000
PERCENTILES = (50, 99)


def percentiles(path: Path, seconds: float) -> list[float]:
    """Microseconds of a round trip."""
    with Flood.connect(path, queue_size=RING, features=FEATURES) as flood:
        flood.ping(Load(packets=WARM_UP))
        _, latency = flood.ping(Load(seconds=seconds))
    return [latency.percentile(percent) / 1000 for percent in PERCENTILES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--runner", choices=RUNNERS, action="append", help="all of them by default")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {FRONT_CORE})
    report = Report("Round trip of one 60 B frame through echo")
    names = [*(arguments.runner or RUNNERS), PEER]
    found: dict[str, list[list[float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="vhostuser-") as made:
        folder = Path(made)
        for _ in range(arguments.runs):
            for name in names:
                start = peer if name == PEER else ours
                with Namespace(folder) as namespace, start(folder, "echo", namespace, name) as path:
                    found[name].append(percentiles(path, arguments.seconds))
    for name in names[:-1]:
        for at, percent in enumerate(PERCENTILES):
            mine, theirs = ([sample[at] for sample in found[who]] for who in (name, PEER))
            report.figures.append(Figure(f"{name}, p{percent}", "µs", mine, theirs, PEER))
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
