"""Chains that break the rules of split rings: the ring may break, but back-end and everybody else go on.

`bad_packed_chains.py` has those of packed rings, `bad_frames.py` good chains with bad frames in them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from vhostuser.errors import PeerError
from vhostuser.frontend.check.model import NO_VIRTIO, Group, Severity
from vhostuser.frontend.check.peer import RING_SIZE, Peer
from vhostuser.frontend.check.stepper import RX, TX
from vhostuser.frontend.check.traffic import assert_serves, frame, rest, settle, take_in
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.frontend.virtqueue_base import DescFlag
from vhostuser.wire.features import VirtioFeature as V

GROUP = Group("bad-chains", "chains that break the rules of split rings")

Poison = Callable[[VirtioNetDriver], None]

_AVAIL = "virtio 1.x, 2.7.6"
_DESC = "virtio 1.x, 2.7.5"
_TABLE = "virtio 1.x, 2.7.5.3"
_NEXT, _WRITE, _INDIRECT = int(DescFlag.NEXT), int(DescFlag.WRITE), int(DescFlag.INDIRECT)
_NOWHERE = 1 << 60
_LAST = (1 << 64) - 16
_ALL = 0xFFFFFFFF


def suffer(peer: Peer, poison: Poison, features: V) -> None:
    """A device whose rings run gets this; whatever becomes of it, a new connection is served."""
    with peer.driver(features=features) as driver:
        settle(peer, driver)
        take_in(driver)
        with contextlib.suppress(PeerError, TimeoutError):
            poison(driver)
            for index in (RX, TX):
                driver.kick(index)
            rest()
            driver.frontend.get_features()
    assert_serves(peer)


def _add(
    name: str, what: str, rule: str, poison: Poison, virtio: V = NO_VIRTIO, without: V = NO_VIRTIO
) -> None:
    features = (DEFAULT_FEATURES | virtio) & ~without

    def check(peer: Peer) -> None:
        suffer(peer, poison, features)

    GROUP.check(name, f"{what} costs nobody else anything.", rule, Severity.ROBUSTNESS, virtio=virtio)(check)


def _buffer(driver: VirtioNetDriver) -> int:
    """As large as any of these chains, and full of a frame."""
    gpa = driver.memory.alloc(4096)
    driver.memory.write(gpa, bytes(driver.header_size) + frame(1, 1000))
    return gpa


# Indices


def _move_avail(by: int) -> Poison:
    def poison(driver: VirtioNetDriver) -> None:
        queue = driver.transmit_queue()
        queue.write_avail_index(queue.read_avail_index() + by)

    return poison


_add(
    "avail-jump",
    "An available index that jumps by more than the ring's size",
    _AVAIL,
    _move_avail(RING_SIZE + 1),
)
_add("avail-half-around", "An available index half around", _AVAIL, _move_avail(0x8000))
_add("avail-backwards", "An available index that goes back", _AVAIL, _move_avail(-1))


def _offer(*heads: int) -> Poison:
    def poison(driver: VirtioNetDriver) -> None:
        for head in heads:
            driver.transmit_queue().offer_raw(head)

    return poison


_add("head-out-of-range", "A head beyond the table", _AVAIL, _offer(RING_SIZE))
_add("head-far-out", "A head of 65535", _AVAIL, _offer(0xFFFF))
_add("head-twice", "A head that is offered twice", _AVAIL, _offer(0, 0))


# Descriptors

Rows = Callable[[int], list[tuple[int, int, int, int]]]
"""From a buffer to descriptors from 0 on: address, length, flags, next."""


def _chain(rows: Rows) -> Poison:
    def poison(driver: VirtioNetDriver) -> None:
        queue = driver.transmit_queue()
        for index, row in enumerate(rows(_buffer(driver))):
            queue.write_descriptor(index, *row)
        queue.offer_raw(0)

    return poison


_CHAINS: tuple[tuple[str, str, str, Rows], ...] = (
    ("next-out-of-range", "A next beyond the table", _DESC, lambda at: [(at, 12, _NEXT, RING_SIZE)]),
    ("next-far-out", "A next of 65535", _DESC, lambda at: [(at, 12, _NEXT, 0xFFFF)]),
    ("self-loop", "A descriptor that is its own next", "CVE-2019-9547", lambda at: [(at, 12, _NEXT, 0)]),
    (
        "empty-loop",
        "A loop of empty descriptors",
        "CVE-2019-14835",
        lambda at: [(at, 0, _NEXT, 1), (at, 0, _NEXT, 0)],
    ),
    (
        "loop-behind-a-frame",
        "A frame with a loop behind it",
        "CVE-2019-9547",
        lambda at: [(at, 72, _NEXT, 1), (at, 1, _NEXT, 2), (at, 1, _NEXT, 1)],
    ),
    ("zero-length", "A chain of no bytes", "CVE-2020-10725", lambda at: [(at, 0, 0, 0)]),
    ("length-of-all", "A length of 4294967295", "CVE-2018-1059", lambda at: [(at, _ALL, 0, 0)]),
    (
        "lengths-that-overflow",
        "Lengths whose sum overflows 32 bits",
        "CVE-2020-14378",
        lambda at: [(at, 0x80000000, _NEXT, 1), (at, 0x80000000, _NEXT, 2), (at, 72, 0, 0)],
    ),
    ("unmapped", "An address outside of memory", "CVE-2020-10725", lambda at: [(_NOWHERE, 72, 0, 0)]),
    ("last-address", "An address that overflows 64 bits", "CVE-2018-1059", lambda at: [(_LAST, 72, 0, 0)]),
    (
        "header-only-mapped",
        "A frame behind its header that lies outside of memory",
        "CVE-2020-10725",
        lambda at: [(at, 12, _NEXT, 1), (_NOWHERE, 60, 0, 0)],
    ),
    ("writable-transmit", "A chain to send that is writable", _DESC, lambda at: [(at, 72, _WRITE, 0)]),
    (
        "writable-before-readable",
        "A writable descriptor before a readable one",
        "virtio 1.x, 2.7.4.2",
        lambda at: [(at, 12, _WRITE | _NEXT, 1), (at, 60, 0, 0)],
    ),
    ("unknown-flags", "Flags that nobody has defined", _DESC, lambda at: [(at, 72, 0xFFF8, 0)]),
)
for _name, _what, _rule, _rows in _CHAINS:
    _add(_name, _what, _rule, _chain(_rows))


def _half_mapped(driver: VirtioNetDriver) -> None:
    end = driver.memory.regions[-1].end
    driver.transmit_queue().write_descriptor(0, end - 20, 72, 0, 0)
    driver.transmit_queue().offer_raw(0)


_add("half-mapped", "A buffer that ends outside of memory", "CVE-2018-1059", _half_mapped)


def _enormous(driver: VirtioNetDriver) -> None:
    """A frame of 250 KiB: each descriptor in memory, the whole beyond any frame."""
    queue, at = driver.transmit_queue(), _buffer(driver)
    for index in range(RING_SIZE):
        last = index == RING_SIZE - 1
        queue.write_descriptor(index, at, 4000, 0 if last else _NEXT, 0 if last else index + 1)
    queue.offer_raw(0)


_add("enormous-frame", "A frame of 250 KiB", "virtio 1.x, 5.1.6", _enormous)


# Indirect tables

_ONE = 16


def _indirect(length: int, table: Rows, flags: int = _INDIRECT, at: int | None = None) -> Poison:
    def poison(driver: VirtioNetDriver) -> None:
        queue, gpa = driver.transmit_queue(), driver.memory.alloc(4096, 16)
        for index, row in enumerate(table(_buffer(driver))):
            queue.write_table_entry(gpa, index, *row)
        queue.write_descriptor(0, gpa if at is None else at, length, flags, 1)
        queue.write_descriptor(1, gpa, 12, 0, 0)
        queue.offer_raw(0)

    return poison


def _plain(at: int) -> list[tuple[int, int, int, int]]:
    return [(at, 72, 0, 0)]


_TABLES: tuple[tuple[str, str, Poison], ...] = (
    ("table-of-nothing", "An indirect table of no bytes", _indirect(0, _plain)),
    ("table-of-15-bytes", "An indirect table of 15 bytes", _indirect(15, _plain)),
    ("table-of-17-bytes", "An indirect table of 17 bytes", _indirect(17, _plain)),
    ("table-of-2-gib", "An indirect table of 2 GiB", _indirect(1 << 31, _plain)),
    ("table-of-all", "An indirect table of 4294967280 bytes", _indirect(0xFFFFFFF0, _plain)),
    ("table-unmapped", "An indirect table outside of memory", _indirect(_ONE, _plain, at=_NOWHERE)),
    ("table-at-the-last-address", "An indirect table that overflows", _indirect(_ONE * 2, _plain, at=_LAST)),
    (
        "table-in-a-table",
        "An indirect table in an indirect table",
        _indirect(_ONE, lambda at: [(at, _ONE, _INDIRECT, 0)]),
    ),
    ("table-and-next", "An indirect table with a next", _indirect(_ONE, _plain, _INDIRECT | _NEXT)),
    (
        "table-next-out-of-range",
        "A next beyond its indirect table",
        _indirect(_ONE, lambda at: [(at, 12, _NEXT, 1)]),
    ),
    (
        "table-loop",
        "A loop in an indirect table",
        _indirect(2 * _ONE, lambda at: [(at, 1, _NEXT, 1), (at, 1, _NEXT, 0)]),
    ),
    (
        "table-row-unmapped",
        "An indirect descriptor outside of memory",
        _indirect(_ONE, lambda at: [(_NOWHERE, 72, 0, 0)]),
    ),
)
for _name, _what, _poison in _TABLES:
    _add(_name, _what, _TABLE, _poison, V.INDIRECT_DESC)
_add(
    "table-not-negotiated",
    "An indirect table that was not negotiated",
    _TABLE,
    _indirect(_ONE, _plain),
    without=V.INDIRECT_DESC,
)


# What is to be filled


def _receive(gpa: int | None, length: int, flags: int, following: int | None = None) -> Poison:
    """Every buffer of the receive ring becomes this one, and frames come for it."""

    def poison(driver: VirtioNetDriver) -> None:
        queue, at = driver.receive_queue(), _buffer(driver)
        for index in range(queue.size):
            where = at if gpa is None else gpa
            queue.write_descriptor(index, where, length, flags, index if following is None else following)
        for number in range(8):
            driver.send(frame(number, 1000), timeout=0.2)

    return poison


_RECEIVE: tuple[tuple[str, str, str, Poison], ...] = (
    ("receive-readable", "A buffer to receive into that is readable only", _DESC, _receive(None, 2048, 0)),
    (
        "receive-unmapped",
        "A buffer to receive into outside of memory",
        "CVE-2020-10725",
        _receive(_NOWHERE, 2048, _WRITE),
    ),
    (
        "receive-last-address",
        "A buffer to receive into that overflows",
        "CVE-2018-1059",
        _receive(_LAST, 2048, _WRITE),
    ),
    (
        "receive-nothing",
        "Buffers of no bytes to receive into",
        "virtio 1.x, 5.1.6.3.1",
        _receive(None, 0, _WRITE),
    ),
    (
        "receive-one-byte",
        "Buffers of one byte to receive into",
        "virtio 1.x, 5.1.6.3.1",
        _receive(None, 1, _WRITE),
    ),
    (
        "receive-loop",
        "A loop of buffers to receive into",
        "CVE-2019-9547",
        _receive(None, 16, _WRITE | _NEXT),
    ),
    (
        "receive-next-out-of-range",
        "A buffer to receive into whose next is beyond the table",
        _DESC,
        _receive(None, 16, _WRITE | _NEXT, RING_SIZE),
    ),
)
for _name, _what, _rule, _poison in _RECEIVE:
    _add(_name, _what, _rule, _poison)
_add(
    "receive-too-small",
    "Buffers that are too small where they are not merged",
    "virtio 1.x, 5.1.6.3.1",
    _receive(None, 40, _WRITE),
    without=V.MRG_RXBUF,
)
