"""Bytes and fds over a connected unix stream socket, never more than one message ahead.

asyncio's streams and transports cannot carry fds, so the socket is ours and the loop only says when it is
readable. One rule keeps fds with their message: no read goes beyond what the message still lacks.
"""

from __future__ import annotations

import array
import select
import socket
import struct
from collections.abc import Sequence

from vhostuser.datapath.reaper import reaper
from vhostuser.errors import FramingError
from vhostuser.wire.constants import MAX_FDS

_ANCILLARY_SPACE = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
_READ_FLAGS = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
_SEND_FLAGS = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
_PEERCRED = struct.Struct("3i")


class Transport:
    """Owns the socket. Every call returns at once; BlockingIOError means "not now".

    Also where the peer has the same file and clears its O_NONBLOCK.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def peer(self) -> str:
        """Who is at the other end, for the log."""
        pid, uid, _gid = _PEERCRED.unpack(
            self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
        )
        return f"pid {pid}, uid {uid}"

    def read(self, most: int) -> tuple[bytes, list[int]]:
        """At most ``most`` bytes and the fds that came with them, close-on-exec; b"" at end of file.

        The fds are the caller's. Raises BlockingIOError, OSError, or FramingError when fds were lost on the
        way (a full fd table): those that did arrive are closed.
        """
        chunk, ancillary, flags, _ = self._sock.recvmsg(most, _ANCILLARY_SPACE, _READ_FLAGS)
        fds: list[int] = []
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
                fds.extend(numbers)
        if flags & socket.MSG_CTRUNC:
            reaper.close(fds)
            raise FramingError("fds were lost on the way: the process has no room for more (ulimit -n)")
        return chunk, fds

    def send(self, content: bytes, fds: Sequence[int] = ()) -> int:
        """One sendmsg; how many bytes went out. The fds stay the caller's. BlockingIOError, OSError."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        return self._sock.sendmsg([content], rights, _SEND_FLAGS)

    def is_hung_up(self) -> bool:
        """Whether the peer has closed its end, read to the end here or not."""
        poll = select.poll()
        poll.register(self._sock, select.POLLHUP)
        return bool(poll.poll(0))

    def detach(self) -> int:
        """The fd, which is the caller's to close; nothing else may be called afterwards."""
        return self._sock.detach()

    def close(self) -> None:
        self._sock.close()
