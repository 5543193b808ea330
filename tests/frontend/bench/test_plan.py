"""From lists to cases, and what cannot be measured."""

from __future__ import annotations

import pytest

from vhostuser.errors import UsageError
from vhostuser.frontend.bench.model import Work
from vhostuser.frontend.bench.plan import Choice, cases


def test_every_combination_is_a_case() -> None:
    made = cases(
        Choice(
            works=[Work.ECHO], sizes=[64, 1500], rings=[64, 256], formats=["split", "packed"], polls=["busy"]
        )
    )
    assert len({one.name for one in made}) == len(made) == 8


def test_of_our_own_server_sink_echo_and_latency_are_measured() -> None:
    made = cases(Choice(sizes=[64]))
    assert [(one.work, one.poll) for one in made] == [
        (work, poll) for work in (Work.SINK, Work.ECHO, Work.LATENCY) for poll in ("loop", "busy")
    ]


def test_of_somebody_elses_one_work_and_no_poll() -> None:
    assert [(one.work, one.poll) for one in cases(Choice(sockets=["a"], sizes=[64]))] == [(Work.ECHO, None)]


def test_latency_is_of_one_pair() -> None:
    made = cases(Choice(works=[Work.ECHO, Work.LATENCY], sizes=[64], queues=[1, 2], polls=["busy"]))
    assert [(one.work, one.queues) for one in made] == [(Work.ECHO, 1), (Work.ECHO, 2), (Work.LATENCY, 1)]
    with pytest.raises(UsageError, match="one pair"):
        cases(Choice(works=[Work.LATENCY], queues=[2]))


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (Choice(sockets=["a"], polls=["busy"]), "--poll is for a server of our own"),
        (Choice(sockets=["a", "b"]), "2 x --socket-path: one is measured"),
        (Choice(sockets=["a"], works=[Work.PAIR]), "1 x --socket-path: pair needs two"),
        (Choice(sizes=[59]), "--size 59 is out of range: it may be 60 to 65535"),
        (Choice(rings=[1]), "--ring 1 is out of range"),
        (Choice(rings=[1000]), "split ring of 1000 entries"),
        (Choice(queues=[65]), "--queues 65 is out of range"),
        (Choice(features=("in-odrer",)), "did you mean in_order"),
        (Choice(disabled=("reply_ack",)), "'reply_ack' is a feature of the protocol"),
    ],
)
def test_what_cannot_be_measured_is_refused(choice: Choice, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        cases(choice)


def test_packed_ring_has_any_size() -> None:
    assert cases(Choice(rings=[1000], formats=["packed"]))[0].ring == 1000
