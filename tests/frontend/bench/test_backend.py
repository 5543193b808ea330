"""The server of ours that is measured."""

from __future__ import annotations

import os

import pytest

from tests.frontend.bench.results import case
from vhostuser.errors import UsageError
from vhostuser.frontend.bench.backend import serving, words
from vhostuser.frontend.bench.model import Work
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.peer_process import listener_pid, program


@pytest.mark.parametrize(
    ("work", "port"),
    [
        (Work.SINK, "port=sink"),
        (Work.SOURCE, "port=source:size=64"),
        (Work.ECHO, "port=echo"),
        (Work.LATENCY, "port=echo"),
        (Work.NDR, "port=echo"),
    ],
)
def test_port_does_the_work(work: Work, port: str) -> None:
    said = words(case(work=work, queues=2, poll="busy"), ("/s",), 3)
    assert f"name=bench0,socket-path=/s,queues=2,{port}" in said
    assert said[-4:] == ["--workers", "3", "--poll", "busy"]


def test_event_loop_has_no_workers() -> None:
    assert "--workers" not in words(case(poll="loop"), ("/s",), 1)


def test_pair_has_two_sockets_on_one_switch() -> None:
    with serving(case(work=Work.PAIR), 1, None) as (one, other):
        for path in (one, other):
            with Frontend.connect(path) as frontend:
                assert frontend.get_features()
                assert program(listener_pid(frontend.socket)) != "?"
    assert not os.path.exists(one)


def test_server_that_does_not_start_is_quoted() -> None:
    with pytest.raises(UsageError, match="poll"), serving(case(poll="nonsense"), 1, None):
        pass
