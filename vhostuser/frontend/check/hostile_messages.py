"""Messages that no front-end sends: sizes, flags and numbers out of all reason, and memory that goes away.

Whatever is said, the worst that may happen to it is the end of its connection.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Iterable, Sequence

from vhostuser.errors import PeerError
from vhostuser.frontend.check.model import CheckFailedError, Group, Severity
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stepper import TX
from vhostuser.frontend.check.stream import (
    ASKING,
    Stream,
    address,
    eventfds,
    message,
    state,
    table,
    u64,
)
from vhostuser.frontend.check.traffic import assert_serves, frame, rest, send_at, settle
from vhostuser.frontend.dialogue import receive
from vhostuser.frontend.guest_memory import GuestMemory, Region
from vhostuser.wire.constants import FLAG_REPLY, VERSION, Request

GROUP = Group("hostile-messages", "messages that no front-end sends, and memory that goes away")

_HEADER = 'vhost-user, "Header"'
_MIB = 1 << 20

BODIES: dict[Request, bytes] = {
    Request.GET_FEATURES: b"",
    Request.SET_FEATURES: u64(0),
    Request.SET_OWNER: b"",
    Request.SET_MEM_TABLE: table((0, 4096, 1 << 40, 0)),
    Request.SET_LOG_BASE: u64(4096) + u64(0),
    Request.SET_LOG_FD: b"",
    Request.SET_VRING_NUM: state(0, 64),
    Request.SET_VRING_ADDR: address(0, 0x1000, 0x3000, 0x2000),
    Request.SET_VRING_BASE: state(0, 0),
    Request.GET_VRING_BASE: state(0, 0),
    Request.SET_VRING_KICK: u64(0x100),
    Request.SET_VRING_CALL: u64(0x100),
    Request.SET_VRING_ERR: u64(0x100),
    Request.GET_PROTOCOL_FEATURES: b"",
    Request.SET_PROTOCOL_FEATURES: u64(0),
    Request.GET_QUEUE_NUM: b"",
    Request.SET_VRING_ENABLE: state(0, 0),
    Request.SEND_RARP: bytes(8),
    Request.NET_SET_MTU: u64(1500),
    Request.SET_BACKEND_REQ_FD: b"",
    Request.IOTLB_MSG: bytes(32),
    Request.GET_CONFIG: bytes(12),
    Request.SET_CONFIG: bytes(12),
    Request.GET_INFLIGHT_FD: bytes(24),
    Request.SET_INFLIGHT_FD: bytes(24),
    Request.ADD_MEM_REG: bytes(40),
    Request.REM_MEM_REG: bytes(40),
    Request.SET_STATUS: u64(0),
    Request.GET_STATUS: b"",
    Request.SET_DEVICE_STATE_FD: bytes(8),
    Request.CHECK_DEVICE_STATE: b"",
}
"""A payload of the right size for each request that a network device may get."""


def _say(peer: Peer, contents: Iterable[tuple[bytes, Sequence[int]]]) -> None:
    """Each on a connection of its own; then a new one is served."""
    for content, fds in contents:
        stream = peer.talk()
        with contextlib.suppress(PeerError):
            stream.send_bytes(content, fds)
            stream.wait_taken()
        stream.close()
    assert_serves(peer)


def _add(name: str, what: str, rule: str, contents: Iterable[bytes]) -> None:
    listed = [(content, ()) for content in contents]

    def check(peer: Peer) -> None:
        _say(peer, listed)

    GROUP.check(name, f"{what} cost nobody else anything.", rule, Severity.ROBUSTNESS)(check)


_add(
    "payloads-too-short",
    "Payloads that are a byte short",
    _HEADER,
    (message(request, body[:-1]) for request, body in BODIES.items() if body),
)
_add(
    "payloads-too-long",
    "Payloads that are a byte long",
    _HEADER,
    (message(request, body + b"\0") for request, body in BODIES.items()),
)
_add("payloads-missing", "Requests without their payload", _HEADER, (message(request) for request in BODIES))
_add(
    "payloads-enormous",
    "Payloads that say they are enormous",
    "VPP, vhost_user_socket_read",
    (
        message(request, bytes(64), size=size)
        for request in (Request.GET_FEATURES, Request.SET_MEM_TABLE, Request.SET_CONFIG, 0)
        for size in (4097, 65536, 0x7FFFFFFF, 0xFFFFFFFF)
    ),
)
_add(
    "wrong-versions",
    "Messages of another version",
    _HEADER,
    (message(Request.GET_FEATURES, flags=version) for version in (0, 2, 3)),
)
_add(
    "replies-as-requests",
    "Replies that nobody asked for",
    _HEADER,
    (message(request, body, flags=VERSION | FLAG_REPLY) for request, body in BODIES.items()),
)
_add(
    "undefined-flags",
    "Messages with flags that nobody has defined",
    _HEADER,
    (message(Request.GET_FEATURES, flags=VERSION | 1 << bit) for bit in range(4, 32)),
)
_add(
    "not-negotiated",
    "Requests of features that were not negotiated",
    'vhost-user, "Protocol features"',
    (message(request, body, flags=ASKING) for request, body in BODIES.items()),
)
_add("zeros", "Nothing but zeros", _HEADER, [bytes(4096)])
_add("ones", "Nothing but ones", _HEADER, [b"\xff" * 4096])


@GROUP.check(
    "unknown-requests",
    "A request that nobody knows is refused, or ends the connection; it has no other answer.",
    "rust-vmm/vhost, pull request 212",
    Severity.ROBUSTNESS,
)
def _unknown_requests(peer: Peer) -> None:
    for request in (0, 46, 100, 0x7FFFFFFF, 0xFFFFFFFF):
        stream = peer.talk()
        if stream.acks:
            stream.refuses(request, u64(0))
        else:
            stream.survive_bad(request, u64(0))
        stream.close()
    assert_serves(peer)


# Chance


@GROUP.check(
    "random-messages",
    "Messages made by chance, a thousand of them, cost nobody else anything.",
    _HEADER,
    Severity.ROBUSTNESS,
)
def _random_messages(peer: Peer) -> None:
    chance = random.Random(20)  # the same ones every time
    stream = peer.talk()
    with eventfds() as fds:
        for _ in range(1000):
            request = chance.choice([*BODIES, *range(48)])
            body = bytearray(BODIES.get(Request(request), b"") if request in BODIES else bytes(8))
            for _ in range(chance.randrange(3)):
                if body:
                    body[chance.randrange(len(body))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
            given = fds * chance.choice((0, 0, 1, 2))
            try:
                stream.send_bytes(message(request, bytes(body), chance.choice((VERSION, ASKING))), given)
                _drop_replies(stream)
            except PeerError:
                stream.close()
                stream = peer.talk()
    stream.close()
    assert_serves(peer)


def _drop_replies(stream: Stream) -> None:
    """They are read, whatever they are, so that the back-end can go on."""
    stream.socket.setblocking(False)
    try:
        content, fds = receive(stream.socket, 65536)
    except BlockingIOError:
        return
    except OSError as error:
        raise PeerError(f"the back-end has closed the connection ({error.strerror or error})") from error
    for fd in fds:
        os.close(fd)
    if not content:
        raise PeerError("the back-end has closed the connection")


# Memory that changes, and goes away


@GROUP.check(
    "ring-that-changes",
    "A guest that changes descriptors while they are read costs nobody else anything.",
    "CVE-2020-14375",
    Severity.ROBUSTNESS,
)
def _ring_that_changes(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        end = threading.Event()
        flipper = threading.Thread(target=_flip, args=(driver.memory, driver.queues[TX].place.desc, end))
        flipper.start()
        try:
            with contextlib.suppress(PeerError, TimeoutError):
                for count in range(3000):
                    driver.send(frame(count % 256), timeout=0.05)
        finally:
            end.set()
            flipper.join()
    assert_serves(peer)


def _flip(memory: GuestMemory, table_at: int, end: threading.Event) -> None:
    """Addresses, lengths and flags of the first descriptors, to nonsense and back."""
    chance = random.Random(14375)
    while not end.is_set():
        at = table_at + 16 * chance.randrange(8)
        memory.store_u32(at + 8, chance.choice((0, 1, 72, 0xFFFFFFFF)))
        memory.store_u16(at + 12, chance.choice((0, 1, 2, 4)))
        memory.store_u16(at + 14, chance.choice((0, 7, 63, 64, 0xFFFF)))


@GROUP.check(
    "memory-that-goes-away",
    "A front-end that cuts the file of its memory short while rings run costs nobody else anything.",
    "cloud-hypervisor issue 7387",
    Severity.ROBUSTNESS,
)
def _memory_that_goes_away(peer: Peer) -> None:
    regions = (Region(gpa=0, size=4 * _MIB), Region(gpa=1 << 32, size=_MIB, file="goes"))
    with GuestMemory(regions=regions) as memory, peer.stepper(memory=memory) as driver:
        driver.say_all()
        settle(peer, driver)
        with contextlib.suppress(PeerError, TimeoutError, CheckFailedError):
            send_at(driver, regions[1].gpa + 4096, frame(1))
            driver.wait_sent(timeout=peer.patience)
            driver.stop_rings()
            queue = driver.virtqueues[TX]
            send_at(driver, regions[1].gpa + 4096, frame(2))
            assert queue.outstanding
            memory.truncate("goes", 0)
            driver.start_rings()
            driver.kick(TX)
            rest()
            driver.frontend.get_features()
    assert_serves(peer)
