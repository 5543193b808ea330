"""Memory tables of every shape that front-ends send, and new ones in traffic.

`bad_memory_tables.py` has those that make no sense.
"""

from __future__ import annotations

import contextlib
import os

from vhostuser.errors import PeerError
from vhostuser.frontend import calls
from vhostuser.frontend.check.model import CheckFailedError, Group, NotApplicableError, Severity, expect
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stepper import RX, TX, Stepper
from vhostuser.frontend.check.stream import table
from vhostuser.frontend.check.traffic import (
    SMALLEST,
    assert_serves,
    await_frame,
    frame,
    pass_frames,
    send_at,
    settle,
    wait_used,
)
from vhostuser.frontend.guest_memory import GuestMemory, Region, identity_layout
from vhostuser.frontend.timeouts import Deadline
from vhostuser.frontend.virtqueue_base import DescFlag
from vhostuser.wire.constants import Request
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.messages import MemTable

GROUP = Group("memory-tables", "regions of guest memory, and changes of them in traffic")

_TABLE = 'vhost-user, "VHOST_USER_SET_MEM_TABLE"'
_REGIONS = 'vhost-user, "Memory region description"'
_PAGE = 4096
_MIB = 1 << 20
_SPEC_REGIONS = 8
_RUST_REGIONS = 32


def _serve_on(peer: Peer, *regions: Region) -> None:
    """A device on this memory, with frames out of every region of it."""
    with GuestMemory(regions=regions) as memory, peer.stepper(memory=memory) as driver:
        driver.say_all()
        settle(peer, driver)
        use_every_region(peer, driver)


def use_every_region(peer: Peer, driver: Stepper) -> None:
    for index, region in enumerate(driver.memory.regions):
        send_at(driver, region.end - _PAGE, frame(index))
        wait_used(peer, driver, f"a frame out of region {index}")
        if peer.echoes:
            await_frame(peer, driver, frame(index), f"a frame out of region {index}")


# Shapes


@GROUP.check("high-memory", "Guest addresses beyond 4 GiB and far beyond are addresses as any.", _REGIONS)
def _high_memory(peer: Peer) -> None:
    _serve_on(peer, Region(gpa=1 << 32, size=4 * _MIB))
    _serve_on(peer, Region(gpa=(1 << 46) - 4 * _MIB, size=4 * _MIB))


@GROUP.check(
    "equal-addresses",
    "Guest and user addresses may be the same numbers: DPDK's virtio-user has it so.",
    "DPDK, vhost_user_set_memory_table",
)
def _equal_addresses(peer: Peer) -> None:
    _serve_on(peer, *identity_layout(4 * _MIB))


@GROUP.check(
    "one-file-in-two-regions",
    "Regions may share a file at different offsets: QEMU's memory below and above the hole does.",
    _REGIONS,
)
def _one_file_in_two_regions(peer: Peer) -> None:
    _serve_on(
        peer,
        Region(gpa=0, size=3 * _MIB),
        Region(gpa=1 << 32, size=2 * _MIB, mmap_offset=3 * _MIB),
    )


@GROUP.check(
    "offset-within-a-page",
    "The offset into a file need not be a multiple of a page.",
    _REGIONS,
    Severity.SHOULD,
)
def _offset_within_a_page(peer: Peer) -> None:
    _serve_on(peer, Region(gpa=_MIB, size=4 * _MIB, mmap_offset=_PAGE + 0x240))


@GROUP.check(
    "unordered-regions", "Regions come in any order, with holes between them.", _REGIONS, Severity.SHOULD
)
def _unordered_regions(peer: Peer) -> None:
    _serve_on(
        peer,
        Region(gpa=1 << 34, size=_MIB, file="c"),
        Region(gpa=0, size=4 * _MIB, file="a"),
        Region(gpa=1 << 33, size=_MIB, file="b"),
    )


def _many(count: int) -> tuple[Region, ...]:
    return tuple(Region(gpa=4 * _MIB * index, size=2 * _MIB, file=f"r{index}") for index in range(count))


@GROUP.check("eight-regions", "A table of 8 regions, each of a file of its own, is taken.", _REGIONS)
def _eight_regions(peer: Peer) -> None:
    _serve_on(peer, *_many(_SPEC_REGIONS))


@GROUP.check(
    "32-regions",
    "A table of 32 regions is taken: rust-vmm's front-end sends up to so many.",
    "rust-vmm/vhost, MAX_ATTACHED_FD_ENTRIES",
    Severity.SHOULD,
)
def _32_regions(peer: Peer) -> None:
    _serve_on(peer, *_many(_RUST_REGIONS))


LOW = Region(gpa=0, size=4 * _MIB, file="low")
NEXT = Region(gpa=4 * _MIB, size=_MIB, file="next")


