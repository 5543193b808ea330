"""The bytes of a state transfer, through whatever fd the front-end gave for it: a thread for each transfer.

QEMU gives a pipe, Cloud Hypervisor a socket, a hostile front-end anything: a fd that it makes blocking behind
our back, a pipe whose lock it holds, a file whose file system does not answer. On a thread that has nothing
else to do this costs nobody else anything. Most transfers are one small write.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterator

from vhostuser.datapath.reaper import reaper
from vhostuser.errors import RequestError
from vhostuser.net.state_transfer import Outcome

TRANSFER_SECONDS = 10.0
"""A front-end that loads reads its own migration stream meanwhile."""
MOST_THREADS = 4
"""Of one device; more than one only where transfers hang that were given up."""
_CHUNK = 65536


class StateThreads:
    """Implements `net.state_transfer.StateChannel` for one device that lives on the running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._threads = 0

    def send(self, fd: int, content: bytes, then: Callable[[Outcome], None]) -> Callable[[], None]:
        return self._begin(fd, lambda wire: wire.send(content), then)

    def receive(self, fd: int, most: int, then: Callable[[Outcome], None]) -> Callable[[], None]:
        return self._begin(fd, lambda wire: wire.receive(most), then)

    def _begin(
        self, fd: int, work: Callable[[_Wire], bytes], then: Callable[[Outcome], None]
    ) -> Callable[[], None]:
        if self._threads == MOST_THREADS:
            reaper.close([fd])
            raise RequestError(f"{MOST_THREADS} transfers hang in their fds already")
        try:
            given_up, give_up = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            reaper.close([fd])
            raise RequestError(f"no room for a transfer: {error.strerror}") from None
        is_wanted = True

        def run() -> None:
            outcome = _outcome(fd, given_up, work)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(finish, outcome)

        def finish(outcome: Outcome) -> None:
            self._threads -= 1
            if is_wanted:
                os.close(give_up)
                then(outcome)

        def abandon() -> None:
            nonlocal is_wanted
            is_wanted = False
            os.close(give_up)

        # A daemon: a transfer that hangs must not keep the process from ending.
        try:
            threading.Thread(target=run, name="vhostuser-state", daemon=True).start()
        except RuntimeError as error:
            reaper.close([fd, given_up, give_up])
            raise RequestError(f"no room for a transfer: {error}") from None
        self._threads += 1
        return abandon


def _outcome(fd: int, given_up: int, work: Callable[[_Wire], bytes]) -> Outcome:
    """Runs on the thread; closes both fds."""
    try:
        return work(_Wire(fd, given_up))
    except RequestError as error:
        return error
    except OSError as error:
        return RequestError(f"the transfer's fd fails: {error.strerror}")
    finally:
        # A file system may complain even now; the fd is gone all the same.
        for mine in (fd, given_up):
            with contextlib.suppress(OSError):
                os.close(mine)


class _Wire:
    """The fd of one transfer. Every call may block for as long as the transfer may take."""

    def __init__(self, fd: int, given_up: int) -> None:
        self._fd = fd
        self._given_up = given_up
        self._deadline = time.monotonic() + TRANSFER_SECONDS
        self._poll = select.poll()
        self._poll.register(given_up, 0)
        os.set_blocking(fd, False)

    def send(self, content: bytes) -> bytes:
        left = memoryview(content)
        while left:
            self._wait(select.POLLOUT)
            with _not_yet():
                left = left[os.write(self._fd, left[:_CHUNK]) :]
        return b""

    def receive(self, most: int) -> bytes:
        content = bytearray()
        while len(content) <= most:
            self._wait(select.POLLIN)
            with _not_yet():
                chunk = os.read(self._fd, _CHUNK)
                if not chunk:
                    return bytes(content)
                content += chunk
        raise RequestError(f"the state does not end after {most} bytes")

    def _wait(self, event: int) -> None:
        """Until the fd is ready, or its other end is closed."""
        self._poll.register(self._fd, event)
        left = self._deadline - time.monotonic()
        ready = dict(self._poll.poll(max(0.0, left) * 1000))
        if self._given_up in ready:
            raise RequestError("the transfer was given up")
        # Also where every poll is answered: bytes may come one by one.
        if not ready or left < 0:
            raise RequestError(f"the transfer is not over after {TRANSFER_SECONDS:g} s")


@contextlib.contextmanager
def _not_yet() -> Iterator[None]:
    """Some files are always ready and never have anything; what comes of them may not cost a processor."""
    try:
        yield
    except BlockingIOError:
        time.sleep(0.01)
