from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.plain_frontend import PlainFrontend
from tests.site import RUNNERS, Site, make_site


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module with `RUNNERS` has its tests run with each of those that `tests.site` has."""
    runners = getattr(metafunc.module, "RUNNERS", ())
    if runners and "site" in metafunc.fixturenames:
        metafunc.parametrize("site", runners, indirect=True)


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A device to attack beside one that goes on; afterwards nothing may be left (see `tests.site`)."""
    workers, poll = RUNNERS[getattr(request, "param", "loop")]
    with make_site(workers=workers, poll=poll) as site:
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
