"""The server under test: `vhostuser serve` as a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.interop.netns import Namespace
from tests.interop.process import Program

# State of a listening socket in the flags column of /proc/net/unix (__SO_ACCEPTCON).
LISTENING = "00010000"


def vhostuser_program() -> str:
    """The program of the environment that runs the tests: beside its python."""
    program = Path(sys.executable).with_name("vhostuser")
    assert program.exists(), f"{program} is missing: install the project into the environment of the tests"
    return str(program)


class Server(Program):
    """`vhostuser serve` with the words given, in a namespace if there is one."""

    def __init__(
        self,
        folder: Path,
        *words: str,
        namespace: Namespace | None = None,
        name: str = "server",
        core: int | None = None,
    ) -> None:
        argv = [vhostuser_program(), "serve", *words]
        if core is not None:
            argv = ["taskset", "-c", str(core), *argv]
        if namespace is not None:
            argv = namespace.enter(*argv)
        super().__init__(argv, folder / f"{name}.log")

    def wait_listening(self, path: Path, timeout: float = 10) -> None:
        """Wait until the socket listens, without a connection that the server would take for a front-end."""

        def listens() -> bool:
            try:
                table = Path(f"/proc/{self.pid}/net/unix").read_text()
            except FileNotFoundError:
                return False
            for line in table.splitlines():
                columns = line.split()
                if columns[-1] == str(path) and columns[3] == LISTENING:
                    return True
            return False

        self.wait_for(f"a listening socket {path}", listens, timeout)

    def assert_alive(self) -> None:
        assert self.status is None, f"the server is gone\n{self.describe()}"

    def stop(self) -> None:
        """SIGTERM must end it within a second, with status 0; the machine is busy, so it gets two."""
        self.assert_alive()
        status = self.terminate(timeout=2)
        assert status == 0, f"the server ended with status {status}\n{self.describe()}"
