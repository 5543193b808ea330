"""Cases on our own server, and on back-ends that do not do the work."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.frontend.bench.results import case
from tests.site import serving
from vhostuser.config import DeviceConfig
from vhostuser.errors import PeerError
from vhostuser.frontend.bench.measure import measure, measure_ours, wanted
from vhostuser.frontend.bench.model import Work
from vhostuser.frontend.server_process import ServerProcess
from vhostuser.wire.features import VirtioFeature as V

SECONDS = 0.05


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("work", list(Work))
def test_each_work_is_measured_on_our_server(work: Work, packed: bool) -> None:
    sample, backend = measure_ours(case(work=work, packed=packed, poll="event"), SECONDS, 1.0, 1, None)
    assert backend == "vhostuser"
    assert sample.rate > 0
    assert sample.seconds > 0
    assert sample.cpu is not None
    assert sample.cpu > 0
    if work is Work.LATENCY:
        assert sum(count for _, count in sample.times) == sample.received
    else:
        assert sample.times == ()


def test_pairs_and_big_frames_are_measured() -> None:
    sample, _ = measure_ours(case(queues=2, size=9000, poll="loop"), SECONDS, 0.0, 1, None)
    assert sample.received


def on(folder: Path, port: str) -> DeviceConfig:
    return DeviceConfig(name="other", socket_path=str(folder / "s.sock"), port=port)


def test_back_end_that_does_something_else_is_told(tmp_path: Path) -> None:
    config = on(tmp_path, "sink")
    with serving([config]), pytest.raises(PeerError, match="doing the work of 'echo'"):
        measure(case(poll=None), [str(config.socket_path)], SECONDS)


def test_feature_that_is_not_offered_is_an_error(tmp_path: Path) -> None:
    config = on(tmp_path, "echo")
    with serving([config]), pytest.raises(PeerError, match="does not offer HASH_TUNNEL"):
        measure(case(poll=None, features=("hash-tunnel",)), [str(config.socket_path)], SECONDS)


def test_nobody_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="cannot connect"):
        measure(case(poll=None), [str(tmp_path / "none.sock")], SECONDS)


@pytest.mark.parametrize("work", [Work.SINK, Work.ECHO, Work.LATENCY])
def test_back_end_that_ends_in_a_measurement_is_an_error(tmp_path: Path, work: Work) -> None:
    """What went through before is not a figure."""
    path = tmp_path / "s.sock"
    port = "sink" if work is Work.SINK else "echo"
    server = ServerProcess(["-s", str(path), "--port", port], tmp_path / "s.log")
    timer = threading.Timer(0.5, server.process.kill)
    try:
        server.await_socket()
        timer.start()
        with pytest.raises(PeerError, match="gone"):
            measure(case(work=work, poll=None), [str(path)], 1.5)
        timer.join()
    finally:
        server.stop()


def test_driver_wants_what_the_case_says() -> None:
    chosen = wanted(case(packed=True, features=("in-order",), disabled=("event-idx", "mrg_rxbuf")))
    assert V.RING_PACKED | V.IN_ORDER in chosen
    assert not chosen & (V.EVENT_IDX | V.MRG_RXBUF)
