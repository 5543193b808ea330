"""How the tests of this folder speak: over a unix socket, to a server in this process and to a program.

`plain` and `talk` write bytes and fds that none of our wire code has made; `site` has a driver beside them.
Each test runs twice: against a server on a loop of its own thread, and against one `vhostuser serve` for all
tests, as it is started by users. Those that look into the server (`InProcessSite`) or at its log (`caplog`),
or that configure one of their own, run once. The session alone, over a device that only remembers, is what
tests/session has.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.server_process import Server
from tests.plain_frontend import PlainFrontend
from tests.program_site import program_site, serving_program
from tests.site import InProcessSite, Site, make_site

IN_PROCESS, PROGRAM = "in-process", "program"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "site" in metafunc.fixturenames:
        wanted = metafunc.function.__annotations__.get("site")
        looks_inside = "caplog" in metafunc.fixturenames or wanted == InProcessSite.__name__
        metafunc.parametrize("site", [IN_PROCESS] if looks_inside else [IN_PROCESS, PROGRAM], indirect=True)


@pytest.fixture(scope="session")
def program() -> Iterator[Server]:
    with serving_program() as server:
        yield server


@pytest.fixture
def site(request: pytest.FixtureRequest, program: Server) -> Iterator[Site]:
    if request.param == PROGRAM:
        with program_site(program) as site:
            yield site
    else:
        with make_site() as site:
            yield site


@pytest.fixture
def plain(site: Site) -> Iterator[PlainFrontend]:
    """A connection on which nothing was said yet."""
    with PlainFrontend(site.path) as frontend:
        yield frontend


@pytest.fixture
def talk(plain: PlainFrontend) -> PlainFrontend:
    """A connection with protocol features negotiated, so that every refusal is an answer."""
    plain.negotiate()
    return plain
