"""The real server as it is, and with faults planted on the way to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.frontend.backend_double import BackendDouble
from tests.frontend.check.meddler import Fault, Meddler
from tests.interop.server_process import Server
from vhostuser.frontend.check import catalogue
from vhostuser.frontend.check.model import Outcome, Result
from vhostuser.frontend.check.peer import Offer, Peer
from vhostuser.frontend.check.runner import Expect, Runner, survey

Verdict = Callable[..., Result]
FindsFault = Callable[[str, Fault], str]

TIMEOUT = 2.5
"""Of a check; a single reply has a fifth of it. Faults that show by silence take that long to be found."""


@pytest.fixture(scope="session")
def echo_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a server with an echo port listens."""
    folder = tmp_path_factory.mktemp("echo")
    path = folder / "e.sock"
    with Server(folder, "-s", str(path), "--port", "echo", "--log-level", "debug") as server:
        server.wait_listening(path)
        yield path
        server.assert_alive()


@pytest.fixture(scope="session")
def offer(echo_path: Path) -> Offer:
    return survey(echo_path, Expect.FIND_OUT, 5)


@pytest.fixture
def peer(echo_path: Path, offer: Offer) -> Iterator[Peer]:
    with Peer(echo_path, offer, 5) as peer:
        yield peer


@pytest.fixture
def verdict(echo_path: Path, offer: Offer, tmp_path: Path) -> Verdict:
    """Run one check, by its name, against the real server with a fault in it."""
    return _verdict_of(echo_path, offer, tmp_path)


def _verdict_of(path: Path, offer: Offer, folder: Path) -> Verdict:
    def run(name: str, fault: Fault | None = None) -> Result:
        (check,) = catalogue.select([name])
        fault = fault or Fault()
        with Meddler(folder / "m.sock", path, fault) as meddler:
            # The meddler listens, so its process is taken for the back-end's.
            seen = replace(offer, pid=os.getpid())
            if fault.is_in_the_offer:
                seen = survey(meddler.path, Expect.ECHO, TIMEOUT)
            (result,) = Runner(meddler.path, seen, timeout=TIMEOUT).run([check])
        meddler.path.unlink()
        return result

    return run


@pytest.fixture
def finds(verdict: Verdict) -> FindsFault:
    """The fault is found by this check: what it says it saw."""
    return _finder(verdict)


def _finder(verdict: Verdict) -> FindsFault:
    def run(name: str, fault: Fault) -> str:
        result = verdict(name, fault)
        assert result.outcome is Outcome.FAILED, f"{name}: {result.outcome}, {result.seen}"
        assert result.expected
        return result.seen

    return run


@pytest.fixture(scope="session")
def postcopy_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a server with an echo port listens that offers postcopy."""
    folder = tmp_path_factory.mktemp("postcopy")
    path = folder / "p.sock"
    with Server(folder, "-s", str(path), "--port", "echo", "--workers", "1", "--postcopy") as server:
        server.wait_listening(path)
        yield path
        server.assert_alive()


@pytest.fixture
def finds_in_postcopy(postcopy_path: Path, tmp_path: Path) -> FindsFault:
    """As `finds`, with a server that offers postcopy."""
    return _finder(_verdict_of(postcopy_path, survey(postcopy_path, Expect.ECHO, 5), tmp_path))


@pytest.fixture
def finds_in_double(backend: BackendDouble) -> Callable[[str], str]:
    """What is wrong on the rings themselves is planted in a back-end in plain Python."""

    def run(name: str) -> str:
        (check,) = catalogue.select([name])
        offer = Offer(backend.features, backend.protocol_features, echoes=True, pid=os.getpid())
        (result,) = Runner(backend.path, offer, timeout=TIMEOUT).run([check])
        assert result.outcome is Outcome.FAILED, f"{name}: {result.outcome}, {result.seen}"
        return result.seen

    return run
