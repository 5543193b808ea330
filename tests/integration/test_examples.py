"""The examples run as they stand, from a checkout, as a user would start them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def run(*argv: str, status: int = 0) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_echo_returns_every_frame() -> None:
    assert "5 of 5 frames came back unchanged" in run(sys.executable, str(EXAMPLES / "echo.py"))


def test_two_guests_are_served_at_once() -> None:
    text = run(sys.executable, str(EXAMPLES / "two_guests.py"))

    assert "200 of 200 came back whole" in text
    taken = re.search(r"(\d+) frames taken", text)
    assert taken
    assert int(taken[1]) > 1000


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


def test_tap_qemu_prints_the_line_for_this_qemu() -> None:
    text = run("sh", str(EXAMPLES / "tap_qemu.sh"), "--check", "/tmp/x.sock", "vm9")

    assert "path=/tmp/x.sock,reconnect" in text
    assert "share=on" in text


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: str(path.name))
def test_example_is_short_and_says_first_what_it_needs(path: Path) -> None:
    lines = path.read_text().splitlines()

    assert len(lines) < 80
    assert lines[0].startswith('"""Needs ')
