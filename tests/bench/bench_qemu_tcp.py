"""TCP between a guest and its host through `--port tap:`, beside QEMU's own virtio-net on a tap (no vhost).

    .venv/bin/python -m tests.bench.bench_qemu_tcp [--runs 5] [--seconds 3] [--json FILE]

One guest with two NICs, both with mergeable buffers and TSO, used in turns (A B A B) in both directions;
iperf3's receiver counts. Under emulation the guest's processor decides, so this is a check of function more
than of speed. Needs root, QEMU and iperf3.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

from tests.bench.report import Figure, Report, side_by_side
from tests.interop.link import Link
from tests.interop.netns import Namespace
from tests.interop.qemu import Guest, TapNic, VhostUserNic
from tests.interop.server_process import Server

PEER = "QEMU virtio-net on tap"
OUR_TAP = "vt0"
PEER_TAP = "vt1"


def compare(links: dict[str, Link], to_guest: bool, runs: int, seconds: int) -> Figure:
    for link in links.values():
        link.iperf3(to_guest, "-t", "1")

    def measure(link: Link) -> float:
        return link.iperf3(to_guest, "-t", str(seconds)).bits_per_second / 1e9

    direction = "host to guest" if to_guest else "guest to host"
    measures = (partial(measure, links[name]) for name in ("ours", "peer"))
    return side_by_side(f"TCP {direction}", "Gbit/s", PEER, runs, *measures)


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
                    report.figures.append(compare(links, to_guest, arguments.runs, arguments.seconds))
            server.stop()
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
