"""The right kind of fd for each message that takes one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.conformance.messages import Row
from tests.plain_frontend import close_all

SET_MEM_TABLE, SET_LOG_BASE, SET_BACKEND_REQ_FD, SET_INFLIGHT_FD, ADD_MEM_REG = 5, 6, 21, 32, 37
SET_DEVICE_STATE_FD = 42


def memfd(size: int = 4096) -> int:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, size)
    return fd


@contextmanager
def for_row(row: Row, count: int | None = None) -> Iterator[list[int]]:
    """As many as the message takes, or ``count``; closed afterwards."""
    fds = [_one(row) for _ in range(row.fds if count is None else count)]
    try:
        yield fds
    finally:
        close_all(fds)


def _one(row: Row) -> int:
    if row.number in (SET_MEM_TABLE, SET_LOG_BASE, ADD_MEM_REG):
        return memfd()
    if row.number == SET_INFLIGHT_FD:
        return memfd(8192)
    if row.number in (SET_BACKEND_REQ_FD, SET_DEVICE_STATE_FD):
        ours, theirs = socket.socketpair()
        ours.close()
        return theirs.detach()
    return os.eventfd(0)
