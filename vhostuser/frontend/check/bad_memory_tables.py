"""Memory tables that make no sense: each is refused, and nobody else notices."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from vhostuser.errors import PeerError
from vhostuser.frontend.check.model import Group, NotApplicableError, Severity
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stream import eventfds, memfds, table
from vhostuser.frontend.check.traffic import assert_serves
from vhostuser.wire.constants import Request

GROUP = Group("bad-memory-tables", "memory tables that have to be refused")

_REGIONS = 'vhost-user, "Memory region description"'
_PAGE = 4096
_FAR = 1 << 40
_FILE = 4 * _PAGE
"""As long as each file is that comes with these tables."""
_LAST_PAGE = (1 << 64) - _PAGE


def _refuse(peer: Peer, body: bytes, fds: Sequence[int]) -> None:
    stream = peer.talk()
    if not stream.acks:
        raise NotApplicableError("without REPLY_ACK a refusal cannot be seen")
    stream.refuses(Request.SET_MEM_TABLE, body, fds)
    stream.close()
    assert_serves(peer)


def _add(name: str, what: str, body: bytes, count: int, rule: str = _REGIONS) -> None:
    """A table with so many memfds of `_FILE` bytes."""

    def check(peer: Peer) -> None:
        with memfds(count, _FILE) as fds:
            _refuse(peer, body, fds)

    GROUP.check(f"table-{name}", f"{what} is refused.", rule, Severity.ROBUSTNESS)(check)


_add("size-0", "A region of no size", table((0, 0, _FAR, 0)), 1)
_add("gpa-overflow", "A region beyond the last guest address", table((_LAST_PAGE, 2 * _PAGE, _FAR, 0)), 1)
_add("uva-overflow", "A region beyond the last user address", table((0, 2 * _PAGE, _LAST_PAGE, 0)), 1)
_add(
    "offset-overflow",
    "A region whose offset and size overflow",
    table((0, 2 * _PAGE, _FAR, _LAST_PAGE)),
    1,
    "CVE-2020-10722, of the log",
)
_add("file-too-short", "A region beyond the end of its file", table((0, 2 * _FILE, _FAR, 0)), 1)
_add("offset-too-far", "A region that an offset moves beyond the end", table((0, _FILE, _FAR, _PAGE)), 1)
_add(
    "gpa-overlap",
    "A table whose regions overlap in guest addresses",
    table((0, 2 * _PAGE, _FAR, 0), (_PAGE, 2 * _PAGE, 2 * _FAR, 0)),
    2,
)
_add(
    "uva-overlap",
    "A table whose regions overlap in user addresses",
    table((0, 2 * _PAGE, _FAR, 0), (1 << 30, 2 * _PAGE, _FAR + _PAGE, 0)),
    2,
)
_add(
    "fewer-fds",
    "A table with fewer fds than regions",
    table((0, _PAGE, _FAR, 0), (1 << 30, _PAGE, 2 * _FAR, 0)),
    1,
    "DPDK, commit 09c2856301",
)
_add("more-fds", "A table with more fds than regions", table((0, _PAGE, _FAR, 0)), 3, "CVE-2019-14818")
_add(
    "shorter-than-said",
    "A table with fewer regions than it says",
    table((0, _PAGE, _FAR, 0), count=3),
    3,
)
_add(
    "absurd-count",
    "A table of 4294967295 regions",
    table((0, _PAGE, _FAR, 0), count=0xFFFFFFFF),
    1,
)


@contextlib.contextmanager
def _pipe() -> Iterator[list[int]]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        yield [writer]
    finally:
        os.close(reader)
        os.close(writer)


@contextlib.contextmanager
def _socket() -> Iterator[list[int]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield [theirs.fileno()]


@contextlib.contextmanager
def _folder() -> Iterator[list[int]]:
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield [fd]
    finally:
        os.close(fd)


@contextlib.contextmanager
def _read_only() -> Iterator[list[int]]:
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(_FILE)
        fd = os.open(file.name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield [fd]
        finally:
            os.close(fd)


@contextlib.contextmanager
def _sealed() -> Iterator[list[int]]:
    fd = os.memfd_create("sealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, _FILE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        yield [fd]
    finally:
        os.close(fd)


_Files = Callable[[], AbstractContextManager[list[int]]]
_NO_MEMORY: tuple[tuple[str, str, _Files], ...] = (
    ("pipe", "a pipe", _pipe),
    ("socket", "a socket", _socket),
    ("eventfd", "an eventfd", eventfds),
    ("folder", "a directory", _folder),
    ("read-only", "a file that was opened for reading only", _read_only),
    ("sealed", "a memfd that is sealed against writing", _sealed),
)


def _add_file(name: str, what: str, files: _Files) -> None:
    def check(peer: Peer) -> None:
        with files() as fds:
            _refuse(peer, table((0, _PAGE, _FAR, 0)), fds)

    GROUP.check(f"table-on-{name}", f"A region in {what} is refused.", _REGIONS, Severity.ROBUSTNESS)(check)


for _name, _what, _files in _NO_MEMORY:
    _add_file(_name, _what, _files)


@GROUP.check(
    "no-table-leaks",
    "Tables that are refused cost nothing that lasts: after a thousand of them it still serves.",
    "DPDK, commit 218daf1664",
    Severity.ROBUSTNESS,
)
def _no_table_leaks(peer: Peer) -> None:
    stream = peer.talk()
    body = table((0, _PAGE, _FAR, 0), (1 << 30, 2 * _FILE, 2 * _FAR, 0))
    with memfds(2, _FILE) as fds:
        for _ in range(1000):
            try:
                stream.send(Request.SET_MEM_TABLE, body, fds)
            except PeerError:
                stream.close()
                stream = peer.talk()
    stream.close()
    assert_serves(peer)
