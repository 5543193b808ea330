"""The server behind testpmd, and what either of them counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.interop.netns import Namespace
from tests.interop.server_process import Server
from tests.interop.testpmd import Testpmd

RING = 1024
BURSTS = 8
ENOUGH = 10_000


@contextmanager
def serve(
    folder: Path, path: Path, port: str, *words: str, namespace: Namespace | None = None
) -> Iterator[Server]:
    words = ("--socket-path", str(path), "--port", port, *words)
    with Server(folder, *words, namespace=namespace) as server:
        server.wait_listening(path)
        yield server
        server.stop()


def stopped_at(server: Server, ring: int) -> int:
    """Where the server told the front-end that it stopped: how many chains it has taken, modulo 2**16."""
    return int(server.wait_log(rf"ring {ring} stopped at (\d+)")[1])


def served(server: Server) -> tuple[int, int]:
    """Frames from the guest and to the guest, as the server counts them."""
    found = server.wait_log(r"so far: (\d+) frames .* from the guest; (\d+) frames .* to the guest")
    return int(found[1]), int(found[2])


def per_queue(front: Testpmd, direction: str, queues: int) -> list[int]:
    xstats = front.xstats()
    return [xstats[f"{direction}_q{queue}_good_packets"] for queue in range(queues)]
