"""The server of ours that a case is measured on."""

from __future__ import annotations

import contextlib
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
