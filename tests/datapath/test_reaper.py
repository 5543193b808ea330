from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from functools import partial

from vhostuser.datapath.reaper import MOST_THREADS, Reaper


def wait(event: threading.Event, then: Callable[[], None] = lambda: None) -> None:
    assert event.wait(10)
    then()


def test_fds_are_closed_soon() -> None:
    reaper = Reaper()
    fds = [os.eventfd(0) for _ in range(20)]

    reaper.close(fds)

    assert reaper.wait(5)
    for fd in fds:
        assert not os.path.exists(f"/proc/self/fd/{fd}")


def test_job_that_hangs_stops_no_other() -> None:
    reaper = Reaper()
    free = threading.Event()
    for _ in range(MOST_THREADS - 1):
        reaper.submit(lambda: wait(free))
    done = threading.Event()

    reaper.submit(done.set)

    assert done.wait(5)
    assert not reaper.wait(0.01)
    free.set()
    assert reaper.wait(5)


def test_more_jobs_than_threads_are_all_done() -> None:
    reaper = Reaper()
    free = threading.Event()
    count: list[int] = []
    for number in range(3 * MOST_THREADS):
        reaper.submit(partial(wait, free, partial(count.append, number)))
    free.set()

    assert reaper.wait(5)
    assert sorted(count) == list(range(3 * MOST_THREADS))


def test_threads_go_when_there_is_nothing_to_do() -> None:
    reaper = Reaper()
    before = threading.active_count()
    reaper.submit(lambda: None)
    reaper.wait(5)

    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_socket_that_lingers_costs_the_caller_nothing() -> None:
    reaper = Reaper()
    listener = socket.create_server(("127.0.0.1", 0))
    sender = socket.create_connection(listener.getsockname())
    receiver, _ = listener.accept()
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 2))
    sender.setblocking(False)
    try:
        while True:
            sender.send(bytes(1 << 16))
    except BlockingIOError:
        pass

    start = time.monotonic()
    reaper.close([sender.detach()])
    assert time.monotonic() - start < 1

    receiver.close()  # unread data: a reset, which ends the lingering
    listener.close()
    assert reaper.wait(10)
