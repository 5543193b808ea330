"""A short folder for sockets, and a server on the test's own loop."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from vhostuser.config import DeviceConfig
from vhostuser.frontend.timeouts import Deadline
from vhostuser.server.server import Server

T = TypeVar("T")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not pytest's tmp_path: a unix socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="vhu-") as name:
        yield Path(name)


@asynccontextmanager
async def serving(*configs: DeviceConfig) -> AsyncIterator[Server]:
    async with Server(configs) as server:
        yield server


async def blocking(work: Callable[[], T]) -> T:
    """Runs a front-end's blocking work beside the loop that serves it."""
    return await asyncio.get_running_loop().run_in_executor(None, work)


async def until(probe: Callable[[], object]) -> None:
    """Lets the loop run until ``probe`` holds. pytest's own time limit does not get through to uvloop."""
    deadline = Deadline(20)
    while not probe():  # what is waited for is the kernel's or C's, and sets no event
        assert deadline.left, "what was waited for did not come"
        await asyncio.sleep(0.002)
