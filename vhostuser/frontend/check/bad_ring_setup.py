"""Rings that are set up with nonsense: it is refused or has no effect, and nobody else notices."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from vhostuser.errors import PeerError
from vhostuser.frontend import calls
from vhostuser.frontend.calls import Call
from vhostuser.frontend.check.model import NO_VIRTIO, Group, NotApplicableError, Severity
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stepper import RX, TX, Stepper
from vhostuser.frontend.check.stream import address, eventfds, state, u64
from vhostuser.frontend.check.traffic import assert_serves, frame, rest, settle
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.frontend.virtqueue_base import RingPlace
from vhostuser.wire.constants import Request
from vhostuser.wire.features import VirtioFeature as V

GROUP = Group("bad-ring-setup", "sizes, indices, addresses and fds of rings that make no sense")

_NUM = 'vhost-user, "VHOST_USER_SET_VRING_NUM"'
_ADDR = 'vhost-user, "VHOST_USER_SET_VRING_ADDR"'
_INDEX = "CVE-2020-10723"
_KICK = 'vhost-user, "VHOST_USER_SET_VRING_KICK"'
_NOFD = 1 << 8


# Refused at once


def _add_refusal(
    name: str, what: str, rule: str, request: Request, body: bytes, fds: int = 0, virtio: V = NO_VIRTIO
) -> None:
    def check(peer: Peer) -> None:
        stream = peer.stream()
        stream.negotiate(peer.acked_protocol, int(peer.plain_features | virtio))
        if not stream.acks:
            raise NotApplicableError("without REPLY_ACK a refusal cannot be seen")
        with eventfds(fds) as given:
            stream.refuses(request, body, given)
        stream.close()
        assert_serves(peer)

    GROUP.check(name, f"{what} is refused.", rule, Severity.ROBUSTNESS, virtio=virtio)(check)


for _size in (0, 3, 32769, 65536, 0xFFFFFFFF):
    _add_refusal(
        f"split-size-{_size}",
        f"A split ring of {_size} entries",
        _NUM,
        Request.SET_VRING_NUM,
        state(0, _size),
    )
for _size in (0, 32769):
    _add_refusal(
        f"packed-size-{_size}",
        f"A packed ring of {_size} entries",
        _NUM,
        Request.SET_VRING_NUM,
        state(0, _size),
        virtio=V.RING_PACKED,
    )
for _index in (256, 65536, 0xFFFFFFFF):
    for _request, _body in (
        (Request.SET_VRING_NUM, state(_index, 64)),
        (Request.SET_VRING_BASE, state(_index, 0)),
        (Request.SET_VRING_ADDR, address(_index, 0x1000, 0x3000, 0x2000)),
        (Request.SET_VRING_ENABLE, state(_index, 1)),
    ):
        _add_refusal(
            f"{_request.name.lower().replace('_', '-')}-of-{_index}",
            f"{_request.name} of ring {_index}",
            _INDEX,
            _request,
            _body,
        )
_add_refusal(
    "enable-2",
    "SET_VRING_ENABLE with 2",
    'vhost-user, "VHOST_USER_SET_VRING_ENABLE"',
    Request.SET_VRING_ENABLE,
    state(0, 2),
)
for _request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR):
    _word = _request.name.removeprefix("SET_VRING_").lower()
    _add_refusal(
        f"{_word}-without-its-fd", f"{_request.name} without the fd that it promises", _KICK, _request, u64(0)
    )
    _add_refusal(
        f"{_word}-with-unsaid-fd",
        f"{_request.name} with an fd that it denies",
        _KICK,
        _request,
        u64(_NOFD),
        1,
    )
    _add_refusal(
        f"{_word}-with-two-fds", f"{_request.name} with two fds", "CVE-2019-14818", _request, u64(0), 2
    )


@GROUP.check(
    "get-base-far-out",
    "GET_VRING_BASE of ring 4294967295 is answered or ends the connection, and no more.",
    "DPDK, commit 3c929a0bb3",
    Severity.ROBUSTNESS,
)
def _get_base_far_out(peer: Peer) -> None:
    for index in (256, 0x10000, 0xFFFFFFFF):
        with contextlib.closing(peer.talk()) as stream, contextlib.suppress(PeerError):
            stream.send(Request.GET_VRING_BASE, state(index, 0))
            stream.receive("GET_VRING_BASE")
    assert_serves(peer)


# Without effect

_Places = Callable[[RingPlace, int], RingPlace]
"""From where the parts of the ring lie, and the end of their region, to where they are said to lie."""

_PLACES: tuple[tuple[str, str, _Places], ...] = (
    (
        "unmapped-descriptors",
        "descriptors outside of memory",
        lambda p, _: RingPlace(1 << 60, p.avail, p.used),
    ),
    (
        "unmapped-avail",
        "an available part outside of memory",
        lambda p, _: RingPlace(p.desc, 1 << 60, p.used),
    ),
    ("unmapped-used", "a used part outside of memory", lambda p, _: RingPlace(p.desc, p.avail, 1 << 60)),
    (
        "half-mapped-descriptors",
        "descriptors that end outside of memory",
        lambda p, end: RingPlace(end - 16, p.avail, p.used),
    ),
    (
        "half-mapped-used",
        "a used part that ends outside of memory",
        lambda p, end: RingPlace(p.desc, p.avail, end - 8),
    ),
    ("last-addresses", "parts at the last addresses of all", lambda p, _: RingPlace(*[(1 << 64) - 16] * 3)),
    (
        "unaligned-descriptors",
        "descriptors that are not aligned",
        lambda p, _: RingPlace(p.desc + 1, p.avail, p.used),
    ),
    (
        "unaligned-avail",
        "an available part that is not aligned",
        lambda p, _: RingPlace(p.desc, p.avail + 1, p.used),
    ),
    (
        "unaligned-used",
        "a used part that is not aligned",
        lambda p, _: RingPlace(p.desc, p.avail, p.used + 2),
    ),
    ("parts-on-each-other", "all parts at one address", lambda p, _: RingPlace(p.desc, p.desc, p.desc)),
)


def _add_place(name: str, what: str, move: _Places) -> None:
    def check(peer: Peer) -> None:
        with peer.stepper() as driver, contextlib.suppress(PeerError, TimeoutError):
            place = driver.nic.rings[TX].place
            assert place is not None
            region = driver.memory.region_of(driver.queues[TX].place.desc)
            assert region.uva is not None
            driver.nic.rings[TX].place = move(place, region.uva + region.size)
            driver.say_all()
            driver.send(frame(1))
            driver.kick(TX)
            rest()
            driver.frontend.get_features()
        assert_serves(peer)

    GROUP.check(
        f"ring-with-{name}", f"A ring with {what} costs nobody else anything.", _ADDR, Severity.ROBUSTNESS
    )(check)


for _name, _what, _move in _PLACES:
    _add_place(_name, _what, _move)


def _try(driver: Stepper, call: Call[None]) -> None:
    """It may be refused, and the connection may end."""
    with contextlib.suppress(PeerError):
        driver.do(call)


@GROUP.check(
    "kick-before-all",
    "SET_VRING_KICK before anything else was said of the ring has no effect, and set up it runs.",
    _KICK,
    Severity.ROBUSTNESS,
)
def _kick_before_all(peer: Peer) -> None:
    with peer.stepper() as driver:
        for _ in range(2):
            driver.say("kick")
            driver.kick(TX)
        driver.say("enable")
        driver.frontend.get_features()
    assert_serves(peer)


@GROUP.check(
    "changed-while-running",
    "A size, an address or a base for a ring that runs is refused or waits, and costs nobody else anything.",
    _NUM,
    Severity.ROBUSTNESS,
)
def _changed_while_running(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        place = driver.nic.rings[TX].place
        assert place is not None
        _try(driver, calls.set_vring_num(TX, 32768))
        _try(driver, calls.set_vring_base(TX, 12345))
        _try(driver, calls.set_vring_addr(TX, place.desc + 64, place.used, place.avail))
        # Taken, it leaves a ring in which a driver finds anything.
        with contextlib.suppress(PeerError, TimeoutError):
            driver.send(frame(1), timeout=0.2)
        _try(driver, calls.set_vring_num(RX, 2))
        driver.kick(TX)
        rest()
    assert_serves(peer)


@GROUP.check(
    "header-changed-while-running",
    "Features that change the header while rings run are refused, or hold from the next start on.",
    'vhost-user, "VHOST_USER_SET_FEATURES"',
    Severity.ROBUSTNESS,
)
def _header_changed_while_running(peer: Peer) -> None:
    with peer.stepper(features=DEFAULT_FEATURES) as driver:
        driver.say_all()
        settle(peer, driver)
        _try(driver, calls.set_features(int(V.PROTOCOL_FEATURES)))
        with contextlib.suppress(PeerError, TimeoutError):
            driver.send(frame(1), timeout=0.2)
        rest()
    assert_serves(peer)


# Fds that are none


@contextlib.contextmanager
def _file() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        yield file.fileno()


@contextlib.contextmanager
def _broken_pipe() -> Iterator[int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


@contextlib.contextmanager
def _full_pipe() -> Iterator[int]:
    """That blocks whoever writes to it, for O_NONBLOCK is off."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(4096))
        os.set_blocking(writer, True)
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


