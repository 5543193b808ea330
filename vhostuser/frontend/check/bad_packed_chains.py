"""Chains that break the rules of packed rings: the ring may break, but back-end and everybody else go on."""

from __future__ import annotations

from collections.abc import Callable

from vhostuser.frontend.check.bad_chains import Poison, suffer
from vhostuser.frontend.check.model import Group, Severity
from vhostuser.frontend.check.peer import RING_SIZE, Peer
from vhostuser.frontend.check.stepper import RX, TX
from vhostuser.frontend.check.traffic import frame
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.frontend.packed_virtqueue import PackedDescriptor, available_flags
from vhostuser.frontend.ring_position import RingPosition
from vhostuser.frontend.virtqueue_base import DescFlag
from vhostuser.wire.features import VirtioFeature as V

GROUP = Group("bad-packed-chains", "chains that break the rules of packed rings")

_DESC = "virtio 1.x, 2.8.13"
_CHAIN = "virtio 1.x, 2.8.6"
_TABLE = "virtio 1.x, 2.8.7"
_EVENT = "virtio 1.x, 2.8.10"
_NEXT, _WRITE, _INDIRECT = int(DescFlag.NEXT), int(DescFlag.WRITE), int(DescFlag.INDIRECT)
_NOWHERE = 1 << 60
_LAST = (1 << 64) - 16

Descriptors = Callable[[int], list[tuple[int, int, int, int]]]
"""From a buffer to descriptors: address, length, id, flags but for the two that make them available."""


def _add(name: str, what: str, rule: str, poison: Poison) -> None:
    def check(peer: Peer) -> None:
        suffer(peer, poison, DEFAULT_FEATURES | V.RING_PACKED)

    GROUP.check(
        f"packed-{name}",
        f"{what} costs nobody else anything.",
        rule,
        Severity.ROBUSTNESS,
        virtio=V.RING_PACKED,
    )(check)


def _buffer(driver: VirtioNetDriver) -> int:
    gpa = driver.memory.alloc(4096)
    driver.memory.write(gpa, bytes(driver.header_size) + frame(1, 1000))
    return gpa


def _offer(descriptors: Descriptors) -> Poison:
    def poison(driver: VirtioNetDriver) -> None:
        rows = descriptors(_buffer(driver))
        driver.packed_queues[TX].offer_raw(*(PackedDescriptor(*row) for row in rows))

    return poison


_CHAINS: tuple[tuple[str, str, str, Descriptors], ...] = (
    ("id-out-of-range", "A buffer id beyond the ring", _DESC, lambda at: [(at, 72, RING_SIZE, 0)]),
    ("id-far-out", "A buffer id of 65535", _DESC, lambda at: [(at, 72, 0xFFFF, 0)]),
    ("id-twice", "A buffer id that is in flight twice", _DESC, lambda at: [(at, 72, 0, 0)]),
    ("zero-length", "A descriptor of no bytes", "CVE-2020-10725", lambda at: [(at, 0, 0, 0)]),
    ("length-of-all", "A length of 4294967295", "CVE-2018-1059", lambda at: [(at, 0xFFFFFFFF, 0, 0)]),
    (
        "lengths-that-overflow",
        "Lengths whose sum overflows 32 bits",
        "CVE-2020-14378",
        lambda at: [(at, 1 << 31, 0, _NEXT), (at, 1 << 31, 0, _NEXT), (at, 72, 0, 0)],
    ),
    ("unmapped", "An address outside of memory", "CVE-2020-10725", lambda at: [(_NOWHERE, 72, 0, 0)]),
    ("last-address", "An address that overflows 64 bits", "CVE-2018-1059", lambda at: [(_LAST, 72, 0, 0)]),
    ("writable-transmit", "A descriptor to send that is writable", _DESC, lambda at: [(at, 72, 0, _WRITE)]),
    ("endless-chain", "A chain without an end", _CHAIN, lambda at: [(at, 12, 0, _NEXT)] * (RING_SIZE - 4)),
    (
        "chain-of-all",
        "A chain longer than the ring",
        _CHAIN,
        lambda at: [(at, 1, 0, _NEXT)] * (RING_SIZE + 5),
    ),
    ("empty-chain", "A chain of empty descriptors", _CHAIN, lambda at: [(at, 0, 0, _NEXT)] * (RING_SIZE + 5)),
    ("unknown-flags", "Flags that nobody has defined", _DESC, lambda at: [(at, 72, 0, 0x7F78)]),
)
for _name, _what, _rule, _rows in _CHAINS:
    _add(_name, _what, _rule, _offer(_rows))


