"""Killed in traffic and started anew: each front-end's way of saying where the rings were, and none at all.

The driver in C keeps the book: a chain that is given back twice, or was never lent, is an error of its own; a
chain that is lost is still in flight in the end.
"""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.server_process import Server
from vhostuser.frontend.flood import Flood, Load
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.frontend.orders import PROTOCOL_FEATURES, Order
from vhostuser.frontend.ring_position import FIRST_BASE
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V

RING_SIZE = 64
WINDOW = 32
RX, TX = 0, 1
KILLS = 2


class LosesPositions(Flood):
    """Gives the base of a new ring after a loss, as QEMU does of packed rings that were never stopped."""

    wrong = 0
    """How many of the bases given last were."""

    def _device_base(self, index: int) -> int:
        if index == 0:
            self.wrong = 0
        self.wrong += super()._device_base(index) != FIRST_BASE
        return FIRST_BASE


@dataclass(frozen=True)
class Way:
    """How a front-end keeps its rings' positions over the death of its back-end."""

    order: Order
    packed: bool = False
    inflight: bool = True
    driver: type[Flood] = Flood
    corrected: tuple[int, ...] = ()
    """How many of the two start positions may have been wrong."""

    @property
    def features(self) -> V:
        return DEFAULT_FEATURES | (V.RING_PACKED if self.packed else V(0))


CH = Order.CLOUD_HYPERVISOR
WAYS = {
    "qemu-split": Way(Order.QEMU, corrected=(0,)),
    "qemu-packed": Way(Order.QEMU, packed=True, corrected=(0,)),
    "virtio-user-split": Way(Order.VIRTIO_USER, corrected=(2,)),
    "virtio-user-packed": Way(Order.VIRTIO_USER, packed=True, corrected=(0,)),
    # avail->idx: the receive ring's is always ahead, the transmit ring's if frames wait in it.
    "cloud-hypervisor-split": Way(CH, inflight=False, corrected=(1, 2)),
    "cloud-hypervisor-split-inflight": Way(CH, corrected=(1, 2)),
    "cloud-hypervisor-packed-inflight": Way(CH, packed=True, corrected=(0,)),
    "base-lost-packed-inflight": Way(CH, packed=True, driver=LosesPositions),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vhu-") as name:
        yield Path(name)


def start_server(folder: Path, life: int, stack: ExitStack) -> Server:
    path = folder / "a.sock"
    process = stack.enter_context(Server(folder, "-s", str(path), "--port", "echo", name=f"life-{life}"))
    process.wait_listening(path)
    return process


def run_until_killed(flood: Flood, process: Server, seconds: float) -> int:
    """Traffic, and the end of it; how many frames are owed: sent, and not come back."""
    assert flood.run(Load(packets=100, window=WINDOW)).received == 100
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    report = flood.run(
        Load(packets=1 << 40, window=WINDOW, burst=8, stamp=True, lost_after=0.1, settle=False)
    )
    timer.join()
    assert report.corrupt == report.late == report.skipped == 0
    return report.sent - report.received


def corrected_positions(process: Server) -> int:
    """What its last words about the connection count."""
    said = process.wait_log(r"so far: .*?(?:; start positions corrected: (\d+))?$")
    return int(said[1] or 0)


@pytest.mark.parametrize("name", WAYS)
def test_killed_in_traffic_and_no_chain_is_lost_or_given_back_twice(folder: Path, name: str) -> None:
    way = WAYS[name]
    rng = random.Random(name)
    path = folder / "a.sock"
    with ExitStack() as stack:
        process = start_server(folder, 0, stack)
        flood = way.driver.connect(
            path,
            order=way.order,
            features=way.features,
            queue_size=RING_SIZE,
            protocol_features=PROTOCOL_FEATURES[way.order] & ~(P(0) if way.inflight else P.INFLIGHT_SHMFD),
        )
        stack.enter_context(flood)
        assert flood.packed == way.packed
        assert (P.INFLIGHT_SHMFD in flood.protocol_features) == (way.order is CH and way.inflight)
        for life in range(1, KILLS + 1):
            owed = run_until_killed(flood, process, rng.uniform(0.02, 0.1))
            process = start_server(folder, life, stack)
            flood.resume(Frontend.connect(path))
            came = flood.drain(Load(packets=owed, lost_after=0.3)).received
            # The others enable a ring after it has started: until then its frames are to be thrown away.
            assert came >= owed or way.order is not Order.QEMU
            report = flood.run(Load(packets=2000, window=WINDOW, burst=8, stamp=True))
            assert report.received == report.sent == 2000
            assert report.corrupt == report.late == report.skipped == report.lost == 0
            assert flood.counts(TX).in_flight == 0
            assert flood.counts(RX).in_flight == RING_SIZE
        flood.frontend.close()
        wrong = (flood.wrong,) if isinstance(flood, LosesPositions) else way.corrected
        assert corrected_positions(process) in wrong
