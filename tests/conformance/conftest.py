"""How the tests of this folder speak: all over a unix socket, to a server on a loop of its own thread.

`plain` and `talk` write bytes and fds that none of our wire code has made; `site` has a driver beside them.
The server is in the same process, but for the tests of whole programs, with nothing in between left out. A
second run without sockets would show less: ancillary data, partial reads, connections that close and the
order of replies are half of what is demanded here. The session alone, over a device that only remembers, is
what tests/session has.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.plain_frontend import PlainFrontend
from tests.site import Site, make_site


@pytest.fixture
def site() -> Iterator[Site]:
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
