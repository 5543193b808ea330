"""A back-end with a planted fault: the real server, with somebody on the line who changes what is said.

A check that cannot fail proves nothing. So each group's tests plant faults, which its checks have to find.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from vhostuser.frontend.dialogue import ancillary, receive
from vhostuser.frontend.timeouts import scaled
from vhostuser.wire.constants import FLAG_NEED_REPLY, REPLY_FLAGS

HEADER = struct.Struct("=III")
_LARGEST = 4096


@dataclass
class Said:
    """One message or reply as it is."""

    request: int
    flags: int
    body: bytes
    fds: list[int] = field(default_factory=list)

    @property
    def content(self) -> bytes:
        return HEADER.pack(self.request, self.flags, len(self.body)) + self.body

    def word(self, at: int = 0) -> int:
        """The 32 bits at an offset of the payload: a ring's index, mostly."""
        (value,) = struct.unpack_from("=I", self.body, at)
        return int(value)

    def number(self) -> int:
        (value,) = struct.unpack("=Q", self.body)
        return int(value)

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = []


class Fault:
    """What is done to the line. This one does nothing; a test's own overrides what it needs.

    One object serves all connections of a test, one after the other: `begin` tells of a new one.
    """

    is_patient = True
    """False: a header that does not come in one piece ends the connection."""
    is_in_the_offer = False
    """Found when the offer is looked at, before the first check."""
    meddler: Meddler

    def begin(self, line: Line) -> None:
        pass

    def request(self, line: Line, said: Said) -> None:
        """Whatever is not passed on is lost."""
        line.up(said)

    def reply(self, line: Line, said: Said) -> None:
        line.down(said)


class Line:
    """One connection: the check at one end, the server at the other."""

    def __init__(self, check: socket.socket, server: socket.socket) -> None:
        self.check = check
        self.server = server
        self.on_close: Callable[[], None] = lambda: None
        """For a fault that has something to give back."""
        self.unheard = 0
        self.is_raw = False
        """A message announced more than any has: from there on bytes are bytes."""

    def up(self, said: Said) -> None:
        with contextlib.suppress(OSError):
            self.server.sendmsg([said.content], ancillary(said.fds))
        said.close()

    def quietly(self, said: Said) -> None:
        """A request of the fault's own: the check does not hear the reply."""
        self.unheard += 1
        self.up(said)

    def down(self, said: Said) -> None:
        with contextlib.suppress(OSError):
            self.check.sendmsg([said.content], ancillary(said.fds))
        said.close()

    def answer(self, said: Said, body: bytes) -> None:
        """In the server's place."""
        said.close()
        self.down(Said(said.request, REPLY_FLAGS, body))

    def swallow(self, said: Said, value: int = 0) -> None:
        """The server never hears of it, and the check is told what `value` says if it asked."""
        if said.flags & FLAG_NEED_REPLY:
            self.answer(said, struct.pack("=Q", value))
        said.close()

    def hang_up(self) -> None:
        for sock in (self.check, self.server):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.on_close()
        self.check.close()
        self.server.close()


class Meddler:
    """Listens on `path` and passes on to the server on `upstream`, but for what a fault does.

    A context manager.
    """

    def __init__(self, path: Path, upstream: Path, fault: Fault) -> None:
        self.path = path
        self.upstream = upstream
        self.fault = fault
        fault.meddler = self
        self._lines: dict[int, tuple[Line, socket.socket]] = {}
        self._failure: BaseException | None = None

    def __enter__(self) -> Meddler:
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._listener: socket.socket | None = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(os.fspath(self.path))
        self._listener.listen(8)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.eventfd_write(self._end, 1)
        self._thread.join()
        os.close(self._end)
        if self._failure is not None:
            raise self._failure

    @property
    def is_dead(self) -> bool:
        return self._listener is None

    def die(self) -> None:
        """As a process that ends: nobody listens, every connection is gone. From the fault's methods only."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for line, _ in list(self._lines.values()):
            line.hang_up()

    def pause(self) -> None:
        """For the check to see what was sent so far, and nothing more."""
        time.sleep(scaled(0.02))

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:  # shown by the test's own thread
            self._failure = error
        finally:
            self.die()
            for line in {id(line): line for line, _ in self._lines.values()}.values():
                line.close()

    def _turn(self) -> bool:
        poller = select.poll()
        for fd in (self._end, *self._lines):
            poller.register(fd, select.POLLIN)
        if self._listener is not None:
            poller.register(self._listener, select.POLLIN)
        for fd, _ in poller.poll():
            if fd == self._end:
                return False
            if self._listener is not None and fd == self._listener.fileno():
                self._accept(self._listener)
            elif fd in self._lines:
                self._pass_on(*self._lines[fd])
        return True

    def _accept(self, listener: socket.socket) -> None:
        check, _ = listener.accept()
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.connect(os.fspath(self.upstream))
        line = Line(check, server)
        self._lines[check.fileno()] = (line, check)
        self._lines[server.fileno()] = (line, server)
        self.fault.begin(line)

    def _pass_on(self, line: Line, source: socket.socket) -> None:
        said = self._read(line, source)
        if said is None:
            del self._lines[line.check.fileno()], self._lines[line.server.fileno()]
            line.close()
        elif isinstance(said, bytes):
            with contextlib.suppress(OSError):
                (line.server if source is line.check else line.check).sendall(said)
        elif source is line.check:
            self.fault.request(line, said)
        elif line.unheard:
            line.unheard -= 1
            said.close()
        else:
            self.fault.reply(line, said)

    def _read(self, line: Line, source: socket.socket) -> Said | bytes | None:
        """One message, whole; bytes, where they are none; None at the end."""
        content, fds = b"", list[int]()
        size = HEADER.size
        while len(content) < size:
            try:
                part, more = receive(source, size - len(content))
            except OSError:
                part, more = b"", []
            fds += more
            content += part
            if not part or (len(content) < HEADER.size and not self.fault.is_patient):
                for fd in fds:
                    os.close(fd)
                return None
            if line.is_raw or (len(content) >= HEADER.size and HEADER.unpack_from(content)[2] > _LARGEST):
                line.is_raw = True
                for fd in fds:
                    os.close(fd)
                return content
            if len(content) >= HEADER.size:
                size = HEADER.size + HEADER.unpack_from(content)[2]
        request, flags, _ = HEADER.unpack_from(content)
        return Said(request, flags, content[HEADER.size :], fds)
