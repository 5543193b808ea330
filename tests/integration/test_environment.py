"""What the machine lacks: status 3 and one sentence that says what to change. Real processes."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.site import RING_SIZE, echo
from vhostuser.frontend.driver import VirtioNetDriver

PROGRAM = str(Path(sys.executable).with_name("vhostuser"))
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vhu-") as name:
        yield Path(name)


def serve(
    folder: Path, *words: str, fds: tuple[int, ...] = (), before: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [PROGRAM, "serve", *words, *(() if "--device" in words else ("--port", "echo"))],
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        pass_fds=fds,
        preexec_fn=before,
    )


def lacking(
    folder: Path, *words: str, fds: tuple[int, ...] = (), before: Callable[[], None] | None = None
) -> str:
    """The one sentence of a `serve` that cannot."""
    process = serve(folder, *words, fds=fds, before=before)
    _, log = process.communicate(timeout=20)
    assert process.returncode == 3, log
    # A device before the one that cannot be had may have begun to listen.
    (line,) = [line for line in log.splitlines() if "listening on" not in line]
    assert line.count(". ") == 0, "one sentence"
    return line


@contextmanager
def running(folder: Path, *words: str, fds: tuple[int, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    process = serve(folder, *words, fds=fds)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "listening" in line:
                break
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def assert_serves(path: Path) -> None:
    with VirtioNetDriver.connect(path, queue_size=RING_SIZE) as driver:
        echo(driver)


def test_missing_directory_is_named(folder: Path) -> None:
    line = lacking(folder, "-s", str(folder / "none" / "a.sock"))

    assert f"directory {folder}/none" in line
    assert "make it first" in line


def test_missing_directory_of_a_relative_path_is_named(folder: Path) -> None:
    assert "directory none" in lacking(folder, "-s", "none/a.sock")


def test_trace_that_cannot_be_written_is_named(folder: Path) -> None:
    line = lacking(folder, "-s", str(folder / "a.sock"), "--trace", str(folder / "none" / "trace"))

    assert f"the trace cannot be written to {folder}/none/trace (No such file or directory)" in line
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("target", ["trace", "/dev/full"])
def test_front_end_is_served_with_a_trace_and_with_one_that_fails(folder: Path, target: str) -> None:
    with running(folder, "-s", str(folder / "a.sock"), "--trace", target):
        for _ in range(2):
            assert_serves(folder / "a.sock")
    if target == "trace":
        events = [json.loads(line)["event"] for line in (folder / target).read_text().splitlines()]
        assert (events.count("begin"), events.count("end")) == (2, 2)
        assert set(events) == {"begin", "message", "ring", "report", "end"}


def drop_override() -> None:
    """From the next exec on root has no more rights on files than any owner (CAP_DAC_OVERRIDE is gone)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0 and libc.prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def test_directory_that_may_not_be_written_names_the_user(folder: Path) -> None:
    folder.chmod(0o555)
    try:
        line = lacking(folder, "-s", str(folder / "a.sock"), before=drop_override)
    finally:
        folder.chmod(0o755)

    assert "no permission" in line
    assert f"uid {os.geteuid()}" in line
    assert f"write to {folder}" in line


@pytest.mark.parametrize("length", [108, 200])
def test_path_of_more_than_107_bytes_is_refused_with_its_length(folder: Path, length: int) -> None:
    line = lacking(folder, "-s", "x" * length)

    assert f"{length} bytes" in line
    assert "107" in line
    assert list(folder.iterdir()) == []


def test_path_of_107_bytes_is_served(folder: Path) -> None:
    path = folder / ("x" * (107 - len(str(folder)) - 1))
    with running(folder, "-s", str(path)):
        assert_serves(path)


@pytest.mark.parametrize("kind", ["file", "directory", "pipe", "link to a file"])
def test_path_that_is_no_socket_is_left_alone(folder: Path, kind: str) -> None:
    path = folder / "a.sock"
    target = folder / "precious"
    target.write_text("precious")
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path.symlink_to(target)
    before = os.lstat(path)

    line = lacking(folder, "-s", str(path))

    assert f"{path} exists and is not a socket" in line
    assert os.lstat(path).st_ino == before.st_ino
    assert target.read_text() == "precious"


def test_stale_socket_is_taken_over(folder: Path) -> None:
    path = folder / "a.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with running(folder, "-s", str(path)):
        assert_serves(path)
    assert not path.exists()


def test_socket_of_a_server_that_was_killed_is_taken_over(folder: Path) -> None:
    path = folder / "a.sock"
    with running(folder, "-s", str(path)) as process:
        process.kill()
        process.wait(20)
        assert path.exists()
    with running(folder, "-s", str(path)):
        assert_serves(path)


def test_socket_that_is_served_names_the_process_and_leaves_it_alone(folder: Path) -> None:
    path = folder / "a.sock"
    with running(folder, "-s", str(path)) as process:
        line = lacking(folder, "-s", str(path))
        assert f"process {process.pid}" in line
        assert_serves(path)


def test_fd_that_was_not_passed_is_named(folder: Path) -> None:
    line = lacking(folder, "--fd", "77")

    assert "--fd 77" in line
    assert "leave the fd open" in line


@pytest.mark.parametrize("kind", ["pipe", "file", "eventfd"])
def test_fd_that_is_no_socket_is_named(folder: Path, kind: str) -> None:
    reader, writer = os.pipe()
    fd = {
        "pipe": lambda: os.dup(reader),
        "file": lambda: os.open(folder / "file", os.O_CREAT | os.O_RDWR),
        "eventfd": lambda: os.eventfd(0),
    }[kind]()
    try:
        assert f"--fd {fd} is not a socket" in lacking(folder, "--fd", str(fd), fds=(fd,))
    finally:
        for one in (fd, reader, writer):
            os.close(one)


@pytest.mark.parametrize(
    ("family", "kind"),
    [(socket.AF_INET, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_DGRAM)],
    ids=["TCP", "unix datagram"],
)
def test_fd_of_another_kind_of_socket_is_named(folder: Path, family: int, kind: int) -> None:
    with socket.socket(family, kind) as sock:
        fd = sock.fileno()
        assert f"--fd {fd} is not a unix stream socket" in lacking(folder, "--fd", str(fd), fds=(fd,))


def test_user_that_does_not_exist_is_named(folder: Path) -> None:
    line = lacking(folder, "-s", "a.sock", "--socket-owner", "no-such-user")

    assert "no user no-such-user" in line
    assert list(folder.iterdir()) == [], "no socket is left behind"


def test_one_device_of_two_that_cannot_be_had_ends_both(folder: Path) -> None:
    line = lacking(
        folder,
        "--device",
        f"name=a,socket-path={folder}/a.sock,port=echo",
        "--device",
        f"name=b,socket-path={folder}/none/b.sock,port=echo",
    )

    assert "none" in line
    assert list(folder.iterdir()) == []
