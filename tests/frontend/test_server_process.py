"""The server as a child: what its end means, and on which CPU it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vhostuser.errors import EnvironmentLacksError, UsageError
from vhostuser.frontend.server_process import ServerProcess


def serve(folder: Path, port: str, *more: str, cpus: set[int] | None = None) -> ServerProcess:
    words = ["-s", str(folder / "s.sock"), "--port", port, *more]
    return ServerProcess(words, folder / "s.log", cpus)


def test_server_that_lacks_something_says_what(tmp_path: Path) -> None:
    server = serve(tmp_path, "tap:fd=977")
    with pytest.raises(EnvironmentLacksError, match="977"):
        server.await_socket()
    server.stop()


def test_server_that_does_not_understand_is_quoted(tmp_path: Path) -> None:
    server = serve(tmp_path, "nonsense")
    with pytest.raises(UsageError, match="nonsense"):
        server.await_socket()
    server.stop()


def test_server_that_said_nothing_has_no_last_words(tmp_path: Path) -> None:
    server = serve(tmp_path, "echo")
    server.await_socket()
    server.stop()
    (tmp_path / "s.log").unlink()
    assert server.last_words() == "it said nothing"


def test_server_stays_on_its_cpu(tmp_path: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    server = serve(tmp_path, "echo", cpus={cpu})
    server.await_socket()
    assert os.sched_getaffinity(server.process.pid) == {cpu}
    server.stop()
