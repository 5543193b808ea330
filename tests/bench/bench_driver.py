"""The embedded C driver in front of sink, echo and tap, beside DPDK's net_vhost doing the same work.

    .venv/bin/python -m tests.bench.bench_driver [--runs 5] [--seconds 1] [--runner busy] [--work sink]

One core each: the back-end on core 0, the driver on core 1. Ours and the peer's take turns (A B A B), in one
run. Frames are counted by the driver (returned by the ring, or received back), on a tap by the kernel.
Needs root and dpdk-testpmd. What turns our rings is the `--runner` (`runners.py`); DPDK polls.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from tests.bench.report import Figure, Report, side_by_side
from tests.bench.runners import RUNNERS, WORKS, add_options, title
from tests.interop.netns import Namespace
from tests.interop.server_process import Server
from tests.interop.testpmd import BACK_CORE, FRONT_CORE, Testpmd, net_tap, net_vhost
from vhostuser.frontend.flood import Flood, Load
from vhostuser.wire.features import VirtioFeature

SIZES = (64, 1500)
RING = 1024
WARM_UP = 50_000
PEER = "DPDK net_vhost"
FEATURES = (
    VirtioFeature.VERSION_1
    | VirtioFeature.MRG_RXBUF
    | VirtioFeature.INDIRECT_DESC
    | VirtioFeature.IN_ORDER
    | VirtioFeature.PROTOCOL_FEATURES
)
"""What virtio-user acknowledges: no event index, so both back-ends are told by flags."""

Start = Callable[[Path, str, Namespace, str], AbstractContextManager[Path]]


@contextmanager
def ours(folder: Path, port: str, namespace: Namespace, runner: str) -> Iterator[Path]:
    path = folder / "ours.sock"
    words = ("--socket-path", str(path), "--port", port, "--log-level", "warning", *RUNNERS[runner])
    server = Server(folder, *words, namespace=namespace, core=BACK_CORE)
    server.wait_listening(path)
    if port.startswith("tap"):
        namespace.run("ip", "link", "set", "tap0", "up")
    yield path
    server.stop()


@contextmanager
def peer(folder: Path, port: str, namespace: Namespace, runner: str) -> Iterator[Path]:
    path = folder / "peer.sock"
    vdevs = [net_vhost(path)] + ([net_tap("tap0")] if port.startswith("tap") else [])
    with Testpmd(folder, *vdevs, prefix=namespace.enter(), main_core=FRONT_CORE) as testpmd:
        testpmd.ready()
        testpmd.start("rxonly" if port == "sink" else "io")
        yield path
        testpmd.quit()


def rate(path: Path, port: str, size: int, seconds: float, namespace: Namespace) -> float:
    """Million frames a second, counted by the driver, or by the kernel where they reach it."""
    with Flood.connect(path, queue_size=RING, features=FEATURES) as flood:
        warm_up = Load(packets=WARM_UP, frame_size=size, settle=False)
        load = Load(seconds=seconds, frame_size=size, settle=False)
        if port == "echo":
            flood.run(warm_up)
            return flood.run(load).received_rate / 1e6
        flood.flood(warm_up)
        if port == "sink":
            return flood.flood(load).sent_rate / 1e6
        before = namespace.received("tap0")
        report = flood.flood(load)
        return (namespace.received("tap0") - before) / report.seconds / 1e6


def compare(work: str, size: int, folder: Path, arguments: argparse.Namespace) -> Figure:
    port = "tap:tap0" if work == "tap" else work

    def measure(start: Start) -> float:
        with Namespace(folder) as namespace, start(folder, port, namespace, arguments.runner) as path:
            return rate(path, port, size, arguments.seconds, namespace)

    return side_by_side(
        f"{work}, {size} B", "Mpps", PEER, arguments.runs, partial(measure, ours), partial(measure, peer)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {FRONT_CORE})
    report = Report(title("Embedded C driver", arguments.runner))
    with tempfile.TemporaryDirectory(prefix="vhostuser-") as name:
        for work in arguments.work or WORKS:
            for size in SIZES:
                report.figures.append(compare(work, size, Path(name), arguments))
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
