"""Two front-ends and what is between them: a switch in the server, whatever turns its rings."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from tests.site import FRAME, RUNNERS, serving, wait
from vhostuser.config import DeviceConfig
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.flood import Flood, Load, ethernet
from vhostuser.frontend.iommu import Answers, Iommu
from vhostuser.frontend.iova_memory import IovaMemory
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.server.server import Server
from vhostuser.wire.features import ProtocolFeature
from vhostuser.wire.features import VirtioFeature as V

MACS = [bytes((2, 0, 0, 0, 0, number)) for number in range(4)]

NicT = TypeVar("NicT", VirtioNetDriver, Flood)


class Lan:
    """Three devices on one switch, and who is connected to them."""

    def __init__(self, runner: str, caplog: pytest.LogCaptureFixture, postcopy: bool = False) -> None:
        caplog.set_level(logging.INFO, "vhostuser")
        self.caplog = caplog
        self.stack = ExitStack()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="vhu-")))
        self.paths = [folder / f"{number}.sock" for number in range(3)]
        configs = [
            DeviceConfig(name=f"vm{number}", socket_path=str(path), port="switch:lan")
            for number, path in enumerate(self.paths)
        ]
        workers, poll = RUNNERS[runner]
        self.server: Server
        self.server, _ = self.stack.enter_context(serving(configs, workers, poll, postcopy))

    def connect(self, number: int, features: V = DEFAULT_FEATURES) -> VirtioNetDriver:
        return self._up(number, VirtioNetDriver.connect(self.paths[number], features=features, queue_size=64))

    def connect_flood(self, number: int, features: V) -> Flood:
        return self._up(number, Flood.connect(self.paths[number], features=features, queue_size=256))

    def _up(self, number: int, nic: NicT) -> NicT:
        """Until its receive ring runs: a worker starts it some time after the front-end has said all, and
        what comes to a ring that does not run is lost.
        """
        before = self._starts(number)
        self.stack.enter_context(nic)
        wait(lambda: self._starts(number) > before)
        return nic

    def _starts(self, number: int) -> int:
        return sum(
            getattr(record, "device", "") == f"vm{number}" and "(guest receives) runs" in record.getMessage()
            for record in self.caplog.records
        )

    def received(self, number: int) -> int:
        return self.server.counters()[f"vm{number}"][0].packets


def to(receiver: int, sender: int, number: int = 0) -> bytes:
    return MACS[receiver] + MACS[sender] + b"\x88\xb5" + number.to_bytes(4, "big") + FRAME[18:]


@pytest.fixture(params=RUNNERS)
def lan(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[Lan]:
    made = Lan(request.param, caplog)
    with made.stack:
        yield made


@pytest.mark.parametrize("features", [V(0), V.RING_PACKED], ids=["split", "packed"])
def test_frames_come_to_whom_they_are_for(lan: Lan, features: V) -> None:
    one, two, three = (lan.connect(number, DEFAULT_FEATURES | features) for number in range(3))
    one.send(b"\xff" * 6 + to(0, 0)[6:])
    for nic in (two, three):
        assert nic.recv().frame[6:12] == MACS[0]
    for number in range(100):
        two.send(to(0, 1, number))
        assert one.recv().frame == to(0, 1, number)
        one.send(to(1, 0, number))
        assert two.recv().frame == to(1, 0, number)
    assert three.recv_now() is None
    assert lan.received(2) == 1


def test_guest_that_goes_and_comes_back(lan: Lan) -> None:
    one, three = lan.connect(0), lan.connect(2)
    for _ in range(3):
        with VirtioNetDriver.connect(lan.paths[1], queue_size=64) as two:
            two.send(to(0, 1))
            assert one.recv().frame == to(0, 1)
            one.send(to(1, 0))
            assert two.recv().frame == to(1, 0)
            while three.recv_now() is not None:
                pass

        # Nobody knows it any more: everybody is asked.
        def floods() -> bool:
            one.send(to(1, 0))
            return three.recv_now() is not None

        wait(floods)


@pytest.mark.parametrize("size", [60, 1500])
@pytest.mark.parametrize("features", [V(0), V.RING_PACKED], ids=["split", "packed"])
def test_floods_both_ways_arrive_in_order_and_whole(lan: Lan, features: V, size: int) -> None:
    """As many under way as the receiver has room for: none is lost."""
    one, two = (lan.connect_flood(number, DEFAULT_FEATURES | features) for number in range(2))
    reports = []

    def flood(sender: Flood, receiver: Flood, template: bytes) -> None:
        load = Load(packets=20_000, seconds=30, frame_size=size, template=template, window=128, stamp=True)
        reports.append(sender.run(load, receiver=receiver))

    threads = [
        threading.Thread(target=flood, args=(one, two, ethernet(MACS[1], MACS[0]))),
        threading.Thread(target=flood, args=(two, one, ethernet(MACS[0], MACS[1]))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 2
    for report in reports:
        assert report.received == report.sent == 20_000
        assert report.corrupt == report.lost == report.late == report.skipped == report.foreign == 0


def test_rarp_of_a_guest_that_has_moved_tells_the_others(lan: Lan) -> None:
    one, two = lan.connect(0), lan.connect(1)
    two.frontend.send_rarp(MACS[3])
    frame = one.recv().frame
    assert (frame[:12], frame[12:14]) == (b"\xff" * 6 + MACS[3], b"\x80\x35")
    one.send(to(3, 0))
    assert two.recv().frame == to(3, 0)


def test_mtu_of_one_guest_is_nobody_elses(lan: Lan) -> None:
    one, two, three = (lan.connect(number) for number in range(3))
    for number, nic in ((1, two), (2, three)):
        nic.send(to(0, number))
        one.recv()
    two.frontend.net_set_mtu(1000)

    def loses_long_ones() -> bool:
        one.send(to(1, 0).ljust(1400, b"\0"))
        return bool(lan.server.counters()["vm1"][0].drops.get("oversize"))

    wait(loses_long_ones)
    one.send(to(2, 0).ljust(1400, b"\0"))
    while (frame := three.recv().frame)[:6] != MACS[2]:
        pass
    assert len(frame) == 1400


def test_guest_behind_an_iommu(lan: Lan) -> None:
    """Frames for a page that nobody has translated yet are lost, and the next ones come."""
    with IovaMemory(16 << 20) as memory:
        one = lan.connect(0)
        with VirtioNetDriver.connect(lan.paths[1], iommu=Iommu(memory, Answers.LAZY), queue_size=64) as two:
            assert V.ACCESS_PLATFORM in two.features
            two.send(to(0, 1))
            assert one.recv().frame == to(0, 1)
            arrived = 0

            def comes() -> bool:
                nonlocal arrived
                one.send(to(1, 0))
                two.serve_iommu()
                arrived += two.recv_now() is not None
                return arrived >= 100

            wait(comes)


def test_device_on_a_switch_offers_memory_slots_and_no_postcopy(caplog: pytest.LogCaptureFixture) -> None:
    made = Lan("event", caplog, postcopy=True)
    with made.stack:
        offered = made.connect(0).frontend.get_protocol_features()

    assert ProtocolFeature.PAGEFAULT not in offered
    assert ProtocolFeature.CONFIGURE_MEM_SLOTS in offered
