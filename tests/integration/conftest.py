from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.plain_frontend import PlainFrontend
from tests.site import Site, make_site


@pytest.fixture
def site() -> Iterator[Site]:
    """A device to attack beside one that goes on; afterwards nothing may be left (see `tests.site`)."""
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