@GROUP.check(
    "sent-across-regions",
    "A buffer that crosses from one region into the next is sent whole, though they are different files.",
    "virtio 1.x, 2.7.5; CVE-2018-1059",
)
def _sent_across_regions(peer: Peer) -> None:
    with GuestMemory(regions=(LOW, NEXT)) as memory, peer.stepper(memory=memory) as driver:
        driver.say_all()
        settle(peer, driver)
        for before in (1, 5, 12, 13, 40, 71):
            send_at(driver, LOW.end - before, frame(before))
            wait_used(peer, driver, "a frame that crosses two regions")
            if peer.echoes:
                await_frame(peer, driver, frame(before), f"a frame with {before} bytes in the first region")


@GROUP.check(
    "received-across-regions",
    "A buffer that crosses from one region into the next is filled whole.",
    "virtio 1.x, 2.7.5; CVE-2018-1059",
    echo=True,
)
def _received_across_regions(peer: Peer) -> None:
    with GuestMemory(regions=(LOW, NEXT)) as memory, peer.stepper(memory=memory) as driver:
        at = LOW.end - 30
        driver.queues[RX].write_descriptor(0, at, 2048, DescFlag.WRITE, 0)
        driver.say_all()
        deadline = Deadline(peer.patience)
        while driver.used()[RX] == 0:
            driver.send(frame(7), timeout=peer.patience)
            wait_used(peer, driver)
            if not deadline.left:
                raise CheckFailedError("a frame in the first buffer", "none")
        found = memory.read(at + driver.header_size, SMALLEST)
        expect(found == frame(7), "the frame on both sides of the border", found.hex())


# In traffic


@GROUP.check(
    "same-table-in-traffic",
    "A memory table that comes again while rings run changes nothing.",
    _TABLE,
)
def _same_table_in_traffic(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        for round_ in range(8):
            driver.send(frame(8 * round_))
            driver.say("memory")
            wait_used(peer, driver, "a frame sent before the table")
            if peer.echoes:
                await_frame(peer, driver, frame(8 * round_))
            pass_frames(peer, driver, 4, first=8 * round_ + 1)


@GROUP.check(
    "plugged-in-traffic",
    "A region that is plugged in while rings run can be used when the table is acknowledged, "
    "and one that is pulled out is not missed.",
    _TABLE,
)
def _plugged_in_traffic(peer: Peer) -> None:
    with GuestMemory(regions=(LOW, NEXT)) as memory, peer.stepper(memory=memory) as driver:
        whole = calls.memory_table(memory)
        part = MemTable(whole.regions[:1])
        driver.do(calls.set_mem_table(part, memory.fds()[:1]))
        driver.say_all("memory")
        settle(peer, driver)
        for round_ in range(4):
            driver.do(calls.set_mem_table(whole, memory.fds()))
            use_every_region(peer, driver)
            driver.do(calls.set_mem_table(part, memory.fds()[:1]))
            pass_frames(peer, driver, 4, first=10 + 4 * round_)


@GROUP.check(
    "plugged-while-disabled",
    "A table that comes while rings are disabled holds when they are enabled: virtio-user plugs memory so.",
    "DPDK, virtio_user_mem_event_cb",
    virtio=V.PROTOCOL_FEATURES,
)
def _plugged_while_disabled(peer: Peer) -> None:
    with GuestMemory(regions=(LOW, NEXT)) as memory, peer.stepper(memory=memory) as driver:
        whole = calls.memory_table(memory)
        driver.do(calls.set_mem_table(MemTable(whole.regions[:1]), memory.fds()[:1]))
        driver.say_all("memory")
        settle(peer, driver)
        driver.say("disable")
        driver.do(calls.set_mem_table(whole, memory.fds()))
        driver.say("enable")
        settle(peer, driver)
        use_every_region(peer, driver)


@GROUP.check(
    "refused-table-in-traffic",
    "A table that is refused leaves the one before in force.",
    _TABLE,
    Severity.SHOULD,
)
def _refused_table_in_traffic(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            bad = table((1 << 40, _PAGE, 1 << 40, 0))
            stream = peer.over(driver)
            if not stream.acks:
                raise NotApplicableError("without REPLY_ACK a refusal cannot be seen")
            stream.refuses(Request.SET_MEM_TABLE, bad, [writer])
        finally:
            os.close(reader)
            os.close(writer)
        pass_frames(peer, driver, 4)


@GROUP.check(
    "rings-outside-the-table",
    "A table without the running rings stops them, and costs nobody else anything.",
    _TABLE,
    Severity.ROBUSTNESS,
)
def _rings_outside_the_table(peer: Peer) -> None:
    with GuestMemory(regions=(LOW, NEXT)) as memory, peer.stepper(memory=memory) as driver:
        driver.say_all()
        settle(peer, driver)
        whole = calls.memory_table(memory)
        with contextlib.suppress(PeerError, TimeoutError):
            driver.do(calls.set_mem_table(MemTable(whole.regions[1:]), memory.fds()[1:]))
            driver.send(frame(1), timeout=0.1)
            driver.kick(TX)
            driver.frontend.get_features()
    assert_serves(peer)
