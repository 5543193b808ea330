"""Guest memory that goes away under traffic costs its device, and nobody else anything."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.conftest import live_regions, open_fds
from tests.datapath.rig import MODERN, Bench, Guest, Ring, V, frame
from tests.datapath.wires import Wire, started
from vhostuser.datapath.faults import ERROR_NAMES
from vhostuser.datapath.port_ops import PortKind
from vhostuser.datapath.vring import VringCounters
from vhostuser.datapath.worker import EventKind, WorkerEvent
from vhostuser.frontend.guest_memory import Region

MIB = 1 << 20
RINGS = Region(gpa=0, size=4 * MIB, file="rings")
BUFFERS = Region(gpa=1 << 32, size=4 * MIB, file="buffers")
BUFFER = BUFFERS.gpa + MIB
KINDS = [PortKind.SINK, PortKind.ECHO, PortKind.SOURCE, PortKind.FD]


def setup(bench: Bench, wire: Wire, kind: PortKind) -> tuple[Guest, Ring, Ring]:
    """Rings in one file, buffers in another; every chain points into the second."""
    guest = bench.guest(regions=[RINGS, BUFFERS])
    fd = wire.fd if kind is PortKind.FD else -1
    rx, tx = guest.pair(kind, 256, fd=fd)
    guest.memory.write(BUFFER, bytes(12) + frame(1))
    for ring, flags, length in ((rx, 2, 2048), (tx, 0, 72)):
        for index in range(256):
            ring.queue.write_descriptor(index, BUFFER, length, flags, 0)
        ring.start()
    bench.settle()
    return guest, rx, tx


def work(ring: Ring, count: int = 1) -> None:
    for _ in range(count):
        ring.queue.offer_raw(ring.queue.read_avail_index() % 256)
    ring.kick()


def only_fault(bench: Bench) -> WorkerEvent:
    [event] = bench.reported(EventKind.DEVICE_FAULTED)
    assert ERROR_NAMES[event.error] == "memory fault"
    assert event.device == 0
    return event


def goes_round(rx: Ring, tx: Ring) -> bool:
    rx.add_writable([2048])
    tx.send(frame(9))
    rx.publish()
    tx.publish()
    rx.guest.bench.settle()
    return [content for _, content in rx.receive()] == [frame(9)] and len(tx.take()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_buffers_are_truncated_in_the_middle_of_traffic(bench: Bench, wire: Wire, kind: PortKind) -> None:
    neighbour_guest = bench.guest()
    neighbour = neighbour_guest.pair(PortKind.ECHO)
    for ring in neighbour:
        ring.start()
    victim_guest, rx, tx = setup(bench, wire, kind)
    fds, regions = open_fds(), live_regions()
    work(rx, 5)
    work(tx, 5)
    if kind is PortKind.FD:
        wire.put(frame(2))
    bench.settle()
    assert tx.used_index == 5
    assert rx.used_index == {PortKind.SINK: 0, PortKind.FD: 1}.get(kind, 5)
    used = rx.used_index, tx.used_index

    victim_guest.memory.truncate("buffers", 0)
    work(tx, 3)
    work(rx, 3)
    if kind is PortKind.FD:
        wire.put(frame(3))
    bench.settle()

    event = next(event for event in bench.events if event.kind is EventKind.DEVICE_FAULTED)
    assert (event.device, ERROR_NAMES[event.error], event.values[1]) == (1, "memory fault", BUFFERS.gpa)
    assert victim_guest.device.is_faulted
    assert not neighbour_guest.device.is_faulted
    assert (rx.used_index, tx.used_index) == used, "nothing of the burst that faulted is published"

    # No ring of it is touched again, and nothing is reported twice.
    for _ in range(3):
        work(tx)
        work(rx)
        bench.settle()
    assert (rx.used_index, tx.used_index) == used
    assert len(bench.reported(EventKind.DEVICE_FAULTED)) == 1
    assert goes_round(*neighbour)
    assert open_fds() == fds
    assert live_regions() == regions


def test_rings_are_truncated(bench: Bench, wire: Wire) -> None:
    """The very first look at a ring can fault as well."""
    guest, rx, tx = setup(bench, wire, PortKind.ECHO)
    guest.memory.truncate("rings", 0)
    for ring in (rx, tx):
        ring.kick()
    bench.settle()

    assert only_fault(bench).values[1:3] == (RINGS.gpa, RINGS.size)
    assert (rx.stop(), tx.stop()) == (0, 0)


def test_ring_is_truncated_before_its_first_look(bench: Bench) -> None:
    guest = bench.guest(regions=[RINGS, BUFFERS])
    _, tx = guest.pair(PortKind.SINK)
    tx.start()
    guest.memory.truncate("rings", 0)
    bench.settle()

    assert only_fault(bench).values[1:3] == (RINGS.gpa, RINGS.size)
    assert bench.reported(EventKind.RING_STARTED) == []


@pytest.mark.parametrize("kind", [PortKind.ECHO, PortKind.SINK, PortKind.FD])
def test_indirect_table_goes_away(bench: Bench, wire: Wire, kind: PortKind) -> None:
    guest = bench.guest(MODERN | V.INDIRECT_DESC, regions=[RINGS, BUFFERS])
    _, tx = guest.pair(kind, fd=wire.fd if kind is PortKind.FD else -1)
    tx.queue.write_descriptor(0, BUFFER, 16, 4, 0)
    tx.start()
    bench.settle()
    guest.memory.truncate("buffers", MIB)
    tx.queue.offer_raw(0)
    tx.kick()
    bench.settle()

    event = only_fault(bench)
    assert event.values[0] != 0, "a load of ours, not a system call"


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize(("length", "by_call"), [(72, False), (12 + 2049, True)])
def test_port_finds_nothing_to_send(bench: Bench, wire: Wire, length: int, by_call: bool, count: int) -> None:
    """The headers are still there, the frames are not. A short one is copied first, and its load gets SIGBUS;
    of a long one the system call says EFAULT. What was prepared of the burst never goes out, nor with the
    next.
    """
    guest, _, tx = setup(bench, wire, PortKind.FD)
    neighbour = started(bench, wire)[1]
    guest.memory.write(BUFFER - 12, bytes(12))
    whole, gone = BUFFER - 4096, BUFFER - 12
    for index in range(256):
        tx.queue.write_descriptor(index, gone if index == count - 1 else whole, length, 0, 0)
    guest.memory.truncate("buffers", MIB)
    work(tx, count)
    bench.settle()

    event = only_fault(bench)
    assert (event.values[0] == 0) == by_call
    assert event.values[1:3] == (BUFFERS.gpa, BUFFERS.size)
    sent = wire.get()
    for number in range(5):
        neighbour.send(frame(number))
    neighbour.publish()
    bench.settle()
    assert [content for _, content in wire.get()] == [frame(number) for number in range(5)]
    assert len(sent) == tx.used_index == (count - 1 if by_call else 0)


def test_system_call_that_has_nowhere_to_put_a_frame(bench: Bench, wire: Wire) -> None:
    guest, rx, _ = setup(bench, wire, PortKind.FD)
    work(rx)
    bench.settle()
    guest.memory.truncate("buffers", 0)
    wire.put(frame(1, 1000))
    bench.settle()

    assert only_fault(bench).values[:3] == (0, BUFFERS.gpa, BUFFERS.size)
    assert rx.used_index == 0


def test_frames_before_the_fault_in_one_burst(bench: Bench, wire: Wire) -> None:
    """A burst is all or nothing in the ring: what was not published did not happen for the guest."""
    guest, _, tx = setup(bench, wire, PortKind.SINK)
    guest.memory.write(RINGS.gpa + 3 * MIB, bytes(12) + frame(1))
    for index in range(3):
        tx.queue.write_descriptor(index, RINGS.gpa + 3 * MIB, 72, 0, 0)
    guest.memory.truncate("buffers", 0)
    work(tx, 6)
    bench.settle()

    assert only_fault(bench).values[1:3] == (BUFFERS.gpa, BUFFERS.size)
    assert tx.used_index == 0
    assert tx.stop() == 0


def test_device_that_was_faulted_serves_the_next_front_end(bench: Bench, wire: Wire) -> None:
    guest, rx, tx = setup(bench, wire, PortKind.ECHO)
    guest.memory.truncate("buffers", 0)
    work(tx)
    bench.settle()
    assert guest.device.is_faulted
    base = rx.stop(), tx.stop()

    guest.memory.truncate("buffers", 4 * MIB)
    guest.memory.write(BUFFER, bytes(12) + frame(1))
    guest.device.clear_fault()
    rx.start(base=base[0])
    tx.start(base=base[1])
    work(rx)
    bench.settle()

    assert not guest.device.is_faulted
    assert (rx.used_index, tx.used_index) == (1, 1)


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_fault_at_any_depth_of_one_burst(bench: Bench, wire: Wire, keep: int) -> None:
    """Pages of the frame are there and then no more: always the same end."""
    guest, rx, tx = setup(bench, wire, PortKind.ECHO)
    for index in range(64):
        rx.queue.write_descriptor(index, RINGS.gpa + 3 * MIB, 12000, 2, 0)
    work(rx, 64)
    at = BUFFERS.gpa + 3 * MIB
    guest.memory.write(at - 12, bytes(12) + frame(1, 9000))
    tx.queue.write_descriptor(0, at - 12, 12 + 60 + 4096 * keep, 0, 0)
    guest.memory.truncate("buffers", 3 * MIB + 4096 * keep)
    tx.queue.offer_raw(0)
    tx.kick()
    bench.settle()

    assert only_fault(bench).values[1:3] == (BUFFERS.gpa, BUFFERS.size)
    assert (rx.used_index, tx.used_index) == (0, 0)


def test_counters_can_be_read_of_a_faulted_device(bench: Bench, wire: Wire) -> None:
    guest, _, tx = setup(bench, wire, PortKind.SINK)
    guest.memory.truncate("buffers", 0)
    work(tx)
    bench.settle()

    assert tx.counters == VringCounters(0, 0, 0, 0, tx.counters.kicks, 0, 0, 0, 0, 0, {})


# A SIGBUS that is not ours


PROGRAM = """
import faulthandler, mmap, os, signal, sys
{before}
from vhostuser.datapath.worker import Worker
worker = Worker()
{after}
fd = os.memfd_create("mine")
os.ftruncate(fd, 4096)
mapping = mmap.mmap(fd, 4096)
os.ftruncate(fd, 0)
print("before", flush=True)
mapping[0]
print("after", flush=True)
"""


def run(before: str = "", after: str = "") -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(before=before, after=after)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


def test_sigbus_of_somebody_else_kills_as_it_would_have() -> None:
    done = run()

    assert (done.stdout, done.returncode) == ("before\n", -signal.SIGBUS)


def test_sigbus_of_somebody_else_reaches_the_handler_that_was_there() -> None:
    done = run(before="faulthandler.enable()")

    assert done.returncode == -signal.SIGBUS
    assert "Fatal Python error: Bus error" in done.stderr


def test_sigbus_handler_is_installed_once() -> None:
    """A second worker must not make the handler its own predecessor: it would call itself for ever."""
    done = run(before="faulthandler.enable()", after="second = Worker()")

    assert done.returncode == -signal.SIGBUS
    assert done.stderr.count("Fatal Python error: Bus error") == 1


def test_sigbus_that_was_ignored_is_ignored_no_longer() -> None:
    """The kernel does not let a thread ignore its own fault: it dies, and does not loop."""
    done = run(before="signal.signal(signal.SIGBUS, signal.SIG_IGN)")

    assert (done.stdout, done.returncode) == ("before\n", -signal.SIGBUS)


SENT = "os.kill(os.getpid(), signal.SIGBUS)\nos._exit(77)"


def test_sigbus_that_was_sent_kills_as_it_would_have() -> None:
    """No instruction is repeated that would do it a second time."""
    assert run(after=SENT).returncode == -signal.SIGBUS


def test_sigbus_that_was_sent_and_ignored_stays_ignored() -> None:
    assert run(before="signal.signal(signal.SIGBUS, signal.SIG_IGN)", after=SENT).returncode == 77
