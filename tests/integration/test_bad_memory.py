"""Memory tables that must be refused: a nack, one log line, nothing mapped, and the old table stays."""

from __future__ import annotations

import os
import select
import socket
import struct
import tempfile
from collections.abc import Callable

import pytest

from tests.integration.loglines import assert_one_line
from tests.site import FRAME, Site
from vhostuser.errors import PeerError
from vhostuser.frontend.calls import memory_table, set_mem_table
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.wire.constants import Request
from vhostuser.wire.payloads import MemoryRegion, MemTable

RUNNERS = ("loop", "event")

PAGE = 4096
END = 1 << 64


def memfd(size: int = 4 * PAGE) -> int:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, size)
    return fd


def assert_refused(driver: VirtioNetDriver, table: MemTable, fds: list[int]) -> None:
    try:
        with pytest.raises(PeerError):
            driver.frontend.run(set_mem_table(table, fds), need_reply=True)
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize(
    ("regions", "words"),
    [
        ([(0, 0, 0, 0)], ("region 0", "0x0")),
        ([(END - PAGE, 2 * PAGE, 0x1000, 0)], ("region 0", "guest address", "0xfffffffffffff000")),
        ([(0, 2 * PAGE, END - PAGE, 0)], ("user address", "0xfffffffffffff000")),
        ([(0, 2 * PAGE, 0x1000, (1 << 63) - PAGE)], ("file offset", "0x7ffffffffffff000")),
        ([(0, PAGE, 0x1000, 4 * PAGE)], ("0x5000", "0x4000")),
        ([(0, 5 * PAGE, 0x1000, 0)], ("0x5000", "0x4000")),
        ([(0, END - 1, 0x1000, 0)], ("user address", "0xffffffffffffffff")),
        (
            [(0, 2 * PAGE, 0x100000, 0), (PAGE, PAGE, 0x200000, 0)],
            ("region 0", "guest", "overlaps region 1", "0x1000"),
        ),
        (
            [(0, 2 * PAGE, 0x100000, 0), (0x100000, PAGE, 0x101000, 0)],
            ("region 0", "user", "overlaps region 1", "0x101000"),
        ),
        ([(0, PAGE, 0x100000, 0), (0, PAGE, 0x100000, 0)], ("guest", "overlaps")),
        ([(number * PAGE, PAGE, 0x100000 + number * PAGE, 0) for number in range(33)], ("33",)),
    ],
    ids=[
        "empty region",
        "guest address wraps",
        "user address wraps",
        "file offset wraps",
        "behind the end of the file",
        "longer than the file",
        "nearly 2^64 bytes",
        "overlap in guest addresses",
        "overlap in user addresses",
        "the same twice",
        "33 regions",
    ],
)
def test_table_that_cannot_be_is_refused(
    site: Site,
    caplog: pytest.LogCaptureFixture,
    regions: list[tuple[int, int, int, int]],
    words: tuple[str, ...],
) -> None:
    with site.running() as driver:
        table = MemTable(tuple(MemoryRegion(*region) for region in regions))
        assert_refused(driver, table, [memfd() for _ in regions])

    assert_one_line(caplog, "SET_MEM_TABLE", *words)


def make_file(flags: int) -> int:
    with tempfile.NamedTemporaryFile() as file:
        os.truncate(file.name, 4 * PAGE)
        return os.open(file.name, flags)


def make_socket() -> int:
    left, right = socket.socketpair()
    right.close()
    return left.detach()


def make_pipe() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def make_epoll() -> int:
    epoll = select.epoll()
    fd = os.dup(epoll.fileno())
    epoll.close()
    return fd


def make_sealed() -> int:
    import fcntl

    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4 * PAGE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    return fd


@pytest.mark.parametrize(
    "make",
    [
        make_pipe,
        make_socket,
        make_epoll,
        make_sealed,
        lambda: os.eventfd(0),
        lambda: os.open("/", os.O_RDONLY),
        lambda: make_file(os.O_RDONLY),
    ],
    ids=["pipe", "socket", "epoll", "sealed against writing", "eventfd", "directory", "read-only file"],
)
def test_fd_that_cannot_be_mapped_is_refused(
    site: Site, caplog: pytest.LogCaptureFixture, make: Callable[[], int]
) -> None:
    with site.running() as driver:
        assert_refused(driver, MemTable((MemoryRegion(0, PAGE, 0x100000, 0),)), [make()])

    assert_one_line(caplog, "SET_MEM_TABLE")


@pytest.mark.parametrize("count", [0, 1, 3, 33, 0xFFFFFFFF])
def test_region_count_that_lies_is_refused(site: Site, caplog: pytest.LogCaptureFixture, count: int) -> None:
    # Two regions and two fds come; the table says otherwise.
    with site.running() as driver:
        body = struct.pack("=II", count, 0) + b"".join(
            struct.pack("=QQQQ", number * PAGE, PAGE, 0x100000 + number * PAGE, 0) for number in range(2)
        )
        fds = [memfd(), memfd()]
        driver.frontend.send_raw(struct.pack("=III", Request.SET_MEM_TABLE, 9, len(body)) + body, fds)
        reply = driver.frontend.receive_reply()
        for fd in fds:
            os.close(fd)

        assert reply.request is Request.SET_MEM_TABLE
        assert getattr(reply.payload, "value", 0) != 0
    assert_one_line(caplog, "SET_MEM_TABLE", str(count))


@pytest.mark.parametrize("fds", [0, 1, 3])
def test_fd_count_that_differs_from_the_regions_is_refused(
    site: Site, caplog: pytest.LogCaptureFixture, fds: int
) -> None:
    with site.running() as driver:
        table = MemTable(tuple(MemoryRegion(n * PAGE, PAGE, 0x100000 + n * PAGE, 0) for n in range(2)))
        assert_refused(driver, table, [memfd() for _ in range(fds)])

    assert_one_line(caplog, "SET_MEM_TABLE", f"{fds} fds", "2")


def test_same_table_again_while_rings_run_loses_no_frame(site: Site) -> None:
    with site.running() as driver:
        for _ in range(20):
            driver.frontend.run(
                set_mem_table(memory_table(driver.memory), driver.memory.fds()), need_reply=True
            )
            driver.send(FRAME)
            assert driver.recv().frame == FRAME


def test_rings_that_a_table_leaves_out_stop_until_one_has_them_again(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.running() as driver:
        # The port follows on a thread of its own: a frame that came back shows that both rings run by now.
        driver.send(FRAME)
        assert driver.recv().frame == FRAME
        fd = memfd()
        driver.frontend.run(
            set_mem_table(MemTable((MemoryRegion(0, PAGE, 0x100000, 0),)), [fd]), need_reply=True
        )
        os.close(fd)
        stopped = [record.message for record in caplog.records if "waits for its memory" in record.message]
        assert [line[:7] for line in stopped] == ["ring 0 ", "ring 1 "]
        driver.send(FRAME)

        driver.frontend.run(set_mem_table(memory_table(driver.memory), driver.memory.fds()), need_reply=True)

        assert driver.recv().frame == FRAME
