"""The demo: what it measures, and what it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.backend_double import BackendDouble
from vhostuser.errors import EnvironmentLacksError, PeerError
from vhostuser.frontend import demo, stage
from vhostuser.frontend.demo import Row, duration, per_second, table
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.flood import Flood, Load
from vhostuser.frontend.frames import Endpoint, checksum
from vhostuser.frontend.world import GUEST, HOST_IP

HOST = Endpoint(b"\x02\0\0\0\0\x09", HOST_IP)


def test_demo_with_a_tap_meets_the_kernels_stack() -> None:
    said: list[str] = []
    assert demo.run(said.append, seconds=0.1, port="tap") == 0
    text = "\n".join(said)
    for what in (
        "ARP, who has",
        "ping, one at a time",
        "ping flood",
        "UDP there and back, 1500 B",
        "UDP one way",
    ):
        assert what in text
    assert "qemu-system-x86_64" in said[-1]
    assert re.search(r"ping, one at a time +200 +200 +the driver", text)


def test_demo_with_echo_needs_no_kernel() -> None:
    said: list[str] = []
    assert demo.run(said.append, seconds=0.1, port="echo") == 0
    assert "echo runs" in said[0]
    assert any("frames there and back, 1500 B" in line for line in said)


def test_fallback_is_said_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise EnvironmentLacksError("no namespaces on Sundays")

    monkeypatch.setattr(stage, "World", refuse)
    said: list[str] = []
    demo.run(said.append, seconds=0.1)
    assert said[0] == "No tap here: no namespaces on Sundays."


def test_server_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, seconds: float) -> Iterator[Row]:
        yield Row("first", 1, 1, "the driver", "")
        raise PeerError("it went away")

    monkeypatch.setattr(demo, "play_echo", fail)
    with pytest.raises(PeerError, match=r"it went away; last line of the server's log: .*listening"):
        demo.run(print, seconds=0.1, port="echo")


@pytest.mark.parametrize("row", [Row("x", 9, 0, "", ""), Row("x", 9, 9, "", "", wrong=1)])
def test_measurement_that_failed_is_the_status(monkeypatch: pytest.MonkeyPatch, row: Row) -> None:
    monkeypatch.setattr(demo, "play_echo", lambda path, seconds: iter([row]))
    assert demo.run(print, port="echo") == PeerError.exit_status


def as_host(content: bytes) -> bytes:
    """What a stack at `HOST` answers."""
    turned = GUEST.mac + HOST.mac + content[12:14]
    if content[12:14] == b"\x08\x06":
        return turned + content[14:20] + b"\0\2" + HOST.mac + HOST_IP.packed + GUEST.mac + GUEST.ip.packed
    message = b"\0\0\0\0" + content[38:]
    return (
        turned
        + content[14:26]
        + content[30:34]
        + content[26:30]
        + b"\0\0"
        + checksum(message).to_bytes(2, "big")
        + content[38:]
    )


def test_resolve_asks_again_until_it_is_answered(backend: BackendDouble) -> None:
    backend.swallow = 1
    backend.change = as_host
    with VirtioNetDriver.connect(backend.path) as nic:
        host, row = demo.resolve(nic)
    assert host == HOST
    assert (row.sent, row.arrived) == (2, 1)


def test_resolve_gives_up_on_nobody(backend: BackendDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_TRIES", 1)
    with VirtioNetDriver.connect(backend.path) as nic, pytest.raises(PeerError, match="nobody answers"):
        demo.resolve(nic)


def test_first_answer_is_awaited_and_given_up_on(backend: BackendDouble) -> None:
    load = Load(packets=1, stamp=True, sleep=True, lost_after=0.02)
    with Flood.connect(backend.path) as flood:
        backend.swallow = 2
        demo.await_answer(flood, load)
        backend.swallow = 3
        with pytest.raises(PeerError, match="no frame comes back"):
            demo.await_answer(flood, load)


def test_ping_counts_lost_and_wrong_answers(backend: BackendDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.swallow = 1
    backend.change = as_host
    monkeypatch.setattr(demo, "_PINGS", 5)
    with VirtioNetDriver.connect(backend.path) as nic:
        row = demo.ping(nic, HOST)
    assert (row.sent, row.arrived, row.wrong) == (5, 4, 0)


@pytest.mark.parametrize(
    ("rate", "size", "text"),
    [
        (0, 0, "0 /s"),
        (999, 64, "999 /s"),
        (12_345, 64, "12.3 k/s"),
        (2_345_678, 64, "2.35 M/s"),
        (100_000, 1500, "100.0 k/s, 1.20 Gbit/s"),
    ],
)
def test_rates_are_written_for_people(rate: float, size: int, text: str) -> None:
    assert per_second(rate, size) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"), [(5, "5 ns"), (1500, "1.5 us"), (2_345_678, "2.35 ms"), (3e9, "3 s")]
)
def test_durations_are_written_for_people(nanoseconds: float, text: str) -> None:
    assert duration(nanoseconds) == text


def test_table_lines_its_columns_up() -> None:
    head, rule, first, second = table(
        [Row("short", 1, 1, "the driver", "1 /s"), Row("a longer one", 1000, 999, "the tap", "", "3 us")]
    ).splitlines()
    assert head.index("sent") + 4 == first.index(" 1 ") + 2 == second.index("1000") + 4
    assert set(rule) == {"-"}
    assert second.split("  ")[-1].strip() == "0"
