"""What the interop tests share: short-lived folders and namespaces, and the logs on failure."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.interop.netns import Namespace

LOG_TAIL = 6000


def make_folder() -> Iterator[Path]:
    # Not pytest's tmp_path: a unix socket's path has at most 107 bytes, and its names are long.
    folder = Path(tempfile.mkdtemp(prefix="vhostuser-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the test's own, with a short path. Its logs are shown when the test fails."""
    yield from make_folder()


@pytest.fixture(scope="module")
def shared_folder() -> Iterator[Path]:
    """The same for what the tests of one file share."""
    yield from make_folder()


@pytest.fixture
def namespace(folder: Path) -> Iterator[Namespace]:
    with Namespace(folder) as namespace:
        yield namespace


@pytest.fixture(scope="module")
def shared_namespace(shared_folder: Path) -> Iterator[Namespace]:
    with Namespace(shared_folder) as namespace:
        yield namespace


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """On failure, show the end of every log in the test's folders."""
    report = yield
    if report.failed:
        arguments = getattr(item, "funcargs", {})
        for name in ("folder", "shared_folder"):
            for log in sorted(arguments[name].glob("*.log")) if name in arguments else ():
                report.sections.append((f"{name}: {log.name}", log.read_text(errors="replace")[-LOG_TAIL:]))
    return report
