from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server.conftest import blocking, serving, until
from vhostuser.config import DeviceConfig
from vhostuser.datapath.worker import EventKind, WorkerEvent
from vhostuser.errors import EnvironmentLacksError, PeerError
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.net.device import NetDevice
from vhostuser.server.server import Server

PROGRAM = str(Path(sys.executable).with_name("vhostuser"))
FRAME = b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x88\xb5" + bytes(46)


def device(path: Path, port: str = "echo", **words: object) -> DeviceConfig:
    return DeviceConfig(name=path.stem, socket_path=str(path), port=port, **words)  # type: ignore[arg-type]


async def test_devices_of_one_server_do_not_see_each_other(folder: Path) -> None:
    paths = [folder / f"{name}.sock" for name in "abc"]

    def play() -> list[bytes]:
        drivers = [VirtioNetDriver.connect(path) for path in paths]
        frames = [FRAME + bytes([number]) * 10 for number in range(3)]
        for driver, frame in zip(drivers, frames, strict=True):
            driver.start()
            driver.send(frame)
        got = [driver.recv().frame for driver in drivers]
        for driver in drivers:
            driver.close()
        assert got == frames
        return got

    async with serving(*(device(path) for path in paths)) as server:
        await blocking(play)

        def packets() -> dict[str, int]:
            return {name: rings[0].packets for name, rings in server.counters().items()}

        await until(lambda: packets() == dict.fromkeys("abc", 1))


async def test_start_that_fails_leaves_nothing_behind(folder: Path) -> None:
    first = folder / "a.sock"
    with pytest.raises(EnvironmentLacksError, match="does not exist"):
        await Server([device(first), device(folder / "none" / "b.sock")]).start()

    assert not first.exists()


async def test_no_device_says_that_it_listens_before_all_can(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vhostuser")
    async with serving(device(folder / "a.sock")):
        assert [record for record in caplog.records if "listening" in record.message]
    caplog.clear()

    with pytest.raises(EnvironmentLacksError):
        await Server([device(folder / "b.sock"), device(folder / "none" / "c.sock")]).start()

    assert not [record for record in caplog.records if "listening" in record.message]


async def test_close_disconnects_and_may_come_twice(folder: Path) -> None:
    path = folder / "a.sock"
    server = Server([device(path)])
    await server.start()
    driver = await blocking(lambda: VirtioNetDriver.connect(path).__enter__())

    await server.close()
    await server.close()

    await blocking(driver.frontend.wait_closed)
    driver.close()
    assert not path.exists()


async def test_one_off_front_end_that_breaks_the_protocol_is_a_peer_that_failed(folder: Path) -> None:
    path = folder / "a.sock"
    async with serving(device(path, one_off=True)) as server:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            peer.send(b"\xff" * 12)
            with pytest.raises(PeerError, match="version 3"):
                await server.wait_finished()


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([PROGRAM, "serve", *words], stderr=subprocess.PIPE, text=True, cwd=folder)


def connect(path: Path) -> VirtioNetDriver:
    end = time.monotonic() + 20
    while True:
        try:
            return VirtioNetDriver.connect(path)
        except Exception:
            if time.monotonic() > end:
                raise


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_sigterm_ends_the_process_within_a_second_with_a_guest_connected(
    folder: Path, loop: str, scaled: Callable[[float], float]
) -> None:
    path = folder / "a.sock"
    process = start(folder, "-s", str(path), "--port", "echo", "--loop", loop)
    with connect(path) as driver:
        driver.send(FRAME)
        assert driver.recv().frame == FRAME
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)

    assert time.monotonic() - began < scaled(1)
    assert process.returncode == 0
    assert "the server ends" in log
    assert not path.exists()


def test_idle_with_a_guest_connected_wakes_up_never(folder: Path, scaled: Callable[[float], float]) -> None:
    path = folder / "a.sock"
    process = start(folder, "-s", str(path), "--port", "echo")

    def switches() -> int:
        total = 0
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            text = (task / "status").read_text()
            total += int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0])
        return total

    with connect(path) as driver:
        driver.send(FRAME)
        assert driver.recv().frame == FRAME
        # The last look at the rings is 11 s after the last message: two quiet stretches frame it.
        time.sleep(1.3)
        before = switches()
        time.sleep(2)
        woken = switches() - before
    process.terminate()
    process.communicate(timeout=20)

    assert woken == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-s", "none/a.sock", "--port", "echo"], "directory none"),
        (["-s", "x" * 108, "--port", "echo"], "108 bytes"),
        (["--fd", "99", "--port", "echo"], "--fd 99"),
        (["-s", "a.sock", "--port", "tap:fd=99"], "99"),
    ],
)
def test_what_the_environment_lacks_is_one_sentence_and_status_3(
    folder: Path, words: list[str], text: str
) -> None:
    process = start(folder, *words)
    _, log = process.communicate(timeout=20)

    assert process.returncode == 3
    assert text in log
    assert len(log.strip().splitlines()) == 1


async def test_server_works_on_the_loop_of_the_test(folder: Path) -> None:
    async with serving(device(folder / "a.sock")) as server:
        assert asyncio.get_running_loop().is_running()
        assert server.counters() == {"a": {}}


async def test_regression_events_that_were_lost_hide_no_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of rings that start in one turn fill the queue of events; a fault behind them is not in it."""
    path = folder / "a.sock"
    told = asyncio.Event()

    def play() -> bytes:
        with socket.socket(socket.AF_UNIX) as front_end:
            front_end.connect(str(path))
            front_end.settimeout(5)
            server_loop.call_soon_threadsafe(told.set)
            return front_end.recv(1)

    async with serving(device(path)) as server:
        server_loop = asyncio.get_running_loop()
        ended = asyncio.create_task(blocking(play))
        await told.wait()
        await until(lambda: server._served[0]._backend is not None)
        monkeypatch.setattr(NetDevice, "is_faulted", True)
        server._on_event(WorkerEvent(EventKind.OVERFLOW, 0, 0, 0, (0, 0, 0, 0)))
        assert await ended == b""
