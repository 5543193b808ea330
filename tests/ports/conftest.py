"""Fixtures for ports: a network namespace of the test's own, and a test without privileges."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ports import taps, veths


@pytest.fixture
def namespace() -> Iterator[None]:
    """An empty network namespace for the length of the test; what is left in it goes with it."""
    with taps.network_namespace():
        yield


@pytest.fixture
def far(namespace: None) -> Iterator[veths.Far]:
    """The other end of a cable whose end here is vm1."""
    del namespace
    veths.make()
    with veths.Far() as far:
        yield far


@pytest.fixture
def nobody() -> Iterator[None]:
    """The test runs without privileges and gets them back at its end."""
    with taps.as_nobody():
        yield
