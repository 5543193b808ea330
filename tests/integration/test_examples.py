"""The examples run as they stand, from a checkout, as a user would start them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vhostuser.frontend import VirtioNetDriver

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
GUEST_MAC = b"\x02\0\0\0\0\1"
ARP_REQUEST = (
    b"\xff" * 6
    + GUEST_MAC
    + b"\x08\x06\0\1\x08\0\6\4\0\1"
    + GUEST_MAC
    + bytes((192, 0, 2, 2))
    + bytes(6)
    + bytes((192, 0, 2, 1))
)
"""Who has 192.0.2.1, asked by 192.0.2.2."""
ARP_REPLY = b"\0\2"


def run(*argv: str, status: int = 0) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_echo_returns_every_frame() -> None:
    assert "5 of 5 frames came back unchanged" in run(sys.executable, str(EXAMPLES / "echo.py"))


def test_two_guests_reach_each_other() -> None:
    text = run(sys.executable, str(EXAMPLES / "two_guests.py"))

    assert "200 of 200 frames arrived at the other guest" in text
    assert "vm2: 100 frames from the guest" in text


def test_server_api_prints_counters_and_ends_by_itself() -> None:
    with tempfile.TemporaryDirectory(prefix="vhu-") as folder:
        path = f"{folder}/vm1.sock"
        text = run(sys.executable, str(EXAMPLES / "server_api.py"), "--socket-path", path, "--seconds", "1.5")

        assert "vm1: 0 frames from the guest, 0 to it" in text
        assert not os.path.exists(path)


def test_server_api_says_what_is_wrong_in_one_sentence() -> None:
    text = run(sys.executable, str(EXAMPLES / "server_api.py"), "--port", "tpa:x", status=2)

    assert "did you mean 'tap'" in text
    assert len(text.splitlines()) == 1


def test_tap_qemu_prints_the_line_for_the_socket_that_it_was_given() -> None:
    text = run("sh", str(EXAMPLES / "tap_qemu.sh"), "--check", "/tmp/x.sock", "vm9")

    assert "path=/tmp/x.sock,reconnect" in text
    assert "share=on" in text


def test_tap_qemu_says_status_3_when_the_server_cannot_start() -> None:
    script = f"sh {EXAMPLES}/tap_qemu.sh /nonexistent/vm1.sock vm1"

    text = run("unshare", "--net", "sh", "-c", script, status=3)

    assert "directory /nonexistent" in text


def host_answers(guest: VirtioNetDriver) -> bool:
    """Asks for 192.0.2.1 as a stack would; the script may not have set the address yet."""
    guest.send(ARP_REQUEST.ljust(60, b"\0"))
    with contextlib.suppress(TimeoutError):
        while True:
            frame = guest.recv(timeout=0.5).frame
            if frame[12:14] == ARP_REQUEST[12:14] and frame[20:22] == ARP_REPLY:
                return frame[28:32] == bytes((192, 0, 2, 1))
    return False


def test_tap_qemu_serves_the_tap_until_it_is_told_to_end() -> None:
    # The pid of unshare is the script's: it execs. The namespace goes with the last process in it.
    with tempfile.TemporaryDirectory(prefix="vhu-") as folder:
        path = Path(folder) / "vm1.sock"
        script = subprocess.Popen(
            ["unshare", "--net", "sh", str(EXAMPLES / "tap_qemu.sh"), str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert script.stdout is not None
        try:
            for line in script.stdout:
                if "listening on" in line:
                    break
            with VirtioNetDriver.connect(path) as guest:
                assert any(host_answers(guest) for _ in range(20))
            script.terminate()
            rest = script.stdout.read()
        finally:
            # The whole group: a script that is killed cannot end its server.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGKILL)
            script.wait()
            script.stdout.close()
        assert script.returncode == 130, rest
        assert not path.exists()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: str(path.name))
def test_example_is_short_and_says_first_what_it_needs(path: Path) -> None:
    lines = path.read_text().splitlines()

    assert len(lines) < 80
    assert lines[0].startswith('"""Needs ')
