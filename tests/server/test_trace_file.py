from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path

import pytest

from tests.conftest import open_fds
from tests.site import wait
from vhostuser.errors import EnvironmentLacksError
from vhostuser.server.trace_file import TraceFile


def test_lines_are_appended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("before\n")
    trace = TraceFile(str(path))
    for number in range(1000):
        trace.write(f"line {number}")
    trace.close()

    assert path.read_text() == "before\n" + "".join(f"line {number}\n" for number in range(1000))


def test_line_is_there_while_the_trace_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    trace = TraceFile(str(path))
    trace.write("one")
    wait(lambda: path.read_text() == "one\n")
    trace.close()


def test_file_is_for_its_owner_and_group(tmp_path: Path) -> None:
    TraceFile(str(tmp_path / "trace")).close()
    assert not stat.S_IMODE((tmp_path / "trace").stat().st_mode) & 0o007


def test_file_that_cannot_be_opened_is_lacking(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("none/trace", "No such file or directory"),
        ("folder", "Is a directory"),
        ("pipe", "No such device or address"),
    ):
        with pytest.raises(EnvironmentLacksError, match=f"cannot be written to {tmp_path}/{name} .{reason}"):
            TraceFile(str(tmp_path / name))


def test_full_disk_ends_the_trace_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    trace = TraceFile("/dev/full")
    for _ in range(100):
        trace.write("line")
    wait(lambda: not trace._thread.is_alive())
    trace.write("line")
    trace.close()

    (record,) = caplog.records
    assert record.getMessage() == (
        "the trace ends: it cannot be written to /dev/full (No space left on device)"
    )


def test_reader_that_goes_away_ends_the_trace_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    trace = TraceFile(str(tmp_path / "pipe"))
    os.close(reader)
    trace.write("line")
    wait(lambda: not trace._thread.is_alive())
    trace.close()

    (record,) = caplog.records
    assert "Broken pipe" in record.getMessage()


def test_reader_that_does_not_read_costs_lines_and_no_memory_and_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    trace = TraceFile(str(tmp_path / "pipe"))
    line = json.dumps({"line": "x" * 1000})
    for _ in range(6000):
        trace.write(line)
    assert trace._bytes <= 1 << 20

    received = bytearray()

    def read_on() -> bool:
        with contextlib.suppress(BlockingIOError):
            received.extend(os.read(reader, 1 << 16))
        return received.count(b"\n") >= 500 and trace._bytes == 0

    wait(read_on)
    trace.write("the last")
    wait(lambda: read_on() and received.endswith(b"the last\n"))
    lines = received.decode().splitlines()[:-1]
    reports = [json.loads(other) for other in lines if other != line]
    assert {report["event"] for report in reports} == {"lost"}
    lost = sum(report["lines"] for report in reports)
    assert lines.count(line) + lost == 6000
    # One megabyte waits, at most another one is being written, and the pipe holds less.
    assert lost >= 3000
    trace.close()
    os.close(reader)


def test_close_does_not_wait_for_a_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    trace = TraceFile(str(tmp_path / "pipe"))
    for _ in range(200):
        trace.write("x" * 1000)
    trace.close()
    assert trace._thread.is_alive()
    trace.write("after the end")
    os.close(reader)
    trace._thread.join()


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = open_fds()
    for path in (str(tmp_path / "trace"), "-"):
        trace = TraceFile(path)
        trace.close()
    assert open_fds() == before


def test_dash_is_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    trace = TraceFile("-")
    trace.write("line")
    trace.close()
    assert capfd.readouterr().out == "line\n"
