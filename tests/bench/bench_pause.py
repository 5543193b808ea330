"""How long it takes to have a worker under full load pause: what every change of a device waits for.

    .venv/bin/python -m tests.bench.bench_pause [--pauses 2000] [--seconds 4] [--json FILE]

The server is in this process, its one worker on core 0 under a flood by the embedded C driver, which is on
core 1 with everything else. What is timed is the pause itself, without its message on the socket: asked for
once a millisecond or so, until the worker stands still. Who asks has priority over the driver, for whose time
slice it would wait otherwise. Needs root.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Literal

from tests.bench.bench_driver import FEATURES, RING, SIZES
from tests.bench.report import Figure, Report
from tests.interop.testpmd import BACK_CORE, FRONT_CORE
from tests.site import serving
from vhostuser.config import DeviceConfig
from vhostuser.datapath.worker import Worker, paused
from vhostuser.frontend.flood import Flood, Load

WORKS = ("sink", "echo")
POLLS: tuple[Literal["event", "busy"], ...] = ("event", "busy")
PERCENTILES = (50, 99, 100)


def pauses(worker: Worker, flood: Flood, work: str, size: int, options: argparse.Namespace) -> list[float]:
    """Microseconds, in order of length."""
    load = Load(seconds=options.seconds, frame_size=size, settle=False)
    driver = threading.Thread(target=flood.run if work == "echo" else flood.flood, args=(load,))
    driver.start()
    found: list[float] = []
    while driver.is_alive() and len(found) < options.pauses:
        asked = time.perf_counter_ns()
        with paused([worker]):
            found.append((time.perf_counter_ns() - asked) / 1000)
        time.sleep(0.001)
    driver.join()
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pauses", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    os.sched_setaffinity(0, {FRONT_CORE})
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    report = Report("Pause of a worker under a flood")
    with tempfile.TemporaryDirectory(prefix="vhostuser-") as folder:
        for work in WORKS:
            for poll in POLLS:
                path = Path(folder) / "pause.sock"
                devices = [DeviceConfig(name="vm", socket_path=str(path), port=work)]
                with (
                    serving(devices, 1, poll, cpus=[BACK_CORE]) as (server, _),
                    Flood.connect(path, queue_size=RING, features=FEATURES) as flood,
                ):
                    for size in SIZES:
                        found = pauses(server._workers[0], flood, work, size, options)
                        for percent in PERCENTILES:
                            at = found[min(len(found) * percent // 100, len(found) - 1)]
                            name = f"{work}, {size} B, {poll}, p{percent} of {len(found)}"
                            report.figures.append(Figure(name, "µs", [at]))
                path.unlink(missing_ok=True)
    report.finish(options.json)


if __name__ == "__main__":
    main()
