"""The namespace that the demo plays in, as the program that it is."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vhostuser.errors import EnvironmentLacksError
from vhostuser.frontend import world
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.frames import Endpoint, arp_request, parse_arp_reply, parse_ipv4, udp_start
from vhostuser.frontend.world import ECHO_PORT, GUEST, HOST_IP, TAP

Process = subprocess.Popen[bytes]


@contextmanager
def running(path: Path) -> Iterator[Process]:
    process = subprocess.Popen(
        [sys.executable, "-m", "vhostuser.frontend.world", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
        process.wait(20)


def read(process: Process) -> dict[str, int]:
    assert process.stdout is not None
    answer: dict[str, int] = json.loads(process.stdout.readline())
    return answer


def ask(process: Process) -> dict[str, int]:
    assert process.stdin is not None
    process.stdin.write(b"counts\n")
    process.stdin.flush()
    return read(process)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def interfaces() -> str:
    return Path("/proc/self/net/dev").read_text()


def test_server_and_tap_live_in_a_namespace_of_their_own(tmp_path: Path) -> None:
    with running(tmp_path / "w.sock") as process:
        server = read(process)["ready"]
        assert os.readlink(f"/proc/{server}/ns/net") != os.readlink("/proc/self/ns/net")
        assert TAP not in interfaces()
        assert TAP in Path(f"/proc/{server}/net/dev").read_text()


def test_nothing_is_left_when_its_input_closes(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    with running(path) as process:
        server = read(process)["ready"]
    assert process.returncode == 0
    assert not is_alive(server)
    assert not path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_it_is_told_to_end(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path / "w.sock") as process:
        server = read(process)["ready"]
        process.send_signal(number)
        process.wait(20)
        assert not is_alive(server)


def test_kernel_resolves_and_echoes_and_both_ends_count_it(tmp_path: Path) -> None:
    guest = Endpoint(GUEST.mac, GUEST.ip, 40000)
    with running(tmp_path / "w.sock") as process:
        read(process)
        with VirtioNetDriver.connect(tmp_path / "w.sock") as nic:
            nic.send(arp_request(GUEST, HOST_IP))
            host = None
            while host is None:
                host = parse_arp_reply(nic.recv().frame)
            nic.send(udp_start(guest, Endpoint(host.mac, host.ip, ECHO_PORT), 5) + b"hello")
            datagram = None
            while datagram is None:
                datagram = parse_ipv4(nic.recv().frame)
        assert (datagram.content, datagram.source.port, datagram.destination) == (b"hello", ECHO_PORT, guest)
        counts = ask(process)
        assert (counts["echoed"], counts["discarded"]) == (1, 0)
        assert counts["tap_from_guest"] >= 2
        assert counts["tap_to_guest"] >= 2


def test_world_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with running(tmp_path / "missing" / "w.sock") as process:
        answer = read(process)
    assert "lacks" in answer


class FakeLibc:
    """A kernel that allows no namespaces."""

    def __init__(self, *outcomes: int) -> None:
        self.outcomes = list(outcomes)
        self.flags: list[int] = []

    def unshare(self, flags: int) -> int:
        self.flags.append(flags)
        return self.outcomes.pop(0)


def test_namespace_through_a_user_namespace_is_the_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeLibc(-1, -1)
    monkeypatch.setattr(world, "_libc", fake)
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EPERM)
    with pytest.raises(EnvironmentLacksError, match=r"Operation not permitted.*run as root"):
        world.unshare_network()
    assert [bool(flags & world._CLONE_NEWUSER) for flags in fake.flags] == [False, True]


def test_namespace_of_root_needs_no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeLibc(0)
    monkeypatch.setattr(world, "_libc", fake)
    world.unshare_network()
    assert len(fake.flags) == 1
