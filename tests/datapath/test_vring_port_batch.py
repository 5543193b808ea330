"""Bursts into a port, and out of it, by one system call, where the kernel has io_uring."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.datapath.rig import MODERN, Bench, Ring, V, frame
from tests.datapath.wires import Wire, started
from tests.site import wait
from vhostuser.datapath.port_ops import PortKind
from vhostuser.frontend.net_header import PLAIN, GsoType, HeaderFlag, NetHeader
from vhostuser.wire.features import VirtioFeature


def submitted() -> list[int]:
    """How many entries each ring of this process has had."""
    tails = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[io_uring]":
                text = Path(f"/proc/self/fdinfo/{fd}").read_text()
                tails.append(int(re.findall(r"SqTail:\s*(\w+)", text)[0], 0))
        except FileNotFoundError:
            continue
    return tails


def test_frames_of_a_burst_are_entries_of_one_call(bench: Bench, wire: Wire) -> None:
    _, tx = started(bench, wire)
    before = sum(submitted())
    frames = [frame(number) for number in range(8)]
    for content in frames:
        tx.send(content)
    tx.publish()
    bench.settle()

    assert wire.get() == [(PLAIN, content) for content in frames]
    assert sum(submitted()) - before == 8
    assert tx.counters.packets == 8


def test_single_frame_takes_the_system_call_of_its_own(bench: Bench, wire: Wire) -> None:
    _, tx = started(bench, wire)
    before = sum(submitted())
    tx.send(frame(1))
    tx.publish()
    bench.settle()

    assert wire.get() == [(PLAIN, frame(1))]
    assert sum(submitted()) == before


@pytest.mark.parametrize("at", [0, 3, 7])
def test_bad_frame_and_one_in_too_many_pieces_stay_in_their_places(bench: Bench, wire: Wire, at: int) -> None:
    _, tx = started(bench, wire)
    frames = [frame(number, 3000) for number in range(8)]
    for number, content in enumerate(frames):
        if number == at:
            tx.send(b"runt")
            tx.send(content, pieces=[12, *[1] * 100, 2900])
        else:
            tx.send(content)
    tx.publish()
    bench.settle()

    assert wire.get() == [(PLAIN, content) for content in frames]
    assert tx.counters.drops == {"runt": 1}
    assert (tx.counters.linearised, tx.counters.packets) == (1, 8)
    assert tx.used_index == 9


def test_port_that_is_full_now_and_then_gets_each_frame_once(bench: Bench) -> None:
    wire = Wire()
    _, tx = started(bench, wire)
    seen: list[bytes] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.extend(content for _, content in wire.get())

    reader = threading.Thread(target=read)
    reader.start()
    sent = 0
    try:
        for _ in range(40):
            for _ in range(50):
                tx.send(frame(sent))
                sent += 1
            tx.publish()

            def all_used(wanted: int = sent) -> bool:
                bench.settle()
                return tx.used_index == wanted

            wait(all_used)
            tx.take()
    finally:
        stop.set()
        reader.join()
    seen.extend(content for _, content in wire.get())
    dropped = sum(tx.counters.drops.values())
    assert len(set(seen)) == len(seen) == sent - dropped
    assert tx.counters.packets == sent - dropped
    tx.pair.set_port(None)
    wire.close()


def test_port_that_knows_no_such_writes_is_written_to_all_the_same(bench: Bench) -> None:
    """A terminal: its driver has no writes that do not wait."""
    theirs, ours = os.openpty()
    os.set_blocking(ours, False)
    os.set_blocking(theirs, False)
    _, tx = bench.guest().pair(PortKind.FD, fd=ours)
    tx.start()
    for _ in range(2):
        for number in range(8):
            tx.send(frame(number))
        tx.publish()
        bench.settle()

    assert tx.counters.packets == 16
    assert tx.counters.drops == {}
    tx.pair.set_port(None)
    os.close(ours)
    os.close(theirs)


# From the port


@pytest.fixture
def deep() -> Iterator[Wire]:
    """One that holds more frames than a datagram socket does."""
    wire = Wire(socket.SOCK_SEQPACKET)
    yield wire
    wire.close()


LONGER = pytest.mark.parametrize("longer", [0, 2500], ids=["copied", "straight"])
"""Frames that are short (VU_SHORT_FRAME) are read into private memory, others where they belong."""


def gets(
    bench: Bench, rx: Ring, wire: Wire, *frames: tuple[bytes, NetHeader], longer: int = 0
) -> list[bytes]:
    """What comes of frames that all wait when the guest gives buffers."""
    for content, header in frames:
        wire.put(content, header)
    for _ in range(100):
        rx.add_writable([2048 + longer])
    rx.publish()
    bench.settle()
    if V.MRG_RXBUF in rx.guest.features:
        return [content for _, content in rx.receive()]
    # A frame that is dropped has left its bytes in a buffer that a shorter one gets.
    return [rx.guest.memory.read(used.token.segments[0].gpa, used.length)[12:] for used in rx.take()]


@LONGER
@pytest.mark.parametrize("features", [MODERN, MODERN | V.MRG_RXBUF, MODERN | V.RING_PACKED])
def test_frames_that_wait_are_read_by_few_calls(
    bench: Bench, deep: Wire, features: VirtioFeature, longer: int
) -> None:
    rx, _ = started(bench, deep, features, 256)
    before = sum(submitted())
    frames = [frame(number, longer + 60 + number) for number in range(50)]

    assert gets(bench, rx, deep, *((content, PLAIN) for content in frames), longer=longer) == frames
    # One alone, and then two, four, eight, sixteen; the last of them find nothing.
    assert 49 <= sum(submitted()) - before < 49 + 16
    assert rx.counters.packets == 50
    assert rx.counters.drops == {}
    rx.pair.set_port(None)


@pytest.mark.parametrize("features", [V(0), MODERN, V.MRG_RXBUF])
def test_header_in_a_piece_of_its_own(bench: Bench, deep: Wire, features: VirtioFeature) -> None:
    """As legacy drivers want it; also a batch."""
    rx, _ = started(bench, deep, features, 256)
    before = sum(submitted())
    for number in range(30):
        deep.put(frame(number))
        rx.add_writable([rx.guest.header_size, 1600])
    rx.publish()
    bench.settle()

    assert [content for _, content in rx.receive()] == [frame(number) for number in range(30)]
    assert sum(submitted()) - before >= 29
    rx.pair.set_port(None)


REFUSED = NetHeader(HeaderFlag.NEEDS_CSUM, GsoType.TCPV4, 54, 1448, 34, 16)


@LONGER
@pytest.mark.parametrize("at", [1, 2, 5, 13, 29])
@pytest.mark.parametrize(
    ("features", "odd", "header", "drops"),
    [
        pytest.param(MODERN | V.MRG_RXBUF, frame(99, 9000), PLAIN, {}, id="spread"),
        pytest.param(MODERN, frame(99, 9000), PLAIN, {"buffer_too_small": 1}, id="too-large"),
        pytest.param(MODERN, frame(99, 100), REFUSED, {"receiver_offload": 1}, id="refused"),
        pytest.param(
            MODERN | V.MRG_RXBUF, frame(99, 100), REFUSED, {"receiver_offload": 1}, id="refused-mrg"
        ),
    ],
)
def test_odd_frame_among_others(
    bench: Bench,
    deep: Wire,
    at: int,
    features: VirtioFeature,
    odd: bytes,
    header: NetHeader,
    drops: dict[str, int],
    longer: int,
) -> None:
    rx, _ = started(bench, deep, features, 256)
    frames = [(frame(number, longer + 60 + 40 * number), PLAIN) for number in range(30)]
    wanted = [content for content, _ in frames]
    if not drops:
        wanted.insert(at, odd)
    frames.insert(at, (odd, header))

    assert gets(bench, rx, deep, *frames, longer=longer) == wanted
    assert rx.counters.drops == drops
    rx.pair.set_port(None)


@pytest.mark.parametrize("kind", [PortKind.FD, PortKind.PACKET], ids=lambda kind: kind.value)
@pytest.mark.parametrize("before", [7, 8, 10, 15, 17, 20])
@pytest.mark.parametrize("large", [1, 2, 4, 8])
def test_frame_behind_chains_that_a_batch_left_is_not_spread_over_them(
    bench: Bench, deep: Wire, kind: PortKind, before: int, large: int
) -> None:
    """The guest would take its bytes for headers, and for frames."""
    rx, _ = started(bench, deep, MODERN, 256, kind=kind)
    frames = [frame(number) for number in range(before + 10)]
    sent = frames[:before] + [frame(99, 6000)] * large + frames[before:]
    for content in sent:
        deep.put(content)
    for _ in range(200):
        rx.add_writable([1530])
    rx.publish()
    bench.settle()

    assert [content for _, content in rx.receive(exact=False)] == frames
    assert rx.counters.drops == {"buffer_too_small": large}
    rx.pair.set_port(None)


@pytest.mark.parametrize("at", [0, 5])
@pytest.mark.parametrize("more", [0, 4, 12])
def test_longest_frames_among_short_ones(bench: Bench, deep: Wire, at: int, more: int) -> None:
    """64 KiB of IP behind one VLAN tag, and more of these."""
    rx, _ = started(bench, deep, MODERN | V.MRG_RXBUF, 256)
    frames = [frame(number) for number in range(10)]
    frames.insert(at, frame(99, 65535 + 14 + 4 + more))

    assert gets(bench, rx, deep, *((content, PLAIN) for content in frames)) == frames
    rx.pair.set_port(None)


@LONGER
@pytest.mark.parametrize("at", [1, 3, 7])
def test_bytes_that_are_no_frame_among_others(bench: Bench, deep: Wire, at: int, longer: int) -> None:
    rx, _ = started(bench, deep, MODERN, 256)
    for number in range(20):
        if number == at:
            deep.put_raw(b"short")
        deep.put(frame(number, longer + 60))

    assert gets(bench, rx, deep, longer=longer) == [frame(number, longer + 60) for number in range(20)]
    assert rx.counters.drops == {"runt": 1}
    rx.pair.set_port(None)


@LONGER
@pytest.mark.parametrize("features", [MODERN, MODERN | V.MRG_RXBUF | V.RING_PACKED])
def test_frames_that_arrive_while_others_are_read(
    bench: Bench, deep: Wire, features: VirtioFeature, longer: int
) -> None:
    rx, _ = started(bench, deep, features, 256)
    total, stop = 5000, threading.Event()

    def send() -> None:
        number = 0
        while number < total and not stop.is_set():
            try:
                deep.put(frame(number, longer + 60 + number % 1400))
                number += 1
            except BlockingIOError:
                time.sleep(0.0005)  # one that spins keeps the interpreter from the other thread

    sender = threading.Thread(target=send)
    sender.start()
    for _ in range(200):
        rx.add_writable([2048 + longer])
    rx.publish()
    seen: list[bytes] = []

    def all_there() -> bool:
        bench.settle()
        came = [content for _, content in rx.receive(exact=False)]
        for _ in came:
            rx.add_writable([2048 + longer])
        rx.publish()
        seen.extend(came)
        return len(seen) == total

    try:
        wait(all_there)
    finally:
        stop.set()
        sender.join()
    assert seen == [frame(number, longer + 60 + number % 1400) for number in range(total)]
    rx.pair.set_port(None)


def test_port_that_knows_no_such_reads_is_read_all_the_same(bench: Bench) -> None:
    """Packets come from a terminal in its raw mode one line at a time."""
    theirs, ours = os.openpty()
    tty.setraw(ours)
    os.set_blocking(ours, False)
    rx, _ = bench.guest().pair(PortKind.FD, fd=ours)
    rx.start()
    for number in range(20):
        os.write(theirs, bytes(12) + frame(number))
        rx.add_writable([2048])
        rx.publish()
        bench.settle()

    assert sum(len(content) for _, content in rx.receive()) >= 20 * 60
    rx.pair.set_port(None)
    os.close(ours)
    os.close(theirs)
