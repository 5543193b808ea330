"""From a tap to a guest at a rate that both can do: CPU time of the back-end for a frame.

    .venv/bin/python -m tests.bench.bench_tap_cpu [--runs 5] [--seconds 1] [--runner event] [--rate 50000]

A packet socket sends into the tap (csrc/packet_sender.c), the embedded C driver takes in, both on core 1; the
back-end is on core 0. Of ours it is all CPU time of the process, by the kernel's account; of DPDK's net_vhost
and net_tap, which poll, only the cycles of the turns in which there was a frame, as testpmd counts them.
Frames are counted by the driver. Ours and the peer's take turns (A B A B). Needs root, dpdk-testpmd and a C
compiler.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from tests.bench.bench_driver import FEATURES, ours
from tests.bench.report import Report, side_by_side
from tests.bench.runners import RUNNERS
from tests.interop.netns import Namespace
from tests.interop.testpmd import FRONT_CORE, Testpmd, net_tap, net_vhost
from vhostuser.frontend.flood import Flood, Load
from vhostuser.frontend.flood import Report as Received
from vhostuser.frontend.peer_process import cpu_time, listener_pid

SIZES = (64, 1500)
RING = 1024
TAP = "tap0"
PEER = "DPDK net_vhost and net_tap, busy cycles"
SOURCE = Path(__file__).parent / "csrc" / "packet_sender.c"


def received(
    flood: Flood, folder: Path, namespace: Namespace, size: int, options: argparse.Namespace
) -> Received:
    """What the driver took in while frames were sent."""
    words = [str(folder / "sender"), TAP, str(size), str(options.rate), str(options.seconds)]
    with subprocess.Popen(namespace.enter(*words), stdout=subprocess.PIPE, text=True) as sender:
        report = flood.drain(Load(seconds=options.seconds + 0.2, sleep=True))
        assert sender.stdout
        sent = int(sender.stdout.read())
    assert report.received >= 0.9 * sent >= 0.8 * options.rate * options.seconds, (report.received, sent)
    return report


def of_ours(folder: Path, size: int, options: argparse.Namespace) -> float:
    """Nanoseconds."""
    with (
        Namespace(folder) as namespace,
        ours(folder, f"tap:{TAP}", namespace, options.runner) as path,
        Flood.connect(path, queue_size=RING, features=FEATURES) as flood,
    ):
        received(flood, folder, namespace, size, options)
        pid = listener_pid(flood.frontend.socket)
        before = cpu_time(pid)
        report = received(flood, folder, namespace, size, options)
        after = cpu_time(pid)
        assert before is not None
        assert after is not None
        return (after - before) / report.received


def of_the_peer(folder: Path, size: int, options: argparse.Namespace) -> float:
    path = folder / "peer.sock"
    with (
        Namespace(folder) as namespace,
        Testpmd(
            folder, net_vhost(path), net_tap(TAP), prefix=namespace.enter(), main_core=FRONT_CORE
        ) as testpmd,
    ):
        testpmd.ready()
        testpmd.record_busy()
        namespace.run("ip", "link", "set", TAP, "up")
        testpmd.start("io")
        with Flood.connect(path, queue_size=RING, features=FEATURES) as flood:
            received(flood, folder, namespace, size, options)
            testpmd.command("stop", timeout=20)
            testpmd.command("start")
            received(flood, folder, namespace, size, options)
            busy = testpmd.stop_busy()
        testpmd.quit()
        return busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rate", type=int, default=50_000)
    parser.add_argument("--runner", choices=RUNNERS, default="event")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    os.sched_setaffinity(0, {FRONT_CORE})
    report = Report(f"From a tap to a guest, {options.rate} frames a second, runner {options.runner}")
    with tempfile.TemporaryDirectory(prefix="vhostuser-") as made:
        folder = Path(made)
        subprocess.run(["cc", "-O2", str(SOURCE), "-o", str(folder / "sender")], check=True)
        for size in SIZES:
            measures = (partial(one, folder, size, options) for one in (of_ours, of_the_peer))
            name = f"CPU time for a frame of {size} B"
            report.figures.append(side_by_side(name, "ns", PEER, options.runs, *measures))
    report.finish(options.json)


if __name__ == "__main__":
    main()