@contextlib.contextmanager
def _half_a_socket() -> Iterator[int]:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        yield theirs.fileno()


@contextlib.contextmanager
def _folder() -> Iterator[int]:
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


_Fd = Callable[[], AbstractContextManager[int]]
_FDS: Sequence[tuple[str, str, _Fd]] = (
    ("file", "a file", _file),
    ("broken-pipe", "a pipe whose other end is closed", _broken_pipe),
    ("full-pipe", "a pipe that is full and blocks", _full_pipe),
    ("half-a-socket", "a socket whose other end is closed", _half_a_socket),
    ("folder", "a directory", _folder),
)


def _add_fd(name: str, what: str, make: _Fd) -> None:
    def check(peer: Peer) -> None:
        with make() as fd, peer.stepper() as driver, contextlib.suppress(PeerError, TimeoutError):
            driver.say_all()
            settle(peer, driver)
            for index in (RX, TX):
                driver.virtqueues[index].enable_calls()
                _try(driver, calls.set_vring_call(index, fd))
            for count in range(4):
                driver.send(frame(count), timeout=0.2)
            rest()
            _try(driver, calls.set_vring_kick(TX, fd))
            driver.frontend.get_features()
        assert_serves(peer)

    GROUP.check(
        f"fd-is-{name}",
        f"A call or kick fd that is {what} holds up nobody.",
        "CVE-2024-4693, of QEMU",
        Severity.ROBUSTNESS,
    )(check)


for _name, _what, _make in _FDS:
    _add_fd(_name, _what, _make)
