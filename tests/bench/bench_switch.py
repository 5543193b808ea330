"""Guest to guest: DPDK's virtio-user in front of two devices on our switch, beside DPDK's net_vhost twice.

    .venv/bin/python -m tests.bench.bench_switch [--runs 5] [--seconds 1] [--runner busy] [--work packed]

One core each: the back-end on core 0, on core 1 one testpmd with both guests' ports, which sends what it
receives on one on the other; hugepages on both sides. Ours looks up where each frame goes, by addresses that
it has learned; DPDK moves frames from one port to the other without looking. Ours and the peer's take turns
(A B A B), in one run; frames are counted where they arrive. Needs root and dpdk-testpmd.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from tests.bench.report import Figure, Report, side_by_side
from tests.bench.runners import RUNNERS, add_options, title
from tests.interop.server_process import Server
from tests.interop.testpmd import BACK_CORE, FRONT_CORE, Testpmd, hugepages, net_vhost, virtio_user

WORKS = ("split", "packed")
SIZES = (64, 1500)
RING = 1024
BURSTS_UNDER_WAY = 8
"""In each direction."""
PEER = "DPDK net_vhost"
MACS = ("52:54:00:00:00:01", "52:54:00:00:00:02")

Start = Callable[[Path, str], AbstractContextManager[tuple[Path, Path]]]


@contextmanager
def ours(folder: Path, runner: str) -> Iterator[tuple[Path, Path]]:
    paths = folder / "ours1.sock", folder / "ours2.sock"
    devices = [f"name=vm{n},socket-path={path},port=switch:lan" for n, path in enumerate(paths, 1)]
    words = [word for device in devices for word in ("--device", device)]
    with Server(folder, *words, "--log-level", "warning", *RUNNERS[runner], core=BACK_CORE) as server:
        for path in paths:
            server.wait_listening(path)
        yield paths
        server.stop()


@contextmanager
def peer(folder: Path, runner: str) -> Iterator[tuple[Path, Path]]:
    paths = folder / "peer1.sock", folder / "peer2.sock"
    vdevs = [net_vhost(path, number=n) for n, path in enumerate(paths)]
    with Testpmd(folder, *vdevs, main_core=FRONT_CORE, huge=True, name="back") as back:
        back.ready()
        back.start("io")
        yield paths
        back.quit()


def rate(folder: Path, paths: tuple[Path, Path], work: str, size: int, seconds: float) -> float:
    """Million frames a second, both directions together."""
    vdevs = [
        virtio_user(path, 1, RING, number=n, mac=mac, packed_vq=int(work == "packed"))
        for n, (path, mac) in enumerate(zip(paths, MACS, strict=True))
    ]
    with Testpmd(folder, *vdevs, huge=True, name="front") as front:
        front.ready()
        for port, mac in enumerate(reversed(MACS)):
            front.command(f"set eth-peer {port} {mac}")
        front.start("io", str(size), first=BURSTS_UNDER_WAY)
        front.rates(0.2)
        first, second = (front.rates(seconds, port) for port in (0, 1))
        front.stop()
        front.quit()
        return (first.received + second.received) / 1e6


def compare(work: str, size: int, folder: Path, arguments: argparse.Namespace) -> Figure:
    def measure(start: Start) -> float:
        with start(folder, arguments.runner) as paths:
            return rate(folder, paths, work, size, arguments.seconds)

    return side_by_side(
        f"guest to guest, {work}, {size} B",
        "Mpps",
        PEER,
        arguments.runs,
        partial(measure, ours),
        partial(measure, peer),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser, WORKS)
    arguments = parser.parse_args()
    report = Report(title("two ports of DPDK virtio-user", arguments.runner))
    with tempfile.TemporaryDirectory(prefix="vhostuser-") as name, hugepages(2):
        for work in arguments.work or WORKS:
            for size in SIZES:
                report.figures.append(compare(work, size, Path(name), arguments))
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
