"""IOTLB messages and channels that are wrong: a nack or a lost channel, one line; others go on."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import open_fds
from tests.integration.loglines import assert_one_line, complaints
from tests.plain_frontend import PlainFrontend, iotlb
from tests.site import RING_SIZE, Site, echo, frame, wait
from vhostuser.errors import PeerError
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.iommu import EVERYTHING, Answers, Iommu
from vhostuser.frontend.iova_memory import PAGE, IovaMemory
from vhostuser.frontend.virtqueue_base import Segment
from vhostuser.server import backend
from vhostuser.wire.connection import Connection
from vhostuser.wire.constants import BackendRequest
from vhostuser.wire.messages import U64, Iotlb, Reply
from vhostuser.wire.requests import BACKEND_REQUESTS

SET_BACKEND_REQ_FD, IOTLB_MSG = 21, 22
UPDATE, INVALIDATE = 2, 3
END = (1 << 64) - 1
RX, TX = 0, 1
LOST = "the channel for the back-end's own requests is gone"


class Behind(VirtioNetDriver):
    """A driver behind an IOMMU of its own."""

    @property
    def table(self) -> Iommu:
        assert self.iommu is not None
        return self.iommu

    def close(self) -> None:
        super().close()
        self.table.memory.close()


@contextmanager
def behind(site: Site, answers: Answers = Answers.LAZY) -> Iterator[Behind]:
    iommu = Iommu(IovaMemory(4 << 20), answers)
    with Behind.connect(site.path, iommu=iommu, queue_size=RING_SIZE) as nic:
        yield nic


def update(nic: Behind, **changes: int) -> Iotlb:
    """Of a page that no ring uses, right but for these."""
    region = nic.memory.regions[0]
    words = {"iova": 1 << 46, "size": PAGE, "uva": region.uva or 0, "perm": 3, "type": UPDATE} | changes
    return Iotlb(**words)


# What is said of translations


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 0}, ("0x0 bytes",)),
        ({"iova": END, "size": 2}, ("0x2 bytes", "I/O address", hex(END))),
        ({"uva": END, "size": 2}, ("0x2 bytes", "user address", hex(END))),
        ({"uva": 0x1000}, ("0x1000 bytes at user address 0x1000", "not within one memory region")),
        ({"size": 1 << 30}, ("0x40000000 bytes", "not within one memory region")),
        ({"size": END - (1 << 46)}, ("0xffffbfffffffffff bytes",)),
        *(({"perm": perm}, (f"access {perm}",)) for perm in (0, 4, 128, 255)),
        *(({"type": kind}, (f"type {kind}",)) for kind in (0, 1, 4, 9, 255)),
    ],
    ids=lambda value: "-".join(f"{k}={v:#x}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_update_that_cannot_be_is_refused_and_the_rings_run_on(
    site: Site, caplog: pytest.LogCaptureFixture, changes: dict[str, int], words: tuple[str, ...]
) -> None:
    with behind(site) as nic:
        echo(nic)
        with pytest.raises(PeerError, match="refused IOTLB_MSG"):
            nic.frontend.iotlb_msg(update(nic, **changes))
        echo(nic)

    assert_one_line(caplog, "IOTLB_MSG", *words)


def test_update_before_there_is_memory_is_refused(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with PlainFrontend(site.path) as plain:
        plain.negotiate(features=1 << 33 | 1 << 32 | 1 << 30)
        assert plain.number(IOTLB_MSG, iotlb(0, PAGE, 0x1000, 3, UPDATE)) != 0

    assert_one_line(caplog, "IOTLB_MSG", "not within one memory region")


def test_iotlb_message_without_the_feature_is_refused(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with site.running() as driver, pytest.raises(PeerError, match="refused IOTLB_MSG"):
        driver.frontend.iotlb_msg(Iotlb(0, EVERYTHING, 0, 0, INVALIDATE))

    assert_one_line(caplog, "IOTLB_MSG", "needs ACCESS_PLATFORM")


def test_everything_is_invalidated_with_packets_in_flight(site: Site) -> None:
    with behind(site) as nic:
        for number in range(100):
            nic.send(frame(number))
            nic.table.invalidate(nic.frontend)
            assert nic.recv().frame == frame(number)


@pytest.mark.parametrize(("iova", "size"), [(0, 0), (END, END), (END, 1), (0, END), (1 << 46, 1 << 63)])
def test_invalidation_of_any_range_is_taken(site: Site, iova: int, size: int) -> None:
    with behind(site) as nic:
        echo(nic)
        nic.table.invalidate(nic.frontend, iova, size)
        echo(nic)


def test_ten_thousand_translations_are_no_more_than_the_bound(site: Site) -> None:
    with behind(site) as nic:
        for number in range(3000):
            nic.frontend.iotlb_msg(update(nic, iova=(1 << 46) + number * PAGE))
        echo(nic)


# What comes of a miss


def refuse(nic: Behind) -> None:
    """A frame that will be sent lies where the IOMMU allows nothing."""
    nic.table.answers = Answers.REFUSING
    content = nic.memory.alloc(PAGE)
    nic.table.memory.pages.pop(content)
    ring = nic.transmit_queue()
    ring.add([Segment(content, 60)], (), Segment(content, 60))
    ring.publish()
    nic.kick(TX)


def serve_until(nic: Behind, probe: Callable[[], bool]) -> None:
    def served() -> bool:
        nic.serve_iommu()
        return probe()

    wait(served)


def test_refused_miss_breaks_its_ring_and_the_connection_goes_on(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with behind(site) as nic:
        echo(nic)
        refuse(nic)
        serve_until(nic, lambda: bool(complaints(caplog)))
        site.assert_neighbour_unharmed()
        assert nic.frontend.get_vring_base(TX) == 1

    assert_one_line(caplog, "ring 1 is broken", "the IOMMU has no translation of I/O address 0x77")


def test_broken_ring_runs_again_when_it_is_set_up_anew(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with behind(site) as nic:
        refuse(nic)
        serve_until(nic, lambda: bool(complaints(caplog)))
        nic.reset()
        nic.table.answers = Answers.LAZY
        nic.start()
        echo(nic, frame(2))


def test_miss_that_is_never_answered_stops_its_rings_alone(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "LOOK_BACK_SECONDS", (0.01,))
    with behind(site, Answers.SILENT) as nic:
        nic.send(frame(1))
        for _ in range(20):
            nic.kick(TX)
            site.assert_neighbour_unharmed()
        wait(lambda: nic.serve_iommu() == 0 and bool(nic.table.asked))
        wait(lambda: len(complaints(caplog)) == 2)
        asked = len(nic.table.asked)
        assert asked <= 2, "once for each page, however often it is kicked"
        # Neither is waited for here, and the rings have not moved.
        assert [nic.frontend.get_vring_base(index) for index in (RX, TX)] == [0, 0]
        nic.frontend.get_features()

    assert all("waits for a translation of I/O address 0x77" in line for line in complaints(caplog))


def test_storm_of_misses_is_one_question_a_ring(site: Site) -> None:
    iommu = Iommu(IovaMemory(16 << 20), Answers.SILENT)
    with Behind.connect(site.path, iommu=iommu, queue_size=RING_SIZE, queue_pairs=64) as nic:
        for pair in range(64):
            nic.kick(2 * pair + 1)
        site.assert_neighbour_unharmed()
        wait(lambda: nic.serve_iommu() == 0 and bool(iommu.asked))
        assert len(iommu.asked) <= 128
        assert len({question.iova & -PAGE for question in iommu.asked}) == len(iommu.asked)


# The channel


def ask_of(nic: Behind) -> None:
    """Makes the back-end ask, and reads the question."""
    nic.table.answers = Answers.SILENT
    nic.table.invalidate(nic.frontend)
    before = len(nic.table.asked)
    nic.send(frame(1))
    wait(lambda: nic.serve_iommu() > 0 or len(nic.table.asked) > before)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff" * 12, "version"),
        (Connection(BACKEND_REQUESTS).encode(Reply(BackendRequest.VRING_CALL, U64(0))), "answers"),
        (Connection(BACKEND_REQUESTS).encode_request(BackendRequest.IOTLB_MSG, U64(0)), "of a reply"),
    ],
    ids=["garbage", "another answer", "a request"],
)
def test_channel_that_is_lost_costs_nothing_else(
    site: Site, caplog: pytest.LogCaptureFixture, content: bytes, words: str
) -> None:
    with behind(site) as nic:
        ask_of(nic)
        nic.channel.send(content)
        wait(lambda: bool(complaints(caplog)))
        # What the front-end says by itself still counts.
        for page in nic.table.memory.pages:
            nic.table.tell(nic.frontend, page)
        assert nic.recv().frame == frame(1)

    assert_one_line(caplog, LOST, words)


def test_channel_that_the_front_end_closes_costs_nothing_else(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with behind(site) as nic:
        ask_of(nic)
        nic.channel.shutdown(socket.SHUT_RDWR)
        wait(lambda: LOST in caplog.text)
        for page in nic.table.memory.pages:
            nic.table.tell(nic.frontend, page)
        assert nic.recv().frame == frame(1)


def test_second_channel_is_asked_what_the_first_has_not_answered(site: Site) -> None:
    with behind(site) as nic:
        ask_of(nic)
        ours, theirs = socket.socketpair()
        nic.frontend.set_backend_req_fd(theirs.fileno())
        theirs.close()
        nic.table.answers = Answers.LAZY
        wait(lambda: nic.table.serve(nic.frontend, ours) > 0)
        wait(lambda: nic.table.serve(nic.frontend, ours) == 0 and nic.recv_now() is not None)
        ours.close()


@pytest.mark.parametrize("kind", ["eventfd", "pipe", "file", "datagram socket"])
def test_channel_that_is_no_stream_socket_is_refused_and_closed(
    site: Site, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    with PlainFrontend(site.path) as plain:
        plain.negotiate()
        before = len(open_fds())
        fds = {
            "eventfd": lambda: [os.eventfd(0)],
            "pipe": lambda: list(os.pipe()),
            "file": lambda: [os.memfd_create("x")],
            "datagram socket": lambda: [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach()],
        }[kind]()
        assert plain.number(SET_BACKEND_REQ_FD, fds=fds[:1]) != 0
        for fd in fds:
            os.close(fd)
        assert len(open_fds()) == before

    assert_one_line(caplog, "SET_BACKEND_REQ_FD", "socket")


def test_hundred_channels_leave_one_fd(site: Site) -> None:
    with PlainFrontend(site.path) as plain:
        plain.negotiate()
        ours, theirs = socket.socketpair()
        assert plain.number(SET_BACKEND_REQ_FD, fds=[theirs.fileno()]) == 0
        before = len(open_fds())
        for _ in range(100):
            assert plain.number(SET_BACKEND_REQ_FD, fds=[theirs.fileno()]) == 0
        assert len(open_fds()) == before
        ours.close()
        theirs.close()
