"""Many devices in one server: what each costs to set up and to keep, and what the idle ones cost the others.

    .venv/bin/python -m tests.bench.bench_many [--runs 3] [--seconds 1] [--runner loop] [--devices 1000]

All devices are connected by the embedded driver and have carried frames. 16 of them (or all there are) are
then active at once, driven from one core; after that nobody says anything. The server has the other core.
Counts are the drivers' and the kernel's. 1000 devices take 17,000 fds: see `ulimit -Hn`.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.bench_footprint import cpu_ticks, status
from tests.bench.report import Figure, Report
from tests.bench.runners import RUNNERS
from tests.interop.server_process import Server
from tests.interop.testpmd import BACK_CORE, FRONT_CORE
from vhostuser.frontend.flood import Flood, Load
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.server.backend import LOOK_BACK_SECONDS

COUNTS = (1, 16, 256, 1000)
ACTIVE = 16
RING = 64
MEMORY = 4 << 20
IDLE_SECONDS = 5.0


@contextmanager
def serving(folder: Path, count: int, runner: str) -> Iterator[tuple[Server, list[Path]]]:
    paths = [folder / f"{number}.sock" for number in range(count)]
    lines = [
        f'[[device]]\nname = "d{n}"\nsocket-path = "{path}"\nport = "echo"\n' for n, path in enumerate(paths)
    ]
    config = folder / "many.toml"
    config.write_text("\n".join(lines))
    words = ("--config", str(config), "--log-level", "warning", *RUNNERS[runner])
    server = Server(folder, *words, core=BACK_CORE)
    server.wait_listening(paths[-1], 60)
    yield server, paths
    server.stop()


def resident(pid: int) -> float:
    """Kilobytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmRSS")))


def measure(folder: Path, count: int, seconds: float, runner: str) -> dict[str, float]:
    with serving(folder, count, runner) as (server, paths), ExitStack() as stack:
        before = resident(server.pid)
        started = time.monotonic()
        floods = []
        for path in paths:
            memory = stack.enter_context(GuestMemory(MEMORY))
            floods.append(stack.enter_context(Flood.connect(path, queue_size=RING, memory=memory)))
        set_up = time.monotonic() - started
        for flood in floods:
            flood.run(Load(packets=100, window=8))
        kept = (resident(server.pid) - before) / count
        active = floods[:ACTIVE]
        load = Load(seconds=seconds, window=32, settle=False)
        with ThreadPoolExecutor(len(active)) as pool:
            rates = [report.received_rate for report in pool.map(lambda flood: flood.run(load), active)]
        time.sleep(sum(LOOK_BACK_SECONDS) + 0.5)  # past the server's last look at its rings after a start
        switches, ticks = status(server.pid, "voluntary_ctxt_switches"), cpu_ticks(server.pid)
        time.sleep(IDLE_SECONDS)
        return {
            "set up": 1000 * set_up / count,
            "kept": kept,
            "rate": sum(rates) / 1e6,
            "wake-ups": status(server.pid, "voluntary_ctxt_switches") - switches,
            "ticks": cpu_ticks(server.pid) - ticks,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--runner", choices=RUNNERS, default="loop")
    parser.add_argument("--devices", type=int, default=max(COUNTS), help="the most")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.sched_setaffinity(0, {FRONT_CORE})
    counts = [count for count in COUNTS if count <= arguments.devices]
    found: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory(prefix="vhostuser-") as name:
        for _ in range(arguments.runs):
            for count in counts:
                found[count].append(measure(Path(name), count, arguments.seconds, arguments.runner))
    report = Report(f"Many devices in one server, echo, rings of {RING}, runner {arguments.runner}")
    beside = [sample["rate"] for sample in found[ACTIVE]] if ACTIVE in found else []
    for count in counts:
        samples = found[count]
        rates, peer = [sample["rate"] for sample in samples], beside if count > ACTIVE else []
        label = f"{count} connected, {min(count, ACTIVE)} active"
        report.figures.append(Figure(label, "Mpps", rates, peer, f"{ACTIVE} connected"))
        for key, what, unit in (
            ("set up", "set-up of one", "ms"),
            ("kept", "memory of one", "kB"),
            ("wake-ups", f"wake-ups in {IDLE_SECONDS:.0f} quiet s", ""),
            ("ticks", "CPU ticks (10 ms) in them", ""),
        ):
            values = [sample[key] for sample in samples]
            report.figures.append(Figure(f"{count} connected: {what}", unit, values))
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
