"""Drivers behind an IOMMU against the server: translations asked for, told, and taken back in traffic."""

from __future__ import annotations

import random

import pytest

from tests.integration.loglines import complaints
from tests.site import RING_SIZE, Site, echo, frame, make_site
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.flood import Flood, Load
from vhostuser.frontend.iommu import Answers, Iommu
from vhostuser.frontend.iova_memory import PAGE, IovaMemory
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.wire.features import VirtioFeature as V

PLAIN = V(0)
FORMATS = [pytest.param(V(0), id="split"), pytest.param(V.RING_PACKED, id="packed")]


def connect(
    site: Site, answers: Answers = Answers.LAZY, features: V = PLAIN, size: int = 64
) -> VirtioNetDriver:
    iommu = Iommu(IovaMemory(16 << 20), answers)
    return VirtioNetDriver.connect(
        site.path, iommu=iommu, features=DEFAULT_FEATURES | features, queue_size=size, buffer_size=9216
    )


class Behind:
    """A driver that runs, and its IOMMU."""

    def __init__(self, nic: VirtioNetDriver) -> None:
        self.nic = nic
        assert nic.iommu is not None
        self.iommu = nic.iommu

    def __enter__(self) -> Behind:
        self.nic.__enter__()
        assert V.ACCESS_PLATFORM in self.nic.features
        return self

    def __exit__(self, *_: object) -> None:
        self.nic.close()
        self.iommu.memory.close()


@pytest.mark.parametrize("features", FORMATS)
@pytest.mark.parametrize("answers", [Answers.LAZY, Answers.EAGER])
def test_frames_come_back_whole(site: Site, answers: Answers, features: V) -> None:
    with Behind(connect(site, answers, features)) as behind:
        for number in range(200):
            echo(behind.nic, frame(number) + bytes(number * 40))
        asked = len(behind.iommu.asked)

    # Also then: the pages of what is sent are mapped later.
    assert asked < 20 if answers is Answers.EAGER else asked > 50


def test_chains_through_indirect_tables(site: Site) -> None:
    iommu = Iommu(IovaMemory(16 << 20))
    nic = VirtioNetDriver.connect(site.path, iommu=iommu, queue_size=RING_SIZE, segments=4)
    with Behind(nic) as behind:
        for number in range(100):
            echo(behind.nic, frame(number) + bytes(1400))


def keep_moving(nic: VirtioNetDriver, iommu: Iommu) -> None:
    """Frames there and back while translations go and pages move."""
    rng = random.Random(7)
    sent = received = 0
    while received < 600:
        while sent - received < 8:
            nic.send(frame(sent) + bytes(rng.randrange(3000)))
            sent += 1
        choice = rng.random()
        if choice < 0.2:
            iommu.invalidate(nic.frontend)
        elif choice < 0.8:
            iommu.move(nic.frontend, rng.choice(list(iommu.memory.pages)))
        while received < sent - 4:
            assert nic.recv().frame[:18] == frame(received)[:18]
            received += 1


@pytest.mark.parametrize("features", FORMATS)
@pytest.mark.parametrize("workers", [0, 2])
def test_invalidations_and_moves_in_traffic(
    caplog: pytest.LogCaptureFixture, features: V, workers: int
) -> None:
    with make_site(workers=workers) as site, Behind(connect(site, features=features)) as behind:
        keep_moving(behind.nic, behind.iommu)
    assert complaints(caplog) == []


def test_stop_and_start_between_invalidations(site: Site) -> None:
    with Behind(connect(site)) as behind:
        for number in range(5):
            echo(behind.nic, frame(number))
            behind.iommu.invalidate(behind.nic.frontend)
            behind.nic.stop()
            assert [ring.base for ring in behind.nic.nic.rings] == [number + 1, number + 1]
            behind.nic.start()
        echo(behind.nic)


def test_flood_in_c(site: Site) -> None:
    iommu = Iommu(IovaMemory(64 << 20, in_one_piece=True), Answers.EAGER)
    with Flood.connect(site.path, iommu=iommu) as flood:
        report = flood.run(Load(packets=20_000, stamp=True, frame_size=1500, window=64))
    iommu.memory.close()

    assert (report.received, report.corrupt, report.lost) == (20_000, 0, 0)


def test_sink_takes_all() -> None:
    with make_site("sink") as site, Behind(connect(site)) as behind:
        for number in range(300):
            behind.nic.send(frame(number))
        behind.nic.wait_sent()


def test_two_pairs(site: Site) -> None:
    iommu = Iommu(IovaMemory(16 << 20))
    nic = VirtioNetDriver.connect(site.path, iommu=iommu, queue_size=RING_SIZE, queue_pairs=2)
    with Behind(nic) as behind:
        for number in range(50):
            behind.nic.send(frame(number), queue=number % 2)
            received = behind.nic.recv()
            assert (received.frame, received.queue) == (frame(number), number % 2)


def test_without_the_bit_nothing_changes(site: Site) -> None:
    with site.driver() as driver:
        assert V.ACCESS_PLATFORM in driver.nic.offered
        assert V.ACCESS_PLATFORM not in driver.features
        echo(driver)


def test_known_pages_are_not_asked_for_again(site: Site) -> None:
    with Behind(connect(site)) as behind:
        echo(behind.nic)
        page_questions = {(question.iova & -PAGE, question.perm) for question in behind.iommu.asked}
        assert len(page_questions) == len(behind.iommu.asked)
