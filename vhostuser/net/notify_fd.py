"""Kick, call and err fds: eventfds, or the pipes and sockets that some front-ends send in their place."""

from __future__ import annotations

import os
import stat

from vhostuser.datapath.reaper import reaper
from vhostuser.errors import RequestError

_EVENTFD = "anon_inode:[eventfd]"


class NotifyFd:
    """Owns one such fd, non-blocking from now on (its peer shares that flag and must not mind).

    Raises RequestError for any other kind of file, which is closed then: a regular file cannot be watched,
    and an epoll fd could watch us.
    """

    __slots__ = ("_is_eventfd", "fd", "is_drained")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._is_eventfd = False
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
                self.is_drained = True
            elif stat.S_IFMT(mode) == 0 and _target(fd) in (_EVENTFD, ""):
                self.is_drained = False
                self._is_eventfd = True
            else:
                raise RequestError(
                    f"fd is {_target(fd) or f'of mode {mode:#o}'}, expected an eventfd, a pipe or a socket"
                )
            os.set_blocking(fd, False)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """An eventfd is closed at once; whatever else it is may take its time."""
        if self.fd < 0:
            return
        if self._is_eventfd:
            os.close(self.fd)
        else:
            reaper.close([self.fd])
        self.fd = -1


def _target(fd: int) -> str:
    """What /proc calls it; empty where there is no /proc (then an anonymous inode is taken on trust)."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
