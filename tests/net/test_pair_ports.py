from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from vhostuser.datapath.port_ops import PortKind, PortOps
from vhostuser.datapath.vring import PacketDevice
from vhostuser.datapath.worker import Worker
from vhostuser.net.pair_ports import PairPorts

LOG = logging.LoggerAdapter(logging.getLogger("vhostuser"), {})


class Rig:
    """Two port queues, and what each pair was last told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.worker = Worker()
        self.packet = PacketDevice(0, [self.worker])
        self.queues = [os.eventfd(0), os.eventfd(0)]
        self.told: dict[int, tuple[int, bool]] = {}
        self.ports = PairPorts(self.packet, PortOps(PortKind.FD, tuple(self.queues)), 2, LOG)
        pair = self.packet.pair

        def remembering(n: int) -> object:
            told = self.told

            class Pair:
                def set_port(self, kind: PortKind, fd: int, *, reads: bool, **sizes: int) -> None:
                    told[n] = fd, reads
                    pair(n).set_port(kind, fd, reads=reads, **sizes)

            return Pair()

        monkeypatch.setattr(self.packet, "pair", remembering)

    def close(self) -> None:
        self.packet.close()
        self.ports.close()
        self.worker.close()
        for fd in self.queues:
            os.close(fd)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    rig = Rig(monkeypatch)
    yield rig
    rig.close()


def test_each_pair_has_a_queue_of_its_own_as_long_as_they_last(rig: Rig) -> None:
    rig.ports.share({0, 1})

    assert rig.told == {0: (rig.queues[0], True), 1: (rig.queues[1], True)}


def test_pair_that_is_forgotten_is_told_anew(rig: Rig) -> None:
    rig.ports.share({0, 1})
    rig.told.clear()
    rig.ports.share({0, 1})
    assert rig.told == {}

    rig.ports.forget(1)
    rig.ports.forget(7)
    rig.ports.share({0, 1})
    assert rig.told == {1: (rig.queues[1], True)}


def test_of_those_that_share_a_queue_the_first_reads_it(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.ports.share({0, 1, 2, 3})

    assert {n: reads for n, (_, reads) in rig.told.items()} == {0: True, 1: True, 2: False, 3: False}
    for n in (2, 3):
        assert rig.told[n][0] not in rig.queues
        assert os.path.sameopenfile(rig.told[n][0], rig.queues[n % 2])
    assert [record.message for record in caplog.records] == [
        "the front-end brings more queue pairs than the port's 2: pair 2 shares queue 0; raise --queues"
    ]


def test_next_one_reads_on_when_the_first_is_used_no_more(rig: Rig) -> None:
    rig.ports.share({0, 2})
    told = dict(rig.told)
    rig.told.clear()

    rig.ports.share({2})

    assert rig.told == {0: (rig.queues[0], False), 2: (told[2][0], True)}


def test_nothing_is_told_twice(rig: Rig) -> None:
    rig.ports.share({0, 1})
    rig.told.clear()

    rig.ports.share({0, 1})

    assert rig.told == {}
