"""The server of ours that a case is measured on, and what the kernel says about any back-end's process."""

from __future__ import annotations

import contextlib
import socket
import struct
import tempfile
from collections.abc import Iterator, Set
from pathlib import Path

from vhostuser.frontend.bench.model import Case, Work
from vhostuser.frontend.server_process import ServerProcess

_PORTS = {
    Work.SINK: "sink",
    Work.SOURCE: "source:size={size}",
    Work.ECHO: "echo",
    Work.LATENCY: "echo",
    Work.NDR: "echo",
    Work.PAIR: "switch:bench",
}


def words(case: Case, sockets: tuple[str, ...], workers: int) -> list[str]:
    """The words of `vhostuser serve` for a case."""
    port = _PORTS[case.work].format(size=case.size)
    said = ["--log-level", "info"]
    for number, path in enumerate(sockets):
        said += ["--device", f"name=bench{number},socket-path={path},queues={case.queues},port={port}"]
    if case.poll != "loop":
        said += ["--workers", str(workers), "--poll", str(case.poll)]
    return said


@contextlib.contextmanager
def serving(case: Case, workers: int, cpus: Set[int] | None) -> Iterator[tuple[str, ...]]:
    """Its sockets, two of them for a pair, as long as the block runs.

    UsageError, EnvironmentLacksError or PeerError, in the server's own words, when it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="vhostuser-bench-") as folder:
        count = 2 if case.work is Work.PAIR else 1
        sockets = tuple(str(Path(folder) / f"{number}.sock") for number in range(count))
        server = ServerProcess(words(case, sockets, workers), Path(folder) / "server.log", cpus)
        try:
            server.await_socket(sockets=count)
            yield sockets
        finally:
            server.stop()


def peer_pid(sock: socket.socket) -> int:
    """Who is at the other end; 0 in another pid namespace."""
    pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


def program(pid: int) -> str:
    """Its name as the kernel has it, at most 15 bytes; "?" when it cannot be seen."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"


def cpu_time(pid: int) -> int | None:
    """Nanoseconds that all its threads have run; None when the kernel does not say."""
    total = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return total
