"""What the kernel says about a process."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from vhostuser.frontend.check.peer import connect
from vhostuser.frontend.peer_process import cpu_time, listener_pid, program


def test_listener_pid_is_that_of_the_process_that_listens(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "l.sock"))
        listener.listen(1)
        with connect(tmp_path / "l.sock", 1) as sock:
            assert listener_pid(sock) == os.getpid()


def test_peer_is_known_by_its_process() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert listener_pid(one) == os.getpid()


def test_cpu_time_is_that_of_all_threads() -> None:
    before, mine = cpu_time(os.getpid()), time.process_time_ns()
    assert before is not None
    while time.process_time_ns() - mine < 20_000_000:
        pass
    after = cpu_time(os.getpid())
    assert after is not None
    assert after - before >= 10_000_000


def test_process_that_is_not_there_is_not_known() -> None:
    assert cpu_time(0) is None
    assert program(0) == "?"
