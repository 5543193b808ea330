"""The one thread for what may block: tap ioctls, unmapping guest memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class HelperThread:
    """Implements `net.port_link.Helper` for devices that live on the running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vhostuser-helper")

    def submit(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        def both() -> None:
            try:
                work()
            finally:
                self._loop.call_soon_threadsafe(then)

        self._executor.submit(both)

    async def close(self) -> None:
        """Waits for what was submitted."""
        await self._loop.run_in_executor(self._executor, lambda: None)
        self._executor.shutdown()
