"""What every test has: both event loops, no leaked fd, no quiet skip, time limits that scale."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop

from vhostuser.datapath import mapping
from vhostuser.datapath.reaper import reaper

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

TIMEOUT_SCALE = float(os.environ.get("VHOSTUSER_TIMEOUT_SCALE", "1"))
"""Raise it on a slow machine: every wait that goes through `scaled` is multiplied by it."""

IN_CI = os.environ.get("CI", "") not in ("", "0", "false")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    """Each async test runs on the loop that the server uses and on the one that it falls back to."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def live_regions() -> int:
    """Regions mapped by this process, when all is given back that is on its way."""
    assert reaper.wait(10)
    return mapping.live_regions()


def open_fds() -> dict[int, str]:
    """This process's fds and what they point to, when all are closed that are on their way."""
    assert reaper.wait(10)
    found = {}
    with os.scandir("/proc/self/fd") as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                found[int(entry.name)] = os.readlink(entry.path)
    # The scan's own fd is closed by now, and matplotlib keeps every font open that it has drawn with.
    return {
        fd: target
        for fd, target in found.items()
        if not target.startswith("/proc/") and not target.endswith(".ttf")
    }


@pytest.fixture(autouse=True)
def no_leaked_fd(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test, and the fixtures that it alone has, close what they open.

    Set up before and torn down after them; fixtures of a wider scope are older still and are not counted.
    """
    before = open_fds()
    yield
    after = open_fds()
    if after.keys() - before.keys():
        gc.collect()
        after = open_fds()
    leaked = {fd: after[fd] for fd in after.keys() - before.keys()}
    if leaked:
        pytest.fail(f"{request.node.nodeid} left fds open: {leaked}", pytrace=False)


@pytest.fixture(scope="session")
def scaled() -> Callable[[float], float]:
    """Seconds on a quiet machine -> seconds to wait here."""
    return lambda seconds: seconds * TIMEOUT_SCALE


def pytest_sessionstart() -> None:
    """libuv keeps two fds for the process from its first loop on: they are not any test's leak."""
    uvloop.new_event_loop().close()


@pytest.fixture
def huge_pages() -> Iterator[int]:
    """2 MiB pages for this test, as many as there were before it afterwards."""
    pool = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    before = pool.read_text()
    free = int(Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").read_text())
    if free < 8:
        pool.write_text(str(int(before) + 8 - free))
    yield 2 << 20
    if pool.read_text() != before:
        pool.write_text(before)


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """In CI a peer that is missing is a failure: a skip would let the suite shrink unseen."""
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, and in CI nothing is: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    refuse_skip(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """`tests/run.sh` says which of its own checks failed; here, so that it stands beside the closing line."""
    failed = os.environ.get("VHOSTUSER_FAILED_CHECKS", "")
    if failed:
        terminalreporter.section("checks before the tests", red=True)
        terminalreporter.line(f"failed: {failed} (their output is above)", red=True)
