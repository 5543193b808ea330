from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.conftest import live_regions
from tests.server.conftest import blocking, serving, until
from vhostuser.config import DeviceConfig
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.frontend import Frontend

FRAME = b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x88\xb5" + bytes(range(46))


def echo(path: Path) -> bytes:
    with VirtioNetDriver.connect(path) as driver:
        driver.send(FRAME)
        return driver.recv().frame


async def test_second_front_end_is_refused_without_harm(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "a.sock"

    def two() -> bytes:
        with VirtioNetDriver.connect(path) as first:
            with Frontend.connect(path) as second:
                second.wait_closed()
            first.send(FRAME)
            return first.recv().frame

    async with serving(DeviceConfig(name="a", socket_path=str(path), port="echo")):
        assert await blocking(two) == FRAME

    assert "refused a second front-end" in caplog.text


async def test_front_end_that_comes_again_finds_a_fresh_device(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = folder / "a.sock"
    async with serving(DeviceConfig(name="a", socket_path=str(path), port="echo")) as server:
        for _ in range(3):
            assert await blocking(lambda: echo(path)) == FRAME
        await until(lambda: live_regions() == 0)
        assert server.counters()["a"][1].packets == 3

    assert "3 frames (180 bytes) from the guest; 3 frames (180 bytes) to the guest" in caplog.text


async def test_one_off_device_ends_with_its_front_end(folder: Path) -> None:
    path = folder / "a.sock"
    async with serving(DeviceConfig(name="a", socket_path=str(path), port="echo", one_off=True)) as server:
        await blocking(lambda: echo(path))
        await server.wait_finished()
        assert not path.exists()


async def test_truncated_memory_costs_its_device_only(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [folder / "a.sock", folder / "b.sock"]

    def play() -> bytes:
        with VirtioNetDriver.connect(paths[0]) as victim, VirtioNetDriver.connect(paths[1]) as other:
            victim.send(FRAME)
            assert victim.recv().frame == FRAME
            victim.memory.truncate("ram", 0)
            victim.kick(1)
            victim.frontend.wait_closed()
            other.send(FRAME)
            return other.recv().frame

    configs = [DeviceConfig(name=path.stem, socket_path=str(path), port="echo") for path in paths]
    async with serving(*configs):
        assert await blocking(play) == FRAME
        await until(lambda: live_regions() == 0)

    assert "truncated its file under us" in caplog.text


async def test_front_end_that_comes_right_after_the_last_is_never_refused(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "a.sock"

    def hurry() -> None:
        for _ in range(300):
            with Frontend.connect(path) as frontend:
                frontend.get_features()

    async with serving(DeviceConfig(name="a", socket_path=str(path), port="echo")):
        await blocking(hurry)

    assert "refused" not in caplog.text
