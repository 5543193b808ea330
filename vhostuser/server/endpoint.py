"""Where front-ends come from: a socket that we listen on, one that we connect to, or an inherited fd.

Each kind calls ``on_socket`` with a connected socket, which then belongs to the callee.
"""

from __future__ import annotations

import asyncio
import errno
import grp
import logging
import os
import pwd
import socket
import stat
from collections.abc import Callable
from typing import Protocol

from vhostuser.config import DeviceConfig
from vhostuser.errors import EnvironmentLacksError

MAX_PATH = 107
"""sun_path is 108 bytes with its end."""
_RETRY_ACCEPT_SECONDS = 1.0

OnSocket = Callable[[socket.socket], None]


class Endpoint(Protocol):
    def open(self) -> None:
        """Begins. Raises EnvironmentLacksError with one sentence that says what to change."""

    def front_end_gone(self) -> bool:
        """The connection has ended; False when there can be no other."""

    def close(self) -> None: ...


def endpoint_for(
    config: DeviceConfig, on_socket: OnSocket, log: logging.LoggerAdapter[logging.Logger]
) -> Endpoint:
    if config.fd is not None:
        return _inherited(config.fd, on_socket, log)
    assert config.socket_path is not None
    length = len(os.fsencode(config.socket_path))
    if length > MAX_PATH:
        raise EnvironmentLacksError(
            f"socket path {config.socket_path} has {length} bytes and the kernel "
            f"takes {MAX_PATH}: use a shorter directory, such as /run/vhostuser"
        )
    if config.client:
        return ConnectingEndpoint(config.socket_path, config.reconnect_ms / 1000, on_socket, log)
    return ListeningEndpoint(_bind(config), on_socket, log, unlink=config.socket_path)


class ListeningEndpoint:
    """Accepts from a listening socket, which it owns; removes the socket file at the end if it made it.

    Who connects before `open` waits in the backlog.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_socket: OnSocket,
        log: logging.LoggerAdapter[logging.Logger],
        unlink: str | None = None,
    ) -> None:
        self._sock = sock
        self._sock.setblocking(False)
        self._on_socket = on_socket
        self._log = log
        self._unlink = unlink
        self._inode = _inode(unlink) if unlink else None
        self._retry: asyncio.TimerHandle | None = None

    def open(self) -> None:
        self._log.info("listening on %s", self._sock.getsockname() or "an inherited socket")
        self._listen()

    def front_end_gone(self) -> bool:
        return True

    def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
        # Another server may have taken the path over meanwhile.
        if self._unlink and _inode(self._unlink) == self._inode:
            os.unlink(self._unlink)

    def _listen(self) -> None:
        self._retry = None
        asyncio.get_running_loop().add_reader(self._sock, self._on_readable)

    def _on_readable(self) -> None:
        try:
            connected, _ = self._sock.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # Out of fds: the connection stays in the backlog, and the loop must not spin on it.
            self._log.error("cannot accept a front-end: %s", error.strerror)
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._sock)
            self._retry = loop.call_later(_RETRY_ACCEPT_SECONDS, self._listen)
            return
        self._on_socket(connected)


class ConnectingEndpoint:
    """Connects, and connects again for ever: when the front-end is not there yet, and when it has gone."""

    def __init__(
        self, path: str, interval: float, on_socket: OnSocket, log: logging.LoggerAdapter[logging.Logger]
    ) -> None:
        self._path = path
        self._interval = interval
        self._on_socket = on_socket
        self._log = log
        self._timer: asyncio.TimerHandle | None = None
        self._last_error = ""

    def open(self) -> None:
        self._connect()

    def front_end_gone(self) -> bool:
        self._again()
        return True

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._connect)

    def _connect(self) -> None:
        self._timer = None
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            sock.connect(self._path)
        except OSError as error:
            sock.close()
            reason = error.strerror or str(error)
            if reason != self._last_error:
                self._log.info("waiting for a front-end on %s (%s)", self._path, reason)
            self._last_error = reason
            self._again()
            return
        self._last_error = ""
        self._on_socket(sock)


class ConnectedEndpoint:
    """One connection that somebody else made; there is no second."""

    def __init__(self, sock: socket.socket, on_socket: OnSocket) -> None:
        self._sock: socket.socket | None = sock
        self._on_socket = on_socket

    def open(self) -> None:
        sock, self._sock = self._sock, None
        assert sock is not None
        self._on_socket(sock)

    def front_end_gone(self) -> bool:
        return False

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()


def _inherited(fd: int, on_socket: OnSocket, log: logging.LoggerAdapter[logging.Logger]) -> Endpoint:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise EnvironmentLacksError(
            f"--fd {fd} is not a socket that was passed to this process ({error.strerror}): "
            "whoever starts it has to leave the fd open"
        ) from None
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise EnvironmentLacksError(f"--fd {fd} is not a unix stream socket, which vhost-user needs")
    os.set_inheritable(fd, False)
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return ListeningEndpoint(sock, on_socket, log)
    return ConnectedEndpoint(sock, on_socket)


def _bind(config: DeviceConfig) -> socket.socket:
    path = config.socket_path
    assert path is not None
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX)
    is_made = False
    try:
        sock.bind(path)
        is_made = True
        # Nobody gets in before listen(), so there is no moment with other rights than these.
        if config.socket_mode is not None:
            os.chmod(path, config.socket_mode)
        if config.socket_owner is not None or config.socket_group is not None:
            os.chown(path, _uid(config.socket_owner), _gid(config.socket_group))
        # At once: scripts take the file for the sign that a front-end may come.
        sock.listen(16)
    except BaseException as error:
        sock.close()
        if is_made:
            os.unlink(path)
        if isinstance(error, OSError):
            raise _not_bound(path, error) from None
        raise
    return sock


def _not_bound(path: str, error: OSError) -> EnvironmentLacksError:
    folder = os.path.dirname(path) or "."
    if error.errno == errno.ENOENT:
        return EnvironmentLacksError(f"directory {folder} for socket {path} does not exist: make it first")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return EnvironmentLacksError(
            f"no permission to make socket {path} with these rights ({error.strerror}): "
            f"let this user (uid {os.geteuid()}) write to {folder}, or use another --socket-path"
        )
    return EnvironmentLacksError(f"socket {path} cannot be made: {error.strerror}")


def _remove_stale(path: str) -> None:
    """Removes a socket file that nobody listens on; refuses any other file."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise EnvironmentLacksError(
            f"{path} exists and is not a socket: remove it or use another --socket-path"
        )
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.setblocking(False)
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            raise _not_bound(path, error) from None
        pid = int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little")
    raise EnvironmentLacksError(
        f"socket {path} is served by process {pid}: stop that one or use another --socket-path"
    )


def _uid(name: str | None) -> int:
    if name is None:
        return -1
    try:
        return int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise EnvironmentLacksError(f"there is no user {name} for --socket-owner") from None


def _gid(name: str | None) -> int:
    if name is None:
        return -1
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise EnvironmentLacksError(f"there is no group {name} for --socket-group") from None


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
