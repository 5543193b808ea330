from __future__ import annotations

import os
import select
import socket
import tempfile

import pytest

from tests.conftest import open_fds
from vhostuser.errors import RequestError
from vhostuser.net.notify_fd import NotifyFd


def is_open(fd: int) -> bool:
    return fd in open_fds()


def test_eventfd_is_taken_non_blocking_and_not_drained() -> None:
    notify = NotifyFd(os.eventfd(0, 0))

    assert not notify.is_drained
    assert not os.get_blocking(notify.fd)
    notify.close()


def test_pipe_and_socket_are_drained() -> None:
    reader, writer = os.pipe()
    left, right = socket.socketpair()
    for fd in (reader, left.detach()):
        notify = NotifyFd(fd)
        assert notify.is_drained
        notify.close()
    os.close(writer)
    right.close()


def test_close_gives_the_fd_back_once() -> None:
    fd = os.eventfd(0)
    notify = NotifyFd(fd)

    notify.close()
    notify.close()

    assert notify.fd == -1
    assert not is_open(fd)


@pytest.mark.parametrize("kind", ["file", "directory", "device", "epoll", "memfd"])
def test_any_other_kind_is_refused_and_closed(kind: str) -> None:
    match kind:
        case "file":
            fd = os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR)
        case "directory":
            fd = os.open("/", os.O_RDONLY)
        case "device":
            fd = os.open("/dev/zero", os.O_RDWR)
        case "epoll":
            epoll = select.epoll()
            fd = os.dup(epoll.fileno())
            epoll.close()
        case _:
            fd = os.memfd_create("x")

    with pytest.raises(RequestError, match="expected an eventfd, a pipe or a socket"):
        NotifyFd(fd)
    assert not is_open(fd)
