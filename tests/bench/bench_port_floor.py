"""From a guest to a tap or a packet socket, beside a plain program that writes the same frames to such a one.

    .venv/bin/python -m tests.bench.bench_port_floor [--runs 5] [--seconds 1] [--runner busy] [--work 60000]
                                                     [--port packet]

The writer (csrc/port_writer.c) has no guest, no rings and nothing to check: who writes to a tap (by io_uring)
or to a packet socket (by sendmmsg) from user space is hardly faster. It and our server have core 0 in turns
(A B A B); the embedded C driver is on core 1. Frames are counted by the kernel, as the tap's or as those that
come out at the other end of a veth. 64 and 1500 B are plain frames, 60000 B are TCP segments to be cut into
1448.
Needs root, a C compiler and liburing's headers (liburing-dev).
"""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from tests.bench.bench_driver import FEATURES, ours
from tests.bench.report import Report, side_by_side
from tests.bench.runners import add_options, title
from tests.interop.netns import Namespace
from tests.interop.testpmd import BACK_CORE, FRONT_CORE
from vhostuser.frontend.flood import Flood, Load, ethernet
from vhostuser.frontend.net_header import GsoType, HeaderFlag, NetHeader
from vhostuser.wire.features import VirtioFeature

SIZES = ("64", "1500", "60000")
RING = 1024
WARM_UP = 20_000
SOURCE = Path(__file__).parent / "csrc" / "port_writer.c"
PORTS = {"tap": ("tap:tap0", "tap0", "io_uring writer"), "packet": ("packet:vm1", "far", "sendmmsg writer")}
"""The port, the interface that counts what came out of it, and what is beside ours."""
SEGMENTS = VirtioFeature.CSUM | VirtioFeature.HOST_TSO4
SEGMENT_HEADER = NetHeader(
    flags=HeaderFlag.NEEDS_CSUM,
    gso_type=GsoType.TCPV4,
    hdr_len=54,
    gso_size=1448,
    csum_start=34,
    csum_offset=16,
)


def load(size: int) -> Load:
    """What one frame looks like."""
    if size <= 1514:
        return Load(frame_size=size, settle=False)
    # TCP from 192.0.2.2 to 192.0.2.1, to a MAC that nobody has: the kernel looks at it and throws it away.
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, size - 14, 0, 0, 64, 6, 0, b"\xc0\0\2\2", b"\xc0\0\2\1")
    tcp = struct.pack("!HHIIBBHHH", 40000, 9, 1, 1, 0x50, 0x10, 65535, 0, 0)
    start = ethernet(b"\x02\0\0\0\0\x09", ethertype=0x0800) + ip + tcp
    return Load(frame_size=size, template=start, header=SEGMENT_HEADER, settle=False)


def make(namespace: Namespace, port: str) -> None:
    """The interfaces that are to be there before the port is opened."""
    if port.startswith("packet"):
        namespace.run("ip", "link", "add", "vm1", "type", "veth", "peer", "name", "far")
        for end in ("vm1", "far"):
            # No address, so that the kernel itself says nothing there.
            namespace.run("ip", "link", "set", end, "addrgenmode", "none", "up")


def through_us(folder: Path, size: int, arguments: argparse.Namespace) -> float:
    """Million frames a second."""
    port, counted, _ = PORTS[arguments.port]
    one = load(size)
    features = FEATURES | (SEGMENTS if size > 1514 else VirtioFeature(0))
    with Namespace(folder) as namespace:
        make(namespace, port)
        with (
            ours(folder, port, namespace, arguments.runner) as path,
            Flood.connect(path, queue_size=RING, features=features) as flood,
        ):
            assert features in flood.features
            flood.flood(changed(one, packets=WARM_UP))
            before = namespace.received(counted)
            report = flood.flood(changed(one, seconds=arguments.seconds))
            return (namespace.received(counted) - before) / report.seconds / 1e6


def changed(one: Load, *, packets: int = 0, seconds: float = 0.0) -> Load:
    return Load(packets, seconds, one.frame_size, one.template, one.header, settle=False)


def by_the_writer(folder: Path, size: int, arguments: argparse.Namespace) -> float:
    port, counted, _ = PORTS[arguments.port]
    one = load(size)
    start = one.header.build(12) + one.template
    with Namespace(folder) as namespace:
        make(namespace, port)
        words = [str(folder / "writer"), port, str(size), str(arguments.seconds), str(RING), start.hex()]
        with subprocess.Popen(
            namespace.enter("taskset", "-c", str(BACK_CORE), *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdin
            assert writer.stdout
            assert writer.stdout.readline() == "ready\n"
            namespace.run("ip", "link", "set", port.partition(":")[2], "up")
            before = namespace.received(counted)
            writer.stdin.write("go\n")
            writer.stdin.flush()
            taken, seconds = writer.stdout.readline().split()
            # The tap goes with its writer, which waits for the end of its input.
            frames = namespace.received(counted) - before
            assert frames <= int(taken)
        return frames / float(seconds) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser, SIZES)
    parser.add_argument("--port", choices=PORTS, default="tap")
    arguments = parser.parse_args()
    peer = PORTS[arguments.port][2]
    os.sched_setaffinity(0, {FRONT_CORE})
    report = Report(
        title(f"Embedded C driver to a {arguments.port} port", arguments.runner).replace(
            "DPDK's polling", peer
        )
    )
    with tempfile.TemporaryDirectory(prefix="vhostuser-") as name:
        folder = Path(name)
        subprocess.run(["cc", "-O2", str(SOURCE), "-luring", "-o", str(folder / "writer")], check=True)
        for work in arguments.work or SIZES:
            measures = (partial(one, folder, int(work), arguments) for one in (through_us, by_the_writer))
            report.figures.append(
                side_by_side(f"{arguments.port}, {work} B", "Mpps", peer, arguments.runs, *measures)
            )
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
