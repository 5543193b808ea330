"""Fds that come where none belong: each is closed, for a back-end has only so many."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator, Sequence

from vhostuser.errors import PeerError
from vhostuser.frontend.check.hostile_messages import BODIES
from vhostuser.frontend.check.model import Group, Severity, expect
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stream import ASKING, HEADER, eventfds, message, name_of, state, u64
from vhostuser.frontend.check.traffic import assert_serves
from vhostuser.frontend.timeouts import Deadline
from vhostuser.wire.constants import Request

GROUP = Group("stray-fds", "fds that come where none belong")

_FDS = "CVE-2019-14818; DPDK, commit 218daf1664"
_TAKES_ONE = {
    Request.SET_MEM_TABLE,
    Request.SET_LOG_BASE,
    Request.SET_LOG_FD,
    Request.SET_BACKEND_REQ_FD,
    Request.SET_INFLIGHT_FD,
    Request.SET_DEVICE_STATE_FD,
}


class _Watched:
    """Pipes whose writing ends are sent; the kernel says when the last copy of one has been closed."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._readers: dict[int, str] = {}

    @contextlib.contextmanager
    def pipe(self, name: str) -> Iterator[int]:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._readers[reader] = name
        try:
            yield writer
        finally:
            os.close(writer)

    def assert_closed(self) -> None:
        deadline = Deadline(self.peer.patience)
        poller = select.poll()
        for reader in self._readers:
            poller.register(reader, 0)
        left = dict(self._readers)
        while left and deadline.left:
            for reader, _ in poller.poll(deadline.left_ms):
                poller.unregister(reader)
                del left[reader]
        names = ", ".join(left.values())
        expect(not left, "every fd closed when its connection had ended", f"open still: those with {names}")

    def close(self) -> None:
        for reader in self._readers:
            os.close(reader)


@contextlib.contextmanager
def _watching(peer: Peer) -> Iterator[_Watched]:
    """In the end all have to be closed, and a new connection is served."""
    watched = _Watched(peer)
    try:
        yield watched
        watched.assert_closed()
    finally:
        watched.close()
    assert_serves(peer)


def _send_and_close(peer: Peer, content: bytes, fds: Sequence[int]) -> None:
    stream = peer.talk()
    with contextlib.suppress(PeerError):
        stream.send_bytes(content, fds)
        stream.wait_taken()
    stream.close()


@GROUP.check("fds-with-everything", "Fds with requests that take none are closed.", _FDS, Severity.ROBUSTNESS)
def _fds_with_everything(peer: Peer) -> None:
    with _watching(peer) as watched:
        for request, body in BODIES.items():
            if request not in _TAKES_ONE:
                with watched.pipe(request.name) as fd:
                    _send_and_close(peer, message(request, body), [fd])


@GROUP.check(
    "fds-too-many",
    "Three fds with a request that takes one or none are closed.",
    _FDS,
    Severity.ROBUSTNESS,
)
def _fds_too_many(peer: Peer) -> None:
    with _watching(peer) as watched:
        for request, body in BODIES.items():
            with watched.pipe(request.name) as fd:
                _send_and_close(peer, message(request, body), [fd] * 3)


@GROUP.check(
    "fds-with-unknown-requests",
    "Fds with requests that nobody knows are closed.",
    _FDS,
    Severity.ROBUSTNESS,
)
def _fds_with_unknown_requests(peer: Peer) -> None:
    with _watching(peer) as watched:
        for request in (0, 46, 0x7FFFFFFF):
            with watched.pipe(name_of(request)) as fd:
                _send_and_close(peer, message(request), [fd])


@GROUP.check(
    "fds-in-hundreds",
    "253 fds with a message, as many as the kernel carries, are closed.",
    _FDS,
    Severity.ROBUSTNESS,
)
def _fds_in_hundreds(peer: Peer) -> None:
    with _watching(peer) as watched:
        for request in (Request.GET_FEATURES, Request.SET_MEM_TABLE, Request.SET_VRING_CALL):
            for count in (9, 33, 64, 253):
                with watched.pipe(f"{request.name}, {count} of them") as fd:
                    _send_and_close(peer, message(request, BODIES[request]), [fd] * count)


@GROUP.check(
    "fds-with-the-payload",
    "Fds that come with the middle of a payload are closed.",
    _FDS,
    Severity.ROBUSTNESS,
)
def _fds_with_the_payload(peer: Peer) -> None:
    content = message(Request.SET_VRING_NUM, state(0, 64))
    with _watching(peer) as watched, watched.pipe("a payload") as fd:
        stream = peer.talk()
        stream.send_bytes(content[: HEADER.size + 2])
        stream.wait_taken()
        with contextlib.suppress(PeerError):
            stream.send_bytes(content[HEADER.size + 2 :], [fd])
            stream.wait_taken()
        stream.close()


@GROUP.check(
    "fds-use-nothing-up",
    "Some thousand fds that are replaced by others use nothing up.",
    _FDS,
    Severity.ROBUSTNESS,
)
def _fds_use_nothing_up(peer: Peer) -> None:
    stream = peer.talk()
    with eventfds() as fds:
        for _ in range(1500):
            for request in (Request.SET_VRING_CALL, Request.SET_VRING_KICK, Request.SET_VRING_ERR):
                stream.send(request, u64(0), fds)
        stream.assert_silent(Request.SET_VRING_ERR)
    stream.close()
    assert_serves(peer)


@GROUP.check(
    "channel-is-no-socket",
    "SET_BACKEND_REQ_FD with what is no socket costs nobody else anything.",
    'vhost-user, "VHOST_USER_SET_BACKEND_REQ_FD"',
    Severity.ROBUSTNESS,
)
def _channel_is_no_socket(peer: Peer) -> None:
    with eventfds() as fds:
        _send_and_close(peer, message(Request.SET_BACKEND_REQ_FD, flags=ASKING), fds)
    assert_serves(peer)
