"""A back-end to drive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.backend_double import BackendDouble


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[BackendDouble]:
    with BackendDouble(str(tmp_path / "b.sock")) as backend:
        yield backend
