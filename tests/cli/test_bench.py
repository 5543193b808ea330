"""`vhostuser bench`: what is typed is measured, kept, compared and reported."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.interop.server_process import vhostuser_program
from vhostuser.cli.main import vhostuser

QUICK = ["--seconds", "0.02", "--runs", "2", "--size", "64", "--poll", "event"]


@pytest.fixture(autouse=True)
def where_we_were() -> Iterator[None]:
    cpus = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cpus)


def bench(*words: str | Path) -> Result:
    return CliRunner().invoke(vhostuser, ["bench", *map(str, words)])


def test_results_are_shown_kept_compared_and_reported(tmp_path: Path) -> None:
    kept = tmp_path / "a.json"
    outcome = bench(*QUICK, "--work", "echo,latency", "--json", kept)
    assert outcome.exit_code == 0, outcome.output
    lines = outcome.output.splitlines()
    assert [line for line in lines if line.startswith("run 2: echo 64 B, split 1024, event: ")]
    assert lines[-2].split()[:7] == ["echo", "64", "B,", "split", "1024,", "event", "2"]
    assert len(json.loads(kept.read_bytes())["series"]) == 2

    compared = bench("compare", kept, kept)
    assert compared.exit_code == 0
    assert compared.output.count("too few runs") == 2

    outcome = bench("report", kept, "--to", tmp_path / "deep" / "report")
    assert outcome.output == f"{tmp_path}/deep/report/report.md\n"
    assert {path.name for path in (tmp_path / "deep" / "report").iterdir()} == {
        "report.md",
        *(f"{name}.{kind}" for name in ("rate", "cpu", "round-trips") for kind in ("svg", "png")),
    }


def test_report_without_plots_is_one_file(tmp_path: Path) -> None:
    bench(*QUICK, "--work", "sink", "--json", tmp_path / "a.json")
    assert bench("report", tmp_path / "a.json", "--to", tmp_path / "r", "--no-plots").exit_code == 0
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["report.md"]


def on_terminal(lines: int, columns: int, *words: str) -> str:
    """What a terminal of that size was sent."""
    terminal, program = os.openpty()
    fcntl.ioctl(program, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    plain = {name: value for name, value in os.environ.items() if name not in {"LINES", "COLUMNS"}}
    with subprocess.Popen(
        [vhostuser_program(), "bench", *words], stdin=program, stdout=program, stderr=program, env=plain
    ) as running:
        os.close(program)
        sent = b""
        try:
            while part := os.read(terminal, 4096):
                sent += part
        except OSError:  # the last to have it open is gone
            pass
    os.close(terminal)
    assert running.returncode == 0, sent
    return sent.decode()


@pytest.mark.parametrize(("lines", "columns", "live"), [(24, 110, True), (3, 110, False), (24, 60, False)])
def test_table_is_written_over_where_all_of_it_is_shown(lines: int, columns: int, live: bool) -> None:
    sent = on_terminal(lines, columns, *QUICK, "--work", "sink")

    assert ("\x1b[" in sent) == live
    assert ("run 2: sink 64 B" in sent) != live
    assert sent.rstrip().splitlines()[-1].startswith("sink 64 B, split 1024, event ")


def test_driver_and_server_have_a_cpu_each() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    assert bench(*QUICK, "--work", "sink").exit_code == 0
    assert os.sched_getaffinity(0) == {allowed[-1]}


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--work", "ehco"], 2, "did you mean 'echo'"),
        (["--work", "nothing"], 2, "it may be sink, source, echo, pair, latency, ndr"),
        (["--size", "64;1500"], 2, "'64;1500' is no list of numbers"),
        (["--size", "20"], 2, "--size 20 is out of range"),
        (["--format", "paked"], 2, "did you mean 'packed'"),
        (["--poll", "lop"], 2, "did you mean 'loop'"),
        (["--backend-cpus", "zero"], 2, "--backend-cpus zero: a list of CPUs"),
        (["--cpu", "4095"], 2, "CPU 4095 is not among those"),
        (["-s", "x", "--backend-cpus", "0"], 2, "server of our own"),
        (["--json", "/nowhere/at/all.json"], 2, "/nowhere/at/all.json: No such file"),
        (["-s", "/nowhere/x.sock"], 4, "cannot connect to /nowhere/x.sock"),
        (["compare", "/nowhere/a", "/nowhere/b"], 2, "/nowhere/a: No such file"),
        (["report", "/nowhere/a"], 2, "/nowhere/a: No such file"),
        (["repeat"], 2, "No such command 'repeat'"),
    ],
)
def test_what_is_wrong_is_said_at_once(words: list[str], status: int, said: str) -> None:
    outcome = bench(*words)
    assert (outcome.exit_code, said in outcome.output) == (status, True), outcome.output
    assert "run 1" not in outcome.output


def test_report_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    bench(*QUICK, "--work", "sink", "--json", tmp_path / "a.json")
    (tmp_path / "file").touch()
    outcome = bench("report", tmp_path / "a.json", "--to", tmp_path / "file" / "below", "--no-plots")
    assert (outcome.exit_code, "--to" in outcome.output) == (2, True), outcome.output
