"""Control rings: a command out to whoever is told of it, a byte in, one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest

from tests.datapath.rig import MODERN, RX, Bench, Chain, V, frame, read_eventfd
from vhostuser.datapath.dirty_log import DirtyLog
from vhostuser.datapath.iotlb import DeviceIotlb
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.vring import MAX_COMMAND, RingEnabled
from vhostuser.datapath.worker import EventKind
from vhostuser.frontend.guest_memory import Region
from vhostuser.frontend.iova_memory import PAGE, IovaMemory
from vhostuser.frontend.virtqueue import DescFlag, Segment

SIZE = 16
OK, ERR = 0, 1
FORMATS = [
    pytest.param(MODERN | V.INDIRECT_DESC, id="split-flags"),
    pytest.param(MODERN | V.INDIRECT_DESC | V.EVENT_IDX, id="split-events"),
    pytest.param(MODERN | V.INDIRECT_DESC | V.RING_PACKED, id="packed-flags"),
    pytest.param(MODERN | V.INDIRECT_DESC | V.RING_PACKED | V.EVENT_IDX, id="packed-events"),
]
COMMAND = bytes([4, 0, 2, 0])


class Control:
    """A guest whose pair 0 is a control ring."""

    def __init__(self, bench: Bench, features: V = MODERN) -> None:
        self.bench = bench
        self.guest = bench.guest(features, size=1 << 20)
        self.ring, _ = self.guest.pair(None, SIZE)
        self.ring.pair.set_control()
        self.ring.start()
        bench.settle()

    def send(
        self,
        command: bytes,
        cuts: Sequence[int] | None = None,
        *,
        acks: Sequence[int] = (1,),
        indirect: bool = False,
    ) -> int:
        """Adds a command and shows it; where its ack is to come."""
        lengths = [len(command)] if cuts is None else cuts
        readable = self.ring.segments(lengths)
        writable = self.ring.segments(acks)
        if command:
            self.guest.memory.write(readable[0].gpa, command)
        self.guest.memory.write(writable[0].gpa, b"\xee" * sum(acks))
        if not sum(lengths):
            readable = ()
        assert self.ring.queue.add(readable, writable, Chain(writable), indirect=indirect) is not None
        self.ring.publish()
        return writable[0].gpa

    def events(self) -> int:
        """How many commands were reported since last time."""
        self.bench.settle()
        count = len(self.bench.reported(EventKind.CONTROL))
        self.bench.events.clear()
        return count

    def answer(self, ack: int) -> None:
        self.ring.pair.answer(ack)
        self.bench.settle()

    def assert_broken(self, *values: int) -> None:
        self.bench.settle()
        (event,) = self.bench.reported(EventKind.RING_BROKEN)
        assert event.ring == 0
        assert event.values[: len(values)] == values
        assert self.ring.pair.command() is None


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench() as bench:
        yield bench


@pytest.mark.parametrize("features", FORMATS)
def test_command_comes_out_and_its_ack_goes_in(bench: Bench, features: V) -> None:
    control = Control(bench, features)

    for number in range(3 * SIZE):
        command = bytes([1, number, *range(number)])
        at = control.send(command)
        assert control.events() == 1
        assert control.ring.pair.command() == command
        assert control.ring.queue.take_used() == []
        assert not control.ring.queue.enable_calls()
        control.ring.calls()

        control.answer(number & 1)
        (done,) = control.ring.queue.take_used()
        assert done.length == 1
        assert control.guest.memory.read(at, 1) == bytes([number & 1])
        assert control.ring.calls() == 1
        assert control.ring.pair.command() is None


@pytest.mark.parametrize("features", FORMATS)
@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
def test_command_may_be_cut_anywhere(bench: Bench, features: V, indirect: bool) -> None:
    control = Control(bench, features)
    command = bytes(range(1, 8))

    for cuts in ([7], [2, 5], [1, 1, 5], [1] * 7, [2, 0, 4, 1]):
        at = control.send(command, cuts, acks=(0, 1, 3), indirect=indirect)
        assert control.events() == 1
        assert control.ring.pair.command() == command
        control.answer(OK)
        # Behind the ack there is room for a result that these commands do not have.
        assert control.guest.memory.read(at, 4) == b"\0\xee\xee\xee"
        assert control.ring.queue.take_used()[0].length == 1


@pytest.mark.parametrize("features", FORMATS)
def test_commands_come_one_at_a_time_and_in_order(bench: Bench, features: V) -> None:
    control = Control(bench, features)
    commands = [bytes([2, number]) for number in range(SIZE // 2)]
    for command in commands:
        control.send(command)

    seen = []
    for done in range(len(commands)):
        assert control.events() == 1
        assert control.events() == 0  # it is said once, however often the guest kicks
        control.ring.kick()
        assert control.events() == 0
        assert control.ring.counters.chains == done
        seen.append(control.ring.pair.command())
        control.answer(OK)
    assert seen == commands
    assert control.events() == 0
    assert len(control.ring.queue.take_used()) == len(commands)


@pytest.mark.parametrize("features", FORMATS)
def test_ring_that_is_stopped_with_a_command_open_has_it_still_to_come(bench: Bench, features: V) -> None:
    # Rule 2: nothing is fetched, so there is nothing to wait for.
    control = Control(bench, features)
    control.send(COMMAND)
    assert control.events() == 1

    before = control.ring.queue.device_base()
    assert control.ring.stop() == before
    assert control.ring.pair.command() is None
    assert control.ring.queue.take_used() == []

    control.ring.start(base=before)
    assert control.events() == 1
    assert control.ring.pair.command() == COMMAND
    control.answer(OK)
    assert len(control.ring.queue.take_used()) == 1


@pytest.mark.parametrize("features", FORMATS)
def test_ring_that_is_stopped_before_the_answer_is_written_has_it_still_to_come(
    bench: Bench, features: V
) -> None:
    control = Control(bench, features)
    control.send(COMMAND)
    assert control.events() == 1
    control.ring.pair.answer(OK)

    base = control.ring.stop()
    bench.settle()
    assert control.ring.queue.take_used() == []
    control.ring.start(base=base)

    assert control.events() == 1
    control.answer(OK)
    assert len(control.ring.queue.take_used()) == 1


def test_answer_to_nothing_is_no_answer_to_the_next_command(bench: Bench) -> None:
    control = Control(bench)
    control.answer(OK)
    control.send(COMMAND)
    assert control.events() == 1
    base = control.ring.stop()
    control.ring.start(base=base)
    control.ring.pair.answer(OK)

    assert control.events() == 1
    assert control.ring.queue.take_used() == []


def test_ring_that_is_disabled_is_left_alone_until_it_is_enabled(bench: Bench) -> None:
    control = Control(bench)
    control.ring.pair.set_enabled(RX, RingEnabled.DISABLED)
    control.send(COMMAND)
    assert control.events() == 0

    control.ring.pair.set_enabled(RX, RingEnabled.ENABLED)
    assert control.events() == 1


def test_idle_ring_asks_for_kicks_and_wakes_nobody(bench: Bench) -> None:
    control = Control(bench)
    assert not bench.wakes()

    control.send(COMMAND)
    assert bench.wakes()
    assert control.events() == 1
    assert not bench.wakes(), "an open command costs no turns"
    control.answer(OK)
    assert not bench.wakes()


def test_pair_that_was_a_control_ring_can_have_a_port(bench: Bench) -> None:
    control = Control(bench)
    control.ring.stop()
    control.ring.pair.set_port(PortKind.SOURCE, frame_size=60)
    control.ring.start()
    control.ring.add_writable([128])
    control.ring.publish()

    assert control.events() == 0
    assert len(control.ring.receive()) == 1


@pytest.mark.parametrize("features", FORMATS)
def test_ack_of_a_logged_ring_is_marked(bench: Bench, features: V) -> None:
    page = 4096
    guest = bench.guest(features | V.LOG_ALL, regions=(Region(gpa=0, size=1 << 20),))
    fd = os.memfd_create("log")
    os.ftruncate(fd, 32)
    log = DirtyLog(os.dup(fd), 32, 0)
    guest.device.set_log(log)
    ring, _ = guest.pair(None, SIZE)
    ring.pair.set_control()
    ring.start()
    ring.pair.set_log(RX, True, ring.queue.place.used)
    readable = ring.segments([4])
    guest.memory.write(readable[0].gpa, COMMAND)
    ack = Segment(guest.memory.alloc(page, page), 1)
    ring.queue.add(readable, (ack,), Chain((ack,)))
    ring.publish()
    bench.settle()
    os.pwrite(fd, bytes(32), 0)

    ring.pair.answer(OK)
    bench.settle()

    bits = int.from_bytes(os.pread(fd, 32, 0), "little")
    used = ring.queue.place.desc if V.RING_PACKED in features else ring.queue.place.used
    assert bits >> ack.gpa // page & 1
    assert bits >> used // page & 1
    guest.device.set_log(None)
    log.close()
    os.close(fd)


# What is wrong


@pytest.mark.parametrize("features", FORMATS)
def test_command_that_is_too_long_is_not_copied_and_can_be_answered(bench: Bench, features: V) -> None:
    control = Control(bench, features)
    longest = bytes([1, 0]) + os.urandom(MAX_COMMAND - 2)

    for command, seen in ((longest, longest), (longest + b"x", b"")):
        at = control.send(command)
        assert control.events() == 1
        assert control.ring.pair.command() == seen
        control.answer(ERR)
        assert control.guest.memory.read(at, 1) == bytes([ERR])


@pytest.mark.parametrize("features", FORMATS)
@pytest.mark.parametrize(
    ("command", "acks"),
    [(COMMAND, (0,)), (b"", (1,)), (b"\1", (1,)), (b"", (0,)), (b"", (2048,))],
    ids=["no ack byte", "no command", "half a header", "nothing", "a receive buffer"],
)
def test_chain_that_is_no_command_breaks_the_ring(
    bench: Bench, features: V, command: bytes, acks: tuple[int, ...]
) -> None:
    # QEMU breaks the device for it: nobody can be told, or nothing was said.
    control = Control(bench, features)
    control.send(command, acks=acks)
    control.bench.settle()

    (event,) = bench.reported(EventKind.RING_BROKEN)
    assert event.values[1:3] == (len(command), sum(acks))
    assert bench.reported(EventKind.CONTROL) == []
    assert read_eventfd(control.ring.err_fd) == 1


@pytest.mark.parametrize("features", FORMATS)
def test_command_behind_its_ack_breaks_the_ring(bench: Bench, features: V) -> None:
    control = Control(bench, features)
    (ack,), (command,) = control.ring.segments([1]), control.ring.segments([4])
    flags = DescFlag.NEXT | DescFlag.WRITE
    if V.RING_PACKED in features:
        queue = control.ring.queue
        queue.memory.store_u64(queue.place.desc + 16, command.gpa)
        queue.memory.store_u32(queue.place.desc + 24, 4)
        queue.memory.store_u16(queue.place.desc + 30, DescFlag.AVAIL)
        queue.memory.store_u64(queue.place.desc, ack.gpa)
        queue.memory.store_u32(queue.place.desc + 8, 1)
        queue.memory.store_u16(queue.place.desc + 14, flags | DescFlag.AVAIL)
    else:
        control.ring.queue.write_descriptor(0, ack.gpa, 1, flags, 1)
        control.ring.queue.write_descriptor(1, command.gpa, 4, 0, 0)
        control.ring.queue.offer_raw(0)
    control.ring.kick()

    control.assert_broken()


def test_chain_that_loops_breaks_the_ring(bench: Bench) -> None:
    control = Control(bench)
    (command,) = control.ring.segments([4])
    for index in range(SIZE):
        control.ring.queue.write_descriptor(index, command.gpa, 1, DescFlag.NEXT, (index + 1) % SIZE)
    control.ring.queue.offer_raw(3)
    control.ring.kick()

    control.assert_broken(3, SIZE)


def test_packed_chain_of_a_descriptor_more_than_the_ring_breaks_it(bench: Bench) -> None:
    control = Control(bench, MODERN | V.RING_PACKED)
    (command,) = control.ring.segments([4])
    memory, at = control.guest.memory, control.ring.queue.place.desc
    for index in reversed(range(SIZE)):
        memory.store_u64(at + 16 * index, command.gpa)
        memory.store_u32(at + 16 * index + 8, 1)
        memory.store_u16(at + 16 * index + 14, DescFlag.NEXT | DescFlag.AVAIL)
    control.ring.kick()

    control.assert_broken(0, SIZE)


@pytest.mark.parametrize("gpa", [1 << 40, (1 << 64) - 2, (1 << 64) - 1])
@pytest.mark.parametrize("part", ["command", "ack"])
def test_part_that_is_not_in_memory_breaks_the_ring(bench: Bench, part: str, gpa: int) -> None:
    control = Control(bench)
    (inside,) = control.ring.segments([4])
    queue = control.ring.queue
    queue.write_descriptor(0, gpa if part == "command" else inside.gpa, 4, DescFlag.NEXT, 1)
    queue.write_descriptor(1, gpa if part == "ack" else inside.gpa, 4, DescFlag.WRITE, 0)
    queue.offer_raw(0)
    control.ring.kick()

    control.assert_broken(0, gpa, 4)


def test_chain_that_is_changed_while_it_is_asked_about_is_checked_again(bench: Bench) -> None:
    control = Control(bench)
    control.send(COMMAND)
    assert control.events() == 1
    control.ring.queue.write_descriptor(1, 1 << 40, 1, DescFlag.WRITE, 0)

    control.ring.pair.answer(OK)

    control.assert_broken(0, 1 << 40, 1)


def test_chain_that_loses_its_ack_byte_while_it_is_asked_about_breaks_the_ring(bench: Bench) -> None:
    control = Control(bench)
    control.send(COMMAND)
    assert control.events() == 1
    control.ring.queue.write_descriptor(1, 4096, 0, DescFlag.WRITE, 0)

    control.ring.pair.answer(OK)

    control.assert_broken(0, len(COMMAND), 0)


def test_packed_chain_that_is_taken_back_while_it_is_asked_about_is_forgotten(bench: Bench) -> None:
    control = Control(bench, MODERN | V.RING_PACKED)
    control.send(COMMAND)
    assert control.events() == 1
    at = control.ring.queue.place.desc + 14
    flags = control.guest.memory.load_u16(at)
    control.guest.memory.store_u16(at, 0)
    control.answer(OK)
    assert control.ring.counters.chains == 0

    control.guest.memory.store_u16(at, flags)
    control.ring.kick()
    assert control.events() == 1


def test_memory_that_goes_away_costs_its_device_alone(bench: Bench) -> None:
    control = Control(bench)
    other = bench.guest()
    rx, tx = other.pair(PortKind.ECHO)
    rx.start()
    tx.start()
    control.send(COMMAND)
    assert control.events() == 1
    control.guest.memory.truncate("ram", 0)
    control.ring.pair.answer(OK)
    bench.settle()

    assert len(bench.reported(EventKind.DEVICE_FAULTED)) == 1
    rx.add_writable([2048])
    rx.publish()
    tx.send(frame(1))
    tx.publish()
    bench.settle()
    assert [content for _, content in rx.receive()] == [frame(1)]


def test_flood_of_commands_leaves_the_packets_their_turns(bench: Bench) -> None:
    control = Control(bench)
    rx, tx = control.guest.pair(PortKind.SINK)
    rx.start()
    tx.start()
    for _ in range(SIZE // 2):
        control.send(COMMAND)
    commands = 0
    for number in range(SIZE // 2):
        tx.send(frame(number))
        tx.publish()
        bench.turn()
        bench.turn()
        assert tx.counters.packets == number + 1
        waiting = control.ring.pair.command()
        if waiting is not None:
            commands += 1
            control.ring.pair.answer(OK)
    assert commands == SIZE // 2


def test_frames_of_another_pair_are_no_commands(bench: Bench) -> None:
    guest = bench.guest()
    rx, tx = guest.pair(PortKind.ECHO)
    control, _ = guest.pair(None)
    control.pair.set_control()
    for ring in (rx, tx, control):
        ring.start()
    rx.add_writable([2048])
    rx.publish()
    tx.send(frame(7))
    tx.publish()
    bench.settle()

    assert [content for _, content in rx.receive()] == [frame(7)]
    assert bench.reported(EventKind.CONTROL) == []


def test_command_and_answer_wait_for_translations_and_neither_is_lost(bench: Bench) -> None:
    control = Control(bench, MODERN | V.ACCESS_PLATFORM)
    memory = control.guest.memory
    assert isinstance(memory, IovaMemory)
    iotlb = DeviceIotlb(control.guest.device)

    def tell() -> None:
        bench.settle()
        while misses := list(iotlb.take_misses()):
            for miss in misses:
                page = miss.iova & -PAGE
                iotlb.update(page, page + PAGE - 1, memory.page_user_address(page), 3)
            bench.settle()

    tell()
    ack = control.send(COMMAND)
    tell()
    assert control.events() == 1
    assert control.ring.pair.command() == COMMAND
    iotlb.invalidate(0, (1 << 64) - 1)
    control.answer(OK)
    assert memory.read(ack, 1) == b"\xee"
    tell()

    assert memory.read(ack, 1) == bytes([OK])
    assert control.events() == 0, "it is not asked about twice"
    assert len(control.ring.queue.take_used()) == 1
