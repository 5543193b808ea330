"""A guest, the server and a tap between them: what most of the QEMU tests start from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.interop.link import Link
from tests.interop.netns import Namespace
from tests.interop.qemu import Guest, VhostUserNic
from tests.interop.server_process import Server


@dataclass(slots=True)
class Rig:
    """The parts; `server` and `guest` are replaced by the tests that kill one of them."""

    folder: Path
    namespace: Namespace
    socket: Path
    server: Server
    guest: Guest

    @property
    def link(self) -> Link:
        return Link(self.guest, self.namespace)


@contextmanager
def tap_rig(
    folder: Path,
    namespace: Namespace,
    queues: int = 1,
    port: str = "tap:vt0",
    *,
    device: str = "",
    machine: Sequence[str] = (),
    kernel_words: str = "",
) -> Iterator[Rig]:
    """A server that listens and a booted guest that connects to it, the link up; the server must end well.

    `device` has further words for the NIC, the last two are those of `Guest`.
    """
    socket = folder / "vm1.sock"
    words = ("--socket-path", str(socket), "--queues", str(queues), "--port", port)
    with Server(folder, *words, namespace=namespace) as server:
        server.wait_listening(socket)
        nic = VhostUserNic(socket, queues, device=device)
        with Guest(
            folder, [nic], namespace, cpus=queues, machine=machine, kernel_words=kernel_words
        ) as guest:
            guest.boot()
            rig = Rig(folder, namespace, socket, server, guest)
            try:
                rig.link.up()
                yield rig
                rig.guest.kill()
                rig.server.stop()
            finally:
                rig.guest.kill()
                rig.server.kill()
