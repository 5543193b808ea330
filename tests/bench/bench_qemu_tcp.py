"""TCP between a guest and its host through `--port tap:`, beside QEMU's own virtio-net on a tap (no vhost).

    .venv/bin/python -m tests.bench.bench_qemu_tcp [--runs 5] [--seconds 3] [--json FILE]

One guest with two NICs, both with mergeable buffers and TSO, used in turns (A B A B) in both directions;
iperf3's receiver counts. Under emulation the guest's processor decides, so this is a check of function more
than of speed. Needs root, QEMU and iperf3.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.bench.report import Figure, Report
from tests.interop.link import Link
from tests.interop.netns import Namespace
from tests.interop.qemu import Guest, TapNic, VhostUserNic
from tests.interop.server_process import Server

PEER = "QEMU virtio-net on tap"
OUR_TAP = "vt0"
PEER_TAP = "vt1"


def compare(links: dict[str, Link], to_guest: bool, runs: int, seconds: int) -> Figure:
    samples: dict[str, list[float]] = {name: [] for name in links}
    for link in links.values():
        link.iperf3(to_guest, "-t", "1")
    for _ in range(runs):
        for name, link in links.items():
            samples[name].append(link.iperf3(to_guest, "-t", str(seconds)).bits_per_second / 1e9)
    direction = "host to guest" if to_guest else "guest to host"
    return Figure(f"TCP {direction}", "Gbit/s", samples["ours"], samples["peer"], PEER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    report = Report("TCP of one guest under QEMU's emulation, by two NICs in turns")
    with tempfile.TemporaryDirectory(prefix="vhostuser-") as name, Namespace(Path(name)) as namespace:
        folder = Path(name)
        path = folder / "vm1.sock"
        words = ("--socket-path", str(path), "--port", f"tap:{OUR_TAP}", "--log-level", "warning")
        namespace.add_tap(PEER_TAP)
        with Server(folder, *words, namespace=namespace) as server:
            server.wait_listening(path)
            with Guest(folder, [VhostUserNic(path), TapNic(PEER_TAP)], namespace) as guest:
                guest.boot()
                links = {
                    "ours": Link(guest, namespace, "eth0", OUR_TAP, 0),
                    "peer": Link(guest, namespace, "eth1", PEER_TAP, 1),
                }
                for link in links.values():
                    link.up()
                for to_guest in (False, True):
                    figure = compare(links, to_guest, arguments.runs, arguments.seconds)
                    report.figures.append(figure)
                    print(f"{figure.name}: {figure.ours} against {figure.peer}", flush=True)
            server.stop()
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
