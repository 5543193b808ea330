"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.frontend.check.conftest import FindsFault
from tests.frontend.check.meddler import Fault, Line, Said
from tests.frontend.check.test_bad_ring_setup import DiesOf
from vhostuser.wire.constants import Request


class Leaks(Fault):
    """Some fds are never closed."""

    def __init__(self, when: Callable[[Said], bool]) -> None:
        self.when = when
        self.kept: list[int] = []

    def request(self, line: Line, said: Said) -> None:
        if self.when(said):
            self.kept += map(os.dup, said.fds[-1:])
        line.up(said)

    def close(self) -> None:
        for fd in self.kept:
            os.close(fd)


@pytest.mark.parametrize(
    ("check", "when", "seen"),
    [
        (
            "fds-with-everything",
            lambda said: said.request == Request.GET_QUEUE_NUM,
            "those with GET_QUEUE_NUM",
        ),
        ("fds-too-many", lambda said: len(said.fds) == 3, "those with GET_FEATURES, SET_FEATURES"),
        ("fds-with-unknown-requests", lambda said: said.request == 46, "those with request 46"),
        ("fds-in-hundreds", lambda said: len(said.fds) == 64, "GET_FEATURES, 64 of them"),
        ("fds-with-the-payload", lambda said: said.request == Request.SET_VRING_NUM, "those with a payload"),
    ],
)
def test_fds_that_stay_open_are_found(
    finds: FindsFault, check: str, when: Callable[[Said], bool], seen: str
) -> None:
    fault = Leaks(when)
    try:
        assert seen in finds(check, fault)
    finally:
        fault.close()


@pytest.mark.parametrize(
    ("check", "request_", "times"),
    [
        ("fds-use-nothing-up", Request.SET_VRING_ERR, 200),
        ("channel-is-no-socket", Request.SET_BACKEND_REQ_FD, 1),
    ],
)
def test_an_end_of_the_process_is_found(finds: FindsFault, check: str, request_: Request, times: int) -> None:
    assert "the back-end ended" in finds(check, DiesOf(request_, times))
