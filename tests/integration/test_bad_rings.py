"""Ring set-up that must be refused or borne: indices, sizes, bases, addresses, and what is left out."""

from __future__ import annotations

import os
import select
import struct

import pytest

from tests.integration.loglines import assert_one_line, complaints
from tests.plain_frontend import HEADER, NEED_REPLY, VERSION, PlainFrontend, address, state, u64
from tests.site import RING_SIZE, Site, Stepper, echo, frame, wait
from vhostuser.frontend import calls
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.server import backend
from vhostuser.wire.features import VirtioFeature
from vhostuser.wire.messages import U64

RUNNERS = ("loop", "event", "adaptive")

SET_FEATURES, NUM, ADDR, BASE, GET_BASE, KICK, ENABLE = 2, 8, 9, 10, 11, 12, 18
NAMES = {NUM: "SET_VRING_NUM", ADDR: "SET_VRING_ADDR", BASE: "SET_VRING_BASE", ENABLE: "SET_VRING_ENABLE"}
RX, TX = 0, 1
BEYOND = (256, 65536, 0x80000000, 0xFFFFFFFF)

REFUSED: dict[str, tuple[int, bytes, tuple[str, ...]]] = {
    **{f"num of ring {index}": (NUM, state(index, 256), (str(index), "256 rings")) for index in BEYOND},
    **{f"base of ring {index}": (BASE, state(index, 0), (str(index), "256 rings")) for index in BEYOND},
    **{f"enable ring {index}": (ENABLE, state(index, 1), (str(index), "256 rings")) for index in BEYOND},
    **{
        f"address of ring {index}": (ADDR, address(index, 0x1000, 0x3000, 0x2000), (str(index), "256 rings"))
        for index in BEYOND
    },
    **{
        f"size {size}": (NUM, state(4, size), ("ring 4", str(size)))
        for size in (0, 3, 255, 32769, 65536, 0xFFFFFFFF)
    },
    **{
        f"base {base:#x}": (BASE, state(4, base), ("ring 4", hex(base), "16 bits"))
        for base in (65536, 0x80008000, 0xFFFFFFFF)
    },
    "desc unaligned": (ADDR, address(4, 0x1008, 0x3000, 0x2000), ("ring 4", "desc", "0x1008")),
    "used unaligned": (ADDR, address(4, 0x1000, 0x3002, 0x2000), ("ring 4", "used", "0x3002")),
    "avail unaligned": (ADDR, address(4, 0x1000, 0x3000, 0x2001), ("ring 4", "avail", "0x2001")),
    "desc is used": (ADDR, address(4, 0x1000, 0x1000, 0x2000), ("ring 4", "0x1000", "two are one")),
    "desc is avail": (ADDR, address(4, 0x1000, 0x3000, 0x1000), ("ring 4", "0x1000", "two are one")),
    "used is avail": (ADDR, address(4, 0x1000, 0x3000, 0x3000), ("ring 4", "0x3000", "two are one")),
    "unknown flags": (ADDR, address(4, 0x1000, 0x3000, 0x2000, flags=2), ("ring 4", "0x2")),
    "enable 2": (ENABLE, state(1, 2), ("ring 1", "2 is neither")),
    "enable 4294967295": (ENABLE, state(1, 0xFFFFFFFF), ("ring 1", "4294967295 is neither")),
    "num of a running ring": (NUM, state(1, 64), ("ring 1", "started")),
    "base of a running ring": (BASE, state(1, 3), ("ring 1", "started")),
    "address of a running ring": (ADDR, address(1, 0x1000, 0x3000, 0x2000), ("ring 1", "moves", "0x1000")),
}
"""What is sent to a device whose rings 0 and 1 run, and what the log has to say."""


def answer(driver: VirtioNetDriver, request: int, body: bytes) -> int:
    """The u64 that an acknowledged request is answered with."""
    driver.frontend.send_raw(HEADER.pack(request, VERSION | NEED_REPLY, len(body)) + body)
    payload = driver.frontend.receive_reply().payload
    assert isinstance(payload, U64)
    return payload.value


