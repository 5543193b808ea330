from __future__ import annotations

import errno
import logging

import pytest

from vhostuser.datapath.faults import ERROR_NAMES
from vhostuser.datapath.worker import EventKind, WorkerEvent
from vhostuser.net.events import describe


def event(kind: EventKind, error: int = 0, values: tuple[int, int, int, int] = (0, 0, 0, 0)) -> WorkerEvent:
    return WorkerEvent(kind, device=0, ring=3, error=error, values=values)


def test_ring_that_starts_where_it_was_told_is_news() -> None:
    level, text = describe(event(EventKind.RING_STARTED, values=(5, 5, 5, 9)))

    assert level == logging.INFO
    assert text == "ring 3 (guest sends) runs from 5, 4 entries waiting"


def test_control_ring_is_called_so() -> None:
    values = (0, 0, 0, 1)
    assert describe(event(EventKind.RING_STARTED, values=values), 3)[1].startswith("ring 3 (control) runs")
    assert "(guest sends)" in describe(event(EventKind.RING_STARTED, values=values), 2)[1]


def test_command_is_no_news() -> None:
    assert describe(event(EventKind.CONTROL)) == (logging.DEBUG, "ring 3 brings a command")


def test_ring_that_starts_elsewhere_is_a_warning_with_both_numbers() -> None:
    level, text = describe(event(EventKind.RING_STARTED, values=(65535, 0, 65535, 1)))

    assert level == logging.WARNING
    assert "base 0" in text
    assert "65535" in text
    assert "2 entries waiting" in text


def test_ring_says_how_many_chains_it_serves_again() -> None:
    level, text = describe(event(EventKind.RING_STARTED, values=(5, 5, 5, 9 | 3 << 32)))

    assert level == logging.INFO
    assert text.endswith("from 5, 4 entries waiting; 3 chains that were in flight are served again")


def test_packed_ring_that_starts_elsewhere_names_both_slots() -> None:
    level, text = describe(event(EventKind.RING_STARTED, 1, values=(0x8007, 0x8000, 0x8007, 0)))

    assert level == logging.WARNING
    assert "runs from slot 7 with lap bit 1 of a packed ring" in text
    assert "base slot 0 with lap bit 1, but" in text


@pytest.mark.parametrize("error", ERROR_NAMES)
def test_broken_ring_says_why_with_its_values(error: int) -> None:
    level, text = describe(event(EventKind.RING_BROKEN, error, (77, 0x1234000, 66, 0)))

    assert level == logging.ERROR
    assert text.startswith("ring 3 is broken until it is reset: ")
    assert "error -" not in text
    assert any(value in text for value in ("77", "0x1234000", "66")) or "truncated" in text


def test_fault_names_the_region_and_the_cause() -> None:
    level, text = describe(event(EventKind.DEVICE_FAULTED, -14, values=(0, 1 << 32, 4096, 0)))

    assert level == logging.ERROR
    assert "region of 0x1000 bytes at guest address 0x100000000" in text
    assert "truncated" in text


def test_port_that_is_gone_says_the_kernels_reason() -> None:
    level, text = describe(event(EventKind.PORT_GONE, -errno.EBADFD))

    assert level == logging.ERROR
    assert "File descriptor in bad state" in text


def test_overflow_is_a_warning() -> None:
    assert describe(event(EventKind.OVERFLOW))[0] == logging.WARNING