def _table(length: int, flags: int = 0, at: int | None = None, row: int = 0) -> Poison:
    """An indirect table of one entry, whose address is `row` if that is not 0."""

    def poison(driver: VirtioNetDriver) -> None:
        queue, gpa = driver.packed_queues[TX], driver.memory.alloc(4096, 16)
        queue.write_table_entry(gpa, 0, row or _buffer(driver), 72, 0, flags)
        queue.offer_raw(PackedDescriptor(gpa if at is None else at, length, 0, _INDIRECT))

    return poison


_TABLES: tuple[tuple[str, str, Poison], ...] = (
    ("table-of-nothing", "An indirect table of no bytes", _table(0)),
    ("table-of-15-bytes", "An indirect table of 15 bytes", _table(15)),
    ("table-of-17-bytes", "An indirect table of 17 bytes", _table(17)),
    ("table-of-2-gib", "An indirect table of 2 GiB", _table(1 << 31)),
    ("table-unmapped", "An indirect table outside of memory", _table(16, at=_NOWHERE)),
    ("table-at-the-last-address", "An indirect table that overflows", _table(32, at=_LAST)),
    ("table-in-a-table", "An indirect table in an indirect table", _table(16, _INDIRECT)),
    ("table-row-unmapped", "An indirect descriptor outside of memory", _table(16, row=_NOWHERE)),
)
for _name, _what, _poison in _TABLES:
    _add(_name, _what, _TABLE, _poison)


def _table_and_next(driver: VirtioNetDriver) -> None:
    at = _buffer(driver)
    driver.packed_queues[TX].offer_raw(
        PackedDescriptor(at, 16, 0, _INDIRECT | _NEXT), PackedDescriptor(at, 72, 0, 0)
    )


def _wrong_wrap(driver: VirtioNetDriver) -> None:
    """Every descriptor available by the wrong wrap counter, and with both bits in each other way."""
    queue = driver.packed_queues[TX]
    avail, at = queue.avail_position, _buffer(driver)
    for slot in range(queue.size):
        state = (available_flags(not avail.wrap), DescFlag(0), DescFlag.AVAIL | DescFlag.USED)[slot % 3]
        queue.write_descriptor(slot, at, 72, 0, int(state))


_add("table-and-next", "An indirect table with a next", _TABLE, _table_and_next)
_add("wrong-wrap", "Descriptors whose flags fit no wrap counter", "virtio 1.x, 2.8.1", _wrong_wrap)


def _event(slot: int, flags: int) -> Poison:
    """In the driver's event areas of both rings, with frames that make the back-end look at them."""

    def poison(driver: VirtioNetDriver) -> None:
        for index in (RX, TX):
            driver.packed_queues[index].write_driver_event(RingPosition(slot, True), flags)
        for number in range(4):
            driver.send(frame(number), timeout=0.2)

    return poison


_add("event-flags-3", "Event suppression flags of 3", _EVENT, _event(0, 3))
_add("event-flags-all", "Event suppression flags of 65535", _EVENT, _event(0, 0xFFFF))
_add("event-offset-out-of-range", "An event offset beyond the ring", _EVENT, _event(RING_SIZE, 2))
_add("event-offset-far-out", "An event offset of 32767", _EVENT, _event(0x7FFF, 2))
