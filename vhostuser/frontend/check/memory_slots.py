"""Memory in slots: regions that come and go one by one, in traffic, and ones that make no sense."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence

from vhostuser.errors import PeerError
from vhostuser.frontend import calls
from vhostuser.frontend.check.memory_tables import LOW, NEXT, use_every_region
from vhostuser.frontend.check.model import Group, NotApplicableError, Severity, expect
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stepper import TX, Stepper
from vhostuser.frontend.check.stream import memfds, number
from vhostuser.frontend.check.traffic import assert_serves, frame, pass_frames, rest, settle
from vhostuser.frontend.guest_memory import GuestMemory, Region
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.frontend.orders import PROTOCOL_FEATURES, Order
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.messages import MemTable
from vhostuser.wire.payloads import MemoryRegion

GROUP = Group("memory-slots", "regions that come and go one by one, and rings at guest addresses")

_SLOTS = 'vhost-user, "VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS"'
_PAGE = 4096
_FAR = 1 << 40
_FILE = 4 * _PAGE
_MOST_TRIED = 600
"""More slots than that are believed."""


def _single(gpa: int, size: int, uva: int, offset: int = 0) -> bytes:
    return struct.pack("=QQQQQ", 0, gpa, size, uva, offset)


@contextlib.contextmanager
def _slotted(
    peer: Peer, regions: Sequence[Region] = (LOW, NEXT)
) -> Iterator[tuple[Stepper, list[MemoryRegion]]]:
    """A driver that acknowledged slots and has told of no memory yet; and its regions."""
    with GuestMemory(regions=regions) as memory, peer.stepper(memory=memory) as driver:
        driver.acknowledge(driver.protocol_features | P.CONFIGURE_MEM_SLOTS)
        yield driver, list(calls.memory_table(memory).regions)


def _add_region(driver: Stepper, rows: Sequence[MemoryRegion], index: int) -> None:
    driver.do(calls.add_mem_reg(rows[index], driver.memory.fds()[index]))


@GROUP.check(
    "max-slots",
    "GET_MAX_MEM_SLOTS says at least 8, and the same each time: QEMU plugs no more than that.",
    _SLOTS,
    protocol=P.CONFIGURE_MEM_SLOTS,
)
def _max_slots(peer: Peer) -> None:
    found = set()
    for _ in range(2):
        stream = peer.stream()
        stream.negotiate(peer.acked_protocol | P.CONFIGURE_MEM_SLOTS, int(peer.plain_features))
        found |= {number(stream.ask(Request.GET_MAX_MEM_SLOTS)) for _ in range(2)}
        stream.close()
    expect(len(found) == 1 and min(found) >= 8, "one number, 8 or more", sorted(found))


@GROUP.check(
    "slots-for-a-table",
    "A device whose memory comes in slots only runs: newer QEMUs send no table.",
    _SLOTS,
    protocol=P.CONFIGURE_MEM_SLOTS,
)
def _slots_for_a_table(peer: Peer) -> None:
    with _slotted(peer) as (driver, rows):
        for index in range(len(rows)):
            _add_region(driver, rows, index)
        driver.say_all("memory")
        settle(peer, driver)
        use_every_region(peer, driver)


@GROUP.check(
    "slots-in-traffic",
    "A region that is added while rings run can be used, and one that is removed is not missed.",
    _SLOTS,
    protocol=P.CONFIGURE_MEM_SLOTS,
)
def _slots_in_traffic(peer: Peer) -> None:
    with _slotted(peer) as (driver, rows):
        _add_region(driver, rows, 0)
        driver.say_all("memory")
        settle(peer, driver)
        for round_ in range(4):
            _add_region(driver, rows, 1)
            use_every_region(peer, driver)
            driver.do(calls.rem_mem_reg(rows[1]))
            pass_frames(peer, driver, 4, first=10 + 4 * round_)


@GROUP.check(
    "slots-after-a-table",
    "A region may be added to a table: Cloud Hypervisor plugs memory so.",
    "cloud-hypervisor, vhost_user/vu_common_ctrl.rs",
    protocol=P.CONFIGURE_MEM_SLOTS,
)
def _slots_after_a_table(peer: Peer) -> None:
    with _slotted(peer) as (driver, rows):
        driver.do(calls.set_mem_table(MemTable(tuple(rows[:1])), driver.memory.fds()[:1]))
        driver.say_all("memory")
        settle(peer, driver)
        _add_region(driver, rows, 1)
        use_every_region(peer, driver)


@GROUP.check(
    "slots-all-used",
    "As many regions as GET_MAX_MEM_SLOTS says are taken, and one more is refused.",
    _SLOTS,
    Severity.SHOULD,
    protocol=P.CONFIGURE_MEM_SLOTS | P.REPLY_ACK,
)
def _slots_all_used(peer: Peer) -> None:
    stream = peer.stream()
    stream.negotiate(peer.acked_protocol | P.CONFIGURE_MEM_SLOTS, int(peer.plain_features))
    most = number(stream.ask(Request.GET_MAX_MEM_SLOTS))
    if most > _MOST_TRIED:
        raise NotApplicableError(f"{most} slots are believed")
    with memfds(1, _PAGE) as fds:
        for index in range(most):
            stream.do(Request.ADD_MEM_REG, _single(index * 2 * _PAGE, _PAGE, _FAR + index * 2 * _PAGE), fds)
        stream.refuses(Request.ADD_MEM_REG, _single(_FAR, _PAGE, 2 * _FAR), fds)


@GROUP.check(
    "slot-of-running-rings",
    "Removing the region in which running rings lie costs nobody else anything.",
    _SLOTS,
    Severity.ROBUSTNESS,
    protocol=P.CONFIGURE_MEM_SLOTS,
)
def _slot_of_running_rings(peer: Peer) -> None:
    with _slotted(peer) as (driver, rows), contextlib.suppress(PeerError, TimeoutError):
        for index in range(len(rows)):
            _add_region(driver, rows, index)
        driver.say_all("memory")
        settle(peer, driver)
        driver.send(frame(1))
        driver.do(calls.rem_mem_reg(rows[0]))
        driver.kick(TX)
        rest()
        driver.frontend.get_features()
    assert_serves(peer)


_REFUSED: tuple[tuple[str, str, Request, bytes], ...] = (
    (
        "slot-overlapping",
        "A region that overlaps another",
        Request.ADD_MEM_REG,
        _single(_PAGE // 2, _PAGE, 2 * _FAR),
    ),
    ("slot-size-0", "A region of no size", Request.ADD_MEM_REG, _single(1 << 30, 0, 2 * _FAR)),
    (
        "slot-file-too-short",
        "A region beyond the end of its file",
        Request.ADD_MEM_REG,
        _single(1 << 30, 2 * _FILE, 2 * _FAR),
    ),
    (
        "slot-overflow",
        "A region beyond the last guest address",
        Request.ADD_MEM_REG,
        _single((1 << 64) - _PAGE, 2 * _PAGE, 2 * _FAR),
    ),
    (
        "slot-unknown-removed",
        "The removal of a region that is not there",
        Request.REM_MEM_REG,
        _single(1 << 30, _PAGE, 2 * _FAR),
    ),
)


def _add_refusal(name: str, what: str, request: Request, body: bytes) -> None:
    def check(peer: Peer) -> None:
        stream = peer.stream()
        stream.negotiate(peer.acked_protocol | P.CONFIGURE_MEM_SLOTS, int(peer.plain_features))
        with memfds(1, _FILE) as fds:
            stream.do(Request.ADD_MEM_REG, _single(0, _PAGE, _FAR), fds)
            stream.refuses(request, body, fds if request is Request.ADD_MEM_REG else ())
        stream.close()
        assert_serves(peer)

    GROUP.check(
        name,
        f"{what} is refused.",
        _SLOTS,
        Severity.ROBUSTNESS,
        protocol=P.CONFIGURE_MEM_SLOTS | P.REPLY_ACK,
    )(check)


for _case in _REFUSED:
    _add_refusal(*_case)


def _add_addresses(name: str, features: V) -> None:
    def check(peer: Peer) -> None:
        wanted = PROTOCOL_FEATURES[Order.QEMU] | P.GPA_ADDRESSES
        with peer.driver(protocol_features=wanted, features=DEFAULT_FEATURES | features) as driver:
            settle(peer, driver)
            pass_frames(peer, driver, 16)
            driver.stop()
            driver.start()
            settle(peer, driver)
            pass_frames(peer, driver, 16, first=100)

    GROUP.check(
        f"guest-addresses{name}",
        "With GPA_ADDRESSES rings and regions are where their guest addresses say.",
        'vhost-user, "VHOST_USER_PROTOCOL_F_GPA_ADDRESSES"',
        virtio=features,
        protocol=P.GPA_ADDRESSES,
    )(check)


_add_addresses("", V(0))
_add_addresses("-packed", V.RING_PACKED)
