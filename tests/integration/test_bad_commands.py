"""Control queues of a hostile guest: what breaks the ring, what is answered ERR, what a flood costs."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.integration.loglines import assert_one_line, complaints
from tests.site import RING_SIZE, Site, echo, make_site, wait
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.orders import Order
from vhostuser.frontend.virtqueue import DescFlag
from vhostuser.frontend.virtqueue_base import Segment, Virtqueue
from vhostuser.wire.features import VirtioFeature as V

COMMANDS = V.CTRL_RX | V.CTRL_RX_EXTRA | V.CTRL_VLAN | V.CTRL_MAC_ADDR | V.CTRL_GUEST_OFFLOADS
FEATURES = V.VERSION_1 | V.MRG_RXBUF | V.EVENT_IDX | V.INDIRECT_DESC | V.PROTOCOL_FEATURES | V.MQ | COMMANDS
CONTROL = 2
FORMATS = [pytest.param(V(0), id="split"), pytest.param(V.RING_PACKED, id="packed")]
LONGEST = 16384


@contextmanager
def attacking(extra: V = V.VERSION_1, workers: int = 0) -> Iterator[tuple[Site, VirtioNetDriver]]:
    """A driver of one pair and a control ring; its frames go on in the end, whatever it did to that."""
    with (
        make_site(config_space=True, workers=workers) as site,
        VirtioNetDriver.connect(
            site.path,
            order=Order.CLOUD_HYPERVISOR,
            queue_size=RING_SIZE,
            control_queue=True,
            features=FEATURES | extra,
        ) as driver,
    ):
        assert driver.control.set_pairs(1)
        yield site, driver
        echo(driver)


def offer(driver: VirtioNetDriver, *rows: tuple[int, int, int, int]) -> None:
    """A split chain of (address, length, flags, next) from descriptor 8 on, whatever it is."""
    queue = driver.queues[CONTROL]
    for index, row in enumerate(rows, 8):
        queue.write_descriptor(index % RING_SIZE, *row)
    queue.offer_raw(8)
    driver.kick(CONTROL)


def is_used_up(queue: Virtqueue[Segment]) -> bool:
    queue.take_used()
    return not queue.outstanding


def memory_of(driver: VirtioNetDriver, content: bytes) -> int:
    at = driver.memory.alloc(len(content))
    driver.memory.write(at, content)
    return at


NEXT, WRITE = int(DescFlag.NEXT), int(DescFlag.WRITE)
Rows = list[tuple[int, int, int, int]]

BROKEN: dict[str, tuple[Callable[[int], Rows], str]] = {
    "no ack byte": (lambda at: [(at, 4, 0, 0)], "4 readable and 0 writable"),
    "ack byte of no length": (lambda at: [(at, 4, NEXT, 9), (at, 0, WRITE, 0)], "4 readable and 0 writable"),
    "no command": (lambda at: [(at, 64, WRITE, 0)], "0 readable and 64 writable"),
    "half a header": (lambda at: [(at, 1, NEXT, 9), (at, 1, WRITE, 0)], "1 readable and 1 writable"),
    "command behind its ack": (lambda at: [(at, 1, NEXT | WRITE, 9), (at, 4, 0, 0)], "readable descriptor"),
    "loop": (lambda at: [(at, 1, NEXT, 9), (at, 1, NEXT, 8)], "it loops"),
    "chain to itself": (lambda at: [(at, 1, NEXT, 8)], "it loops"),
    "chain of N + 1": (
        lambda at: [(at, 1, NEXT, (index + 1) % RING_SIZE) for index in range(8, 8 + RING_SIZE)],
        "more than 16 descriptors",
    ),
    "next outside": (lambda at: [(at, 4, NEXT, RING_SIZE)], "next is 16"),
    "command nowhere": (lambda at: [(1 << 50, 4, NEXT, 9), (at, 1, WRITE, 0)], "buffer at 0x4000000000000"),
    "ack nowhere": (lambda at: [(at, 4, NEXT, 9), (1 << 50, 1, WRITE, 0)], "buffer at 0x4000000000000"),
    "ack at the end of all": (
        lambda at: [(at, 4, NEXT, 9), ((1 << 64) - 1, 2, WRITE, 0)],
        "buffer at 0xffffffffffffffff",
    ),
    "command of 4 GiB": (lambda at: [(at, 0xFFFFFFFF, NEXT, 9), (at, 1, WRITE, 0)], "of 4294967295 bytes"),
    "nested table": (lambda at: [(at, 16, int(DescFlag.INDIRECT), 0)], "INDIRECT"),
}


@pytest.mark.parametrize(("rows", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_bad_chain_breaks_the_control_ring_and_no_other(
    caplog: pytest.LogCaptureFixture, rows: Callable[[int], Rows], words: str
) -> None:
    # DPDK 6ec1778134: an endless chain in the control queue.
    if words == "INDIRECT":
        # A table whose only entry is a table again.
        content, words = struct.pack("<QIHH", 4096, 16, int(DescFlag.INDIRECT), 0), "inside an indirect table"
    else:
        content = bytes([4, 0, 1, 0])
    with attacking() as (_, driver):
        offer(driver, *rows(memory_of(driver, content)))
        wait(lambda: bool(complaints(caplog)))
        used = driver.queues[CONTROL].read_used_index()
        driver.kick(CONTROL)
        echo(driver)
        assert driver.queues[CONTROL].read_used_index() == used

    assert_one_line(caplog, "ring 2 is broken", words)


def test_broken_control_ring_serves_again_after_a_restart(caplog: pytest.LogCaptureFixture) -> None:
    with attacking() as (_, driver):
        offer(driver, (memory_of(driver, bytes(4)), 4, 0, 0))
        wait(lambda: bool(complaints(caplog)))
        driver.reset()
        driver.start()
        assert driver.control.set_pairs(1)


def mac_table(unicast: int, multicast: int) -> bytes:
    return b"".join(
        struct.pack("<I", count) + b"".join(bytes([kind, 0]) + struct.pack(">I", n) for n in range(count))
        for kind, count in ((2, unicast), (3, multicast))
    )


ANSWERED_ERR = {
    "class": (bytes([9, 0, 1]), "command 0 of class 9"),
    "command": (bytes([4, 200, 1, 0]), "command 200 of class 4"),
    "header alone": (bytes([4, 0]), "0 bytes of data"),
    "pairs": (bytes([4, 0, 255, 255]), "65535 pairs, expected 1 to 1"),
    "offloads that were not acknowledged": (bytes([5, 0]) + struct.pack("<Q", V.GUEST_TSO4), "0x80"),
    "VLAN": (bytes([2, 0, 0, 16]), "VLAN 4096"),
    "count that overflows": (bytes([1, 0]) + struct.pack("<I", 0x2AAAAAAB) + bytes(8), "715827883 addresses"),
    "largest counts": (bytes([1, 0]) + b"\xff" * 8, "4294967295 addresses"),
    "table larger than the cap": (bytes([1, 0]) + mac_table(2000, 1000), "more than 16384 bytes"),
    "a byte more than the cap": (bytes(LONGEST + 1), "more than 16384 bytes"),
}


@pytest.mark.parametrize("extra", FORMATS)
@pytest.mark.parametrize(("content", "words"), ANSWERED_ERR.values(), ids=ANSWERED_ERR.keys())
def test_bad_command_is_answered_err_and_the_ring_goes_on(
    caplog: pytest.LogCaptureFixture, content: bytes, words: str, extra: V
) -> None:
    with attacking(extra) as (_, driver):
        for _ in range(3):
            assert driver.control.raw(content) is False
        assert driver.control.set_pairs(1)

    assert_one_line(caplog, "control ring 2: refused", words)


def test_largest_table_that_is_taken_is_taken() -> None:
    count = (LONGEST - 10) // 6
    with attacking() as (_, driver):
        assert driver.control.raw(bytes([1, 0]) + mac_table(count - 5, 5))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("extra", FORMATS)
def test_commands_of_random_bytes_are_answered(extra: V, workers: int) -> None:
    rng = random.Random(7)
    with attacking(extra, workers) as (site, driver):
        for _ in range(200):
            content = bytes([rng.randrange(7), rng.randrange(3)]) + rng.randbytes(rng.randrange(20))
            layout = [rng.randrange(6) for _ in range(rng.randrange(4))]
            driver.control.raw(content, layout=layout)
        site.assert_neighbour_unharmed()
        # Whatever mode that has left behind: this one counts for more.
        assert driver.control.set_offloads(V(0))
        assert driver.control.set_rx_mode(0, True)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("extra", FORMATS)
def test_flood_of_commands_stops_neither_the_neighbour_nor_the_own_frames(extra: V, workers: int) -> None:
    with attacking(extra, workers) as (site, driver):
        queue = driver.virtqueues[CONTROL]
        at = memory_of(driver, bytes([4, 0, 1, 0, 0xFF]))
        done, rounds = 0, 0
        while done < 50 * RING_SIZE:
            while queue.add((Segment(at, 4),), (Segment(at + 4, 1),), Segment(at, 5)) is not None:
                pass
            queue.publish()
            driver.kick(CONTROL)
            if rounds % 8 == 0:
                echo(driver)
                site.assert_neighbour_unharmed()
            done += len(queue.take_used())
            rounds += 1
        wait(lambda: is_used_up(queue))


def test_ring_is_stopped_with_commands_waiting_and_goes_on_with_them() -> None:
    with attacking() as (_, driver):
        queue = driver.queues[CONTROL]
        at = memory_of(driver, bytes([4, 0, 1, 0, 0xFF]))
        for _ in range(RING_SIZE // 2):
            assert queue.add((Segment(at, 4),), (Segment(at + 4, 1),), Segment(at, 5)) is not None
        queue.publish()
        driver.kick(CONTROL)
        base = driver.frontend.get_vring_base(CONTROL)
        assert base == queue.read_used_index()

        driver.nic.rings[CONTROL].base = base
        driver.stop()
        driver.start()
        wait(lambda: is_used_up(queue))


def test_disconnect_with_commands_waiting_leaves_nothing() -> None:
    with make_site(config_space=True) as site:
        for number in range(20):
            driver = VirtioNetDriver.connect(
                site.path,
                order=Order.CLOUD_HYPERVISOR,
                queue_size=RING_SIZE,
                control_queue=True,
                features=FEATURES,
            )
            driver.start()
            queue = driver.virtqueues[CONTROL]
            at = memory_of(driver, bytes([4, 0, 1, 0, 0xFF]))
            for _ in range(number % 4):
                queue.add((Segment(at, 4),), (Segment(at + 4, 1),), Segment(at, 5))
            queue.publish()
            driver.kick(CONTROL)
            if number % 2:
                driver.frontend.get_vring_base(CONTROL)
            queue.close()
            driver.virtqueues.pop()
            driver.close()


def test_memory_that_goes_away_under_a_command_costs_its_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with make_site(config_space=True) as site:
        driver = VirtioNetDriver.connect(
            site.path,
            order=Order.CLOUD_HYPERVISOR,
            queue_size=RING_SIZE,
            control_queue=True,
            features=FEATURES,
        )
        driver.start()
        kick = driver.nic.rings[CONTROL].kick_fd
        assert kick is not None
        driver.memory.truncate("ram", 0)
        os.eventfd_write(kick, 1)
        driver.frontend.wait_closed(20)
        driver.virtqueues.clear()
        driver.close()

    assert any("truncated" in line for line in complaints(caplog))
