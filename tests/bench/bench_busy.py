"""What a frame costs a thread that polls, its looks at an empty ring left out: DPDK's virtio-user in front.

    .venv/bin/python -m tests.bench.bench_busy [--runs 5] [--seconds 1] [--work sink]

Where the front-end is slower than both back-ends, the rates of bench_testpmd are its own; this tells them
apart all the same. Ours is the time that the worker was busy with `--poll busy`, as it says in its last line;
the peer's the cycles of turns in which there was a frame, as its testpmd counts them. Both are divided by the
frames that the front-end counted. One core each, hugepages; ours and the peer's take turns (A B A B). Needs
root and dpdk-testpmd.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from functools import partial
from pathlib import Path

from tests.bench.bench_testpmd import BURSTS_UNDER_WAY, PEER, RING, SIZES
from tests.bench.report import Report, side_by_side
from tests.interop.server_process import Server
from tests.interop.testpmd import BACK_CORE, FRONT_CORE, Testpmd, hugepages, net_vhost, virtio_user

WORKS = ("sink", "echo")
_BUSY = re.compile(r"worker 0: .* busy ([\d.]+) s, ([\d.]+)% of its time awake")


def drive(folder: Path, path: Path, work: str, size: int, seconds: float) -> int:
    """Frames that the back-end took."""
    with Testpmd(folder, virtio_user(path, 1, RING), huge=True, name="front") as front:
        front.ready()
        if work == "echo":
            front.start("io", str(size), first=BURSTS_UNDER_WAY)
        else:
            front.start("txonly", str(size))
        front.rates(seconds)
        front.stop()
        sent = front.counts().sent
        front.quit()
        return sent


def of_ours(folder: Path, work: str, size: int, seconds: float) -> float:
    """Nanoseconds a frame."""
    path = folder / "ours.sock"
    words = ("--socket-path", str(path), "--port", work, "--workers", "1", "--poll", "busy")
    with Server(folder, *words, core=BACK_CORE) as server:
        server.wait_listening(path)
        frames = drive(folder, path, work, size, seconds)
        server.stop()
        found = _BUSY.search(server.log)
        assert found, server.describe()
        return float(found[1]) * 1e9 / frames


def of_the_peer(folder: Path, work: str, size: int, seconds: float) -> float:
    path = folder / "peer.sock"
    with Testpmd(folder, net_vhost(path), main_core=FRONT_CORE, huge=True, name="back") as back:
        back.ready()
        back.record_busy()
        back.start("rxonly" if work == "sink" else "io")
        drive(folder, path, work, size, seconds)
        busy = back.stop_busy()
        back.quit()
        return busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--work", choices=WORKS, action="append", help="all of them by default")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    report = Report("DPDK virtio-user, one core each, ring of 1024: busy time of a frame")
    with tempfile.TemporaryDirectory(prefix="vhostuser-") as name, hugepages(2):
        for work in options.work or WORKS:
            for size in SIZES:
                measures = (
                    partial(one, Path(name), work, size, options.seconds) for one in (of_ours, of_the_peer)
                )
                report.figures.append(
                    side_by_side(f"{work}, {size} B, busy", "ns", PEER, options.runs, *measures)
                )
    report.finish(options.json)


if __name__ == "__main__":
    main()
