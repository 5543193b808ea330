"""DPDK's virtio-user in front of sink, echo and tap, beside DPDK's net_vhost doing the same work.

    .venv/bin/python -m tests.bench.bench_testpmd [--runs 5] [--seconds 1] [--runner busy] [--work sink]

One core each: the back-end on core 0, the front-end on core 1, both with hugepages. Ours and the peer's take
turns (A B A B), in one run. Frames are counted by the front-end's testpmd, on a tap by the kernel.
Needs root and dpdk-testpmd. What turns our rings is the `--runner` (`runners.py`); DPDK polls.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from tests.bench.report import Figure, Report, side_by_side
from tests.bench.runners import RUNNERS, WORKS, add_options, title
from tests.interop.netns import Namespace
from tests.interop.server_process import Server
from tests.interop.testpmd import BACK_CORE, FRONT_CORE, Testpmd, hugepages, net_tap, net_vhost, virtio_user

SIZES = (64, 1500)
RING = 1024
BURSTS_UNDER_WAY = 16
TAP = "tap0"
PEER = "DPDK net_vhost"

Start = Callable[[Path, str, Namespace, str], AbstractContextManager[Path]]


@contextmanager
def ours(folder: Path, work: str, namespace: Namespace, runner: str) -> Iterator[Path]:
    path = folder / "ours.sock"
    port = f"tap:{TAP}" if work == "tap" else work
    words = ("--socket-path", str(path), "--port", port, "--log-level", "warning", *RUNNERS[runner])
    with Server(folder, *words, namespace=namespace, core=BACK_CORE) as server:
        server.wait_listening(path)
        yield path
        server.stop()


@contextmanager
def peer(folder: Path, work: str, namespace: Namespace, runner: str) -> Iterator[Path]:
    path = folder / "peer.sock"
    vdevs = [net_vhost(path)] + ([net_tap(TAP)] if work == "tap" else [])
    # Its prompt is on the front-end's core, where it sleeps; it polls on core 0.
    back = Testpmd(folder, *vdevs, prefix=namespace.enter(), main_core=FRONT_CORE, huge=True, name="back")
    with back:
        back.ready()
        back.start("rxonly" if work == "sink" else "io")
        yield path
        back.quit()


def rate(folder: Path, path: Path, work: str, size: int, seconds: float, namespace: Namespace) -> float:
    """Million frames a second, of which the first moments are not counted."""
    with Testpmd(folder, virtio_user(path, 1, RING), huge=True, name="front") as front:
        front.ready()
        if work == "tap":
            namespace.run("ip", "link", "set", TAP, "up")
        if work == "echo":
            front.start("io", str(size), first=BURSTS_UNDER_WAY)
        else:
            front.start("txonly", str(size))
        front.rates(0.2)
        started, before = time.monotonic(), namespace.received(TAP) if work == "tap" else 0
        rates = front.rates(seconds)
        if work == "tap":
            frames = namespace.received(TAP) - before
            return frames / (time.monotonic() - started) / 1e6
        front.stop()
        front.quit()
        return (rates.received if work == "echo" else rates.sent) / 1e6


def compare(work: str, size: int, folder: Path, arguments: argparse.Namespace) -> Figure:
    def measure(start: Start) -> float:
        with Namespace(folder) as namespace, start(folder, work, namespace, arguments.runner) as path:
            return rate(folder, path, work, size, arguments.seconds, namespace)

    return side_by_side(
        f"{work}, {size} B", "Mpps", PEER, arguments.runs, partial(measure, ours), partial(measure, peer)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser)
    arguments = parser.parse_args()
    report = Report(title("DPDK virtio-user", arguments.runner))
    with tempfile.TemporaryDirectory(prefix="vhostuser-") as name, hugepages(2):
        for work in arguments.work or WORKS:
            for size in SIZES:
                report.figures.append(compare(work, size, Path(name), arguments))
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
