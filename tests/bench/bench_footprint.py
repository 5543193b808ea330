"""Start, size and idleness of `vhostuser serve`: time to listening, resident memory, wake-ups with a guest.

.venv/bin/python -m tests.bench.bench_footprint [--json FILE]
"""

from __future__ import annotations

import argparse
import compileall
import socket
import tempfile
import time
from pathlib import Path

import vhostuser
from tests.bench.report import Figure, Report
from tests.interop.server_process import Server
from vhostuser.frontend.flood import Flood, Load

RUNS = 5
IDLE_SECONDS = 5.0


def time_to_listening(folder: Path) -> float:
    """Milliseconds from the start of the process to the first accepted connection."""
    path = folder / "start.sock"
    started = time.monotonic()
    server = Server(folder, "--socket-path", str(path), "--port", "echo")
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
                break
            except OSError:
                time.sleep(0.001)
    elapsed = time.monotonic() - started
    server.stop()
    return elapsed * 1000


def status(pid: int, *names: str) -> int:
    """The sum of these numbers of /proc/PID/status over all threads."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        lines = (thread / "status").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.split(":")[0] in names)
    return total


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def with_guest(folder: Path) -> tuple[float, float, float]:
    """Resident MB; wake-ups and CPU ticks in `IDLE_SECONDS`, of a server with a quiet guest."""
    path = folder / "idle.sock"
    server = Server(folder, "--socket-path", str(path), "--port", "echo")
    server.wait_listening(path)
    with Flood.connect(path) as flood:
        flood.run(Load(packets=100_000, window=64))
        time.sleep(1.5)  # past the last look at the rings after a start
        switches = status(server.pid, "voluntary_ctxt_switches")
        ticks = cpu_ticks(server.pid)
        time.sleep(IDLE_SECONDS)
        woken = status(server.pid, "voluntary_ctxt_switches") - switches
        used = cpu_ticks(server.pid) - ticks
        lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
        resident = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
    server.stop()
    return resident, woken, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    report = Report("Start, size and idleness")
    with tempfile.TemporaryDirectory(prefix="vhostuser-") as name:
        folder = Path(name)
        # An installed server has its bytecode: pip compiles it, and examples/lib/setup.sh in a checkout.
        compileall.compile_dir(Path(vhostuser.__file__).parent, quiet=1)
        starts = [time_to_listening(folder) for _ in range(RUNS)]
        guests = [with_guest(folder) for _ in range(3)]
    report.figures += [
        Figure("start to listening", "ms", starts),
        Figure("resident memory with a guest", "MB", [guest[0] for guest in guests]),
        Figure(
            f"wake-ups in {IDLE_SECONDS:.0f} s, guest connected and quiet", "", [guest[1] for guest in guests]
        ),
        Figure(f"CPU ticks (10 ms) in {IDLE_SECONDS:.0f} s", "", [guest[2] for guest in guests]),
    ]
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
