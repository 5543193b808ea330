from __future__ import annotations

from vhostuser.datapath.vring import VringCounters
from vhostuser.datapath.worker import WorkerCounters
from vhostuser.stats.summary import summarise, summarise_worker


def counters(packets: int, length: int, drops: dict[str, int], corrected: int = 0) -> VringCounters:
    return VringCounters(
        packets=packets,
        bytes=length,
        chains=0,
        bursts=0,
        kicks=0,
        calls=0,
        calls_suppressed=0,
        offloads=0,
        linearised=0,
        bases_corrected=corrected,
        drops=drops,
    )


def test_summarise_adds_up_the_rings_of_each_direction() -> None:
    text = summarise({0: counters(1, 60, {}), 1: counters(2, 120, {}), 2: counters(3, 180, {})})

    assert text == "2 frames (120 bytes) from the guest; 4 frames (240 bytes) to the guest"


def test_summarise_names_each_reason_of_a_drop_once() -> None:
    text = summarise(
        {
            0: counters(0, 0, {"runt": 1}),
            2: counters(0, 0, {"runt": 2, "no_buffers": 5}),
            1: counters(0, 0, {}),
        }
    )

    assert text.endswith("0 frames (0 bytes) to the guest, dropped: no_buffers 5, runt 3")


def test_summarise_says_how_often_a_ring_was_not_where_the_front_end_said() -> None:
    text = summarise({0: counters(0, 0, {}, corrected=1), 1: counters(0, 0, {}, corrected=2)})

    assert text.endswith("; start positions corrected: 3")


def test_worker_that_sleeps_has_no_times_of_its_own() -> None:
    assert summarise_worker(WorkerCounters(7, 3, 0, 0)) == "7 turns, asleep 3 times"


def test_worker_that_polls_says_how_busy_it_was() -> None:
    text = summarise_worker(WorkerCounters(7, 3, 1_500_000_000, 4_500_000_000))

    assert text == "7 turns, asleep 3 times, busy 1.500 s, 25.0% of its time awake"
