"""Bursts into a port by one system call, where the kernel has io_uring."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest

from tests.datapath.rig import Bench, frame
from tests.datapath.wires import Wire, started
from tests.site import wait
from vhostuser.datapath.port_ops import PortKind
from vhostuser.frontend.net_header import PLAIN


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
    frames = [frame(number, 200) for number in range(8)]
    for number, content in enumerate(frames):
        if number == at:
            tx.send(b"runt")
            tx.send(content, pieces=[12, *[1] * 100, 100])
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
