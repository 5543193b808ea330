"""Worker threads: everything that changes under traffic, with the rings on threads of their own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.site import RING_SIZE, InProcessSite, Site, echo, frame, serving, traffic, wait
from vhostuser.config import DeviceConfig
from vhostuser.frontend import calls
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.flood import Flood, Load
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.server import balance
from vhostuser.wire.features import VirtioFeature

PROGRAM = str(Path(sys.executable).with_name("vhostuser"))
RUNNERS = ("event", "adaptive", "busy")


def test_memory_table_is_swapped_in_traffic(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all()
        with traffic(driver), traffic(site.neighbour):
            for _ in range(50):
                driver.say("memory")


def test_kick_and_call_fds_are_swapped_in_traffic(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all()
        with traffic(driver), traffic(site.neighbour):
            for _ in range(50):
                driver.say("kick")
                driver.say("call")


def test_rings_are_stopped_and_started_in_traffic_of_the_neighbour(site: Site) -> None:
    with traffic(site.neighbour), site.stepping() as driver:
        driver.say_all()
        for number in range(30):
            echo(driver, frame(number))
            for ring in driver.nic.rings:
                base = driver.do(calls.get_vring_base(ring.index))
                driver.do(calls.set_vring_base(ring.index, base))
            driver.say("kick")
            driver.say("call")


def test_front_ends_come_and_go_in_traffic_of_the_neighbour(site: Site) -> None:
    with traffic(site.neighbour):
        for number in range(20):
            with site.driver() as driver:
                echo(driver, frame(number))


def test_front_end_that_goes_in_its_own_traffic(site: Site) -> None:
    for _ in range(10):
        with traffic(site.neighbour), site.driver() as driver:
            for number in range(RING_SIZE // 2):
                driver.send(frame(number))


def test_four_pairs_on_two_workers(site: InProcessSite) -> None:
    with site.driver(pairs=4) as driver, traffic(site.neighbour):
        for number in range(100):
            for pair in range(4):
                driver.send(frame(4 * number + pair), queue=pair)
            got = {driver.recv().frame for _ in range(4)}
            assert got == {frame(4 * number + pair) for pair in range(4)}

    def packets() -> dict[int, int]:
        return {ring: c.packets for ring, c in site.server.counters()["a"].items()}

    wait(lambda: packets() == dict.fromkeys(range(8), 100))


def test_ring_starts_are_logged_from_both_workers(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "vhostuser")
    with site.driver(pairs=2) as driver:
        echo(driver)

        def started() -> set[int]:
            lines = [r.getMessage() for r in caplog.records if " runs from " in r.getMessage()]
            return {int(line.split()[1]) for line in lines}

        wait(lambda: started() == {0, 1, 2, 3})


def test_more_workers_than_devices_and_the_other_way_round(tmp_path: Path) -> None:
    for workers, devices in ((5, 1), (2, 5)):
        configs = [
            DeviceConfig(name=f"d{n}", socket_path=f"{tmp_path}/{workers}{n}.sock", port="echo")
            for n in range(devices)
        ]
        with serving(configs, workers):
            drivers = [
                VirtioNetDriver.connect(Path(str(config.socket_path)), queue_size=RING_SIZE)
                for config in configs
            ]
            for driver in drivers:
                driver.start()
            for number in range(5):
                for driver in drivers:
                    echo(driver, frame(number))
            for driver in drivers:
                driver.close()


def test_pair_moves_off_a_worker_that_has_two_busy_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs 0 and 2 begin on worker 0, pair 1 on the other. One driver keeps both rings full: of frames so
    long that a pair's budget is a few of them.
    """
    # So that what else the machine does matters less; what is decided is tested where it is.
    monkeypatch.setattr(balance, "_FULL", 0.3)
    monkeypatch.setattr(balance, "REST_SECONDS", 0.1)
    caplog.set_level("INFO", "vhostuser")
    path = tmp_path / "a.sock"
    features = DEFAULT_FEATURES | VirtioFeature.CSUM | VirtioFeature.HOST_TSO4
    load = Load(seconds=0.1, frame_size=60_000, settle=False)

    def moves() -> list[str]:
        lines = (record.getMessage() for record in caplog.records)
        return [line for line in lines if " moves from worker " in line]

    with (
        serving([DeviceConfig(name="a", socket_path=str(path), port="sink", queues=3)], 2) as (server, _),
        Flood.connect(path, queue_size=512, queue_pairs=3, features=features) as driver,
    ):

        def moved() -> bool:
            driver.run(load, transmit=[0, 2], receive=())
            return bool(moves())

        wait(moved)
        before = server.worker_counters()[1].turns
        report = driver.run(Load(packets=10_000, frame_size=60_000), transmit=[0, 2], receive=())
        assert server.worker_counters()[1].turns > before
        assert report.returned >= report.sent == 10_000

    assert re.match(r"pair [02] moves from worker 0, .* to worker 1, ", moves()[0].removeprefix("a: "))


def test_sigterm_ends_the_process_within_a_second_in_traffic(
    tmp_path: Path, scaled: Callable[[float], float]
) -> None:
    path = tmp_path / "a.sock"
    command = [PROGRAM, "serve", "-s", str(path), "--port", "source", "--workers", "2", "--cpus", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "listening" in process.stderr.readline()
            with VirtioNetDriver.connect(path) as driver:
                for _ in range(100):
                    driver.recv()
                threads = Path(f"/proc/{process.pid}/task").iterdir()
                names = sorted((task / "comm").read_text().strip() for task in threads)
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                _, log = process.communicate(timeout=20)
                seconds = time.monotonic() - began
        finally:
            process.kill()

    assert [name for name in names if name.startswith("vu-worker")] == ["vu-worker-0", "vu-worker-1"]
    assert seconds < scaled(1)
    assert process.returncode == 0, log
    assert "the server ends" in log


def test_cpu_that_is_not_there_is_status_3(tmp_path: Path) -> None:
    command = [PROGRAM, "serve", "-s", "a.sock", "--port", "echo", "--workers", "1", "--cpus", "1023"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, timeout=60)

    assert done.returncode == 3
    assert "there is no CPU 1023" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "a.sock").exists()