@pytest.mark.parametrize(("request_number", "body", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_and_the_rings_run_on(
    site: Site, caplog: pytest.LogCaptureFixture, request_number: int, body: bytes, words: tuple[str, ...]
) -> None:
    # CVE-2020-10723: an index cut to 8 or 16 bits passed the check.
    with site.running() as driver:
        echo(driver)
        assert answer(driver, request_number, body) != 0

    assert_one_line(caplog, NAMES[request_number], *words)


@pytest.mark.parametrize("index", BEYOND)
def test_get_vring_base_of_no_ring_ends_the_connection(
    site: Site, caplog: pytest.LogCaptureFixture, index: int
) -> None:
    with site.driver() as driver:
        echo(driver)
        driver.frontend.send_raw(HEADER.pack(GET_BASE, VERSION, 8) + state(index, 0))
        driver.frontend.wait_closed()

    assert_one_line(caplog, "GET_VRING_BASE", str(index), "256 rings")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda features: features | 1 << 34, ("RING_PACKED",)),
        (lambda features: features | 1 << 63, ("0x8000",)),
        (lambda features: features | 1 << 33, ("ACCESS_PLATFORM",)),
        (lambda features: 0xFFFFFFFFFFFFFFFF, ("not offered",)),
        (lambda features: features & ~(1 << 32 | 1 << 15), ("VERSION_1", "stopped")),
        (lambda features: features & ~(1 << 29), ("EVENT_IDX", "stopped")),
    ],
    ids=["packed", "bit 63", "IOMMU", "all", "header size", "ring layout"],
)
def test_features_that_may_not_be_are_refused_and_the_rings_run_on(
    site: Site, caplog: pytest.LogCaptureFixture, change: object, words: tuple[str, ...]
) -> None:
    assert callable(change)
    with site.running() as driver:
        echo(driver)
        assert answer(driver, SET_FEATURES, u64(change(int(driver.features)))) != 0

    assert_one_line(caplog, "SET_FEATURES", *words)


def test_offloads_may_change_while_rings_run(site: Site) -> None:
    with site.running() as driver:
        echo(driver)
        assert answer(driver, SET_FEATURES, u64(int(driver.features | VirtioFeature.CSUM))) == 0


# Addresses that are no memory


def places(driver: Stepper) -> dict[str, tuple[int, int, int]]:
    """Addresses at which ring 1 cannot be: desc, used, avail."""
    place = driver.nic.rings[TX].place
    assert place is not None
    region = driver.memory.regions[0]
    start, end = region.uva or 0, (region.uva or 0) + region.size
    return {
        "nowhere": (0x10, 0x1000, 0x2000),
        "desc before memory": (start - 4096, place.used, place.avail),
        "desc half mapped": (end - 16 * (RING_SIZE // 2), place.used, place.avail),
        "used half mapped": (place.desc, end - 8, place.avail),
        "avail half mapped": (place.desc, place.used, end - 8),
        "avail without its event": (place.desc, place.used, end - (4 + 2 * RING_SIZE)),
        "used without its event": (place.desc, end - (4 + 8 * RING_SIZE), place.avail),
        "end of the address space": ((1 << 64) - 16, place.used, place.avail),
        "used wraps": (place.desc, (1 << 64) - 4, place.avail),
    }


@pytest.mark.parametrize(
    "where",
    [
        "nowhere",
        "desc before memory",
        "desc half mapped",
        "used half mapped",
        "avail half mapped",
        "avail without its event",
        "used without its event",
        "end of the address space",
        "used wraps",
    ],
)
def test_ring_that_does_not_lie_in_memory_does_not_start_and_says_where(
    site: Site, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    with site.stepping() as driver:
        driver.say_all("addr", "kick")
        driver.say("addr", RX)
        desc, used, avail = places(driver)[where]
        driver.do(calls.set_vring_addr(TX, desc, used, avail))
        driver.say("kick")
        wait(lambda: bool(complaints(caplog)))
        driver.send(frame(1))
        site.assert_neighbour_unharmed()
        assert driver.transmit_queue().read_used_index() == 0

        # Given a place it runs.
        driver.do(calls.get_vring_base(TX))
        for item in ("num", "base", "addr", "call", "kick"):
            driver.say(item, TX)
        assert driver.recv().frame == frame(1)

    assert_one_line(caplog, "ring 1 does not start", "not wholly in one memory region")


def test_ring_larger_than_its_region_does_not_start(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with site.stepping() as driver:
        driver.say_all("num", "addr", "kick")
        region = driver.memory.regions[0]
        end = (region.uva or 0) + region.size
        driver.do(calls.set_vring_num(TX, 32768))
        driver.do(calls.set_vring_addr(TX, end - 16 * 32768 + 4096, end - 0x200000, end - 0x100000))
        driver.say("kick", TX)
        wait(lambda: bool(complaints(caplog)))

    assert_one_line(caplog, "ring 1 does not start", str(16 * 32768))


# What is left out


@pytest.mark.parametrize(
    ("item", "word"),
    [
        ("features", "SET_FEATURES"),
        ("memory", "SET_MEM_TABLE or ADD_MEM_REG"),
        ("num", "SET_VRING_NUM"),
        ("addr", "SET_VRING_ADDR"),
        ("kick", "SET_VRING_KICK"),
    ],
)
def test_ring_that_lacks_an_item_waits_and_says_for_what(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    item: str,
    word: str,
) -> None:
    monkeypatch.setattr(backend, "LOOK_BACK_SECONDS", (0.01,))
    with site.stepping() as driver:
        driver.say_all(item)
        driver.send(frame(1))
        wait(lambda: len(complaints(caplog)) >= 2)
        assert driver.transmit_queue().read_used_index() == 0
        driver.say(item)
        assert driver.recv().frame == frame(1)
    lines = complaints(caplog)

    assert [line for line in lines if line == f"ring 1 does nothing: {word} has not come yet"]
    assert all("does nothing" in line for line in lines)


# What is borne


def test_kick_may_come_twice(site: Site) -> None:
    with site.running() as driver:
        for _ in range(3):
            driver.frontend.set_vring_kick(TX, driver.nic.rings[TX].kick_fd)
            echo(driver)


def test_enable_of_a_ring_that_is_not_set_up_is_stored(site: Site) -> None:
    with site.running() as driver:
        assert answer(driver, ENABLE, state(9, 1)) == 0


def test_enable_and_disable_again_and_again(site: Site) -> None:
    with site.running() as driver:
        for _ in range(50):
            driver.enable(0, False)
            driver.enable(0, True)


@pytest.mark.parametrize("index", [0, 1, 7, 255])
def test_get_vring_base_before_anything_and_twice(site: Site, index: int) -> None:
    with PlainFrontend(site.path) as plain:
        for _ in range(2):
            assert plain.ask(GET_BASE, state(index, 0), flags=VERSION) == state(index, 0)


def test_get_vring_base_twice_in_traffic(site: Site) -> None:
    with site.driver() as driver:
        echo(driver)
        assert driver.frontend.get_vring_base(TX) == driver.frontend.get_vring_base(TX) == 1


def test_get_vring_base_in_traffic_answers_the_used_index(site: Site) -> None:
    with site.driver() as driver:
        for number in range(RING_SIZE):
            driver.send(frame(number))
        base = driver.frontend.get_vring_base(TX)

        assert base == driver.transmit_queue().read_used_index()


def test_all_256_rings_may_be_half_set_up(site: Site) -> None:
    with PlainFrontend(site.path) as plain:
        plain.negotiate(features=1 << 32)
        for index in range(256):
            fd = os.eventfd(0)
            assert plain.number(NUM, state(index, 256)) == 0
            assert plain.number(KICK, struct.pack("=Q", index), [fd]) == 0
            os.close(fd)


def test_broken_ring_tells_its_err_fd_once_and_the_other_ring_goes_on(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.stepping() as driver:
        driver.say("err")
        driver.say_all()
        echo(driver)
        driver.transmit_queue().write_avail_index(1000)
        driver.kick(TX)
        err = driver.nic.rings[TX].err_fd
        assert err is not None
        assert select.select([err], [], [], 20)[0]
        for _ in range(5):
            driver.kick(TX)
            site.assert_neighbour_unharmed()
        assert os.eventfd_read(err) == 1
        assert driver.do(calls.get_vring_base(RX)) == 1

    assert_one_line(caplog, "ring 1 is broken", "avail->idx 1000")
