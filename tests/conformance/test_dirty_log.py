"""The dirty log as a migration switches it (vhost-user: "Migration"); tests/datapath has it page for page."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conformance.fds import memfd
from tests.plain_frontend import PlainFrontend, u64
from tests.site import Site, Stepper, echo
from vhostuser.frontend import calls
from vhostuser.wire.constants import VRING_F_LOG
from vhostuser.wire.features import VirtioFeature

PAGE = 4096
LOG_SIZE = 1 << 18
"""Bytes: 2 million pages, 8 GiB of guest addresses."""
RX, TX = 0, 1


class Log:
    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, LOG_SIZE)

    def has(self, gpa: int) -> bool:
        return bool(self._map[gpa // PAGE // 8] >> gpa // PAGE % 8 & 1)

    def clear(self) -> None:
        self._map[:] = bytes(LOG_SIZE)

    @property
    def is_clean(self) -> bool:
        return not any(self._map[:])

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)


@contextmanager
def a_log() -> Iterator[Log]:
    log = Log(memfd(LOG_SIZE))
    try:
        yield log
    finally:
        log.close()


def switch(driver: Stepper, log: Log, on: bool) -> None:
    """As QEMU does while rings run: the log, the feature, then each ring's addresses with the flag."""
    if on:
        driver.do(calls.set_log_base(LOG_SIZE, 0, log.fd))
    driver.do(calls.set_features(driver.features | (VirtioFeature.LOG_ALL if on else 0)))
    for ring, queue in zip(driver.nic.rings, driver.queues, strict=True):
        place = ring.place
        assert place is not None
        flags = VRING_F_LOG if on else 0
        driver.do(
            calls.set_vring_addr(
                ring.index, place.desc, place.used, place.avail, flags=flags, log=queue.place.used
            )
        )


def test_writes_are_marked_once_logging_is_on_and_not_any_more_when_it_is_off(site: Site) -> None:
    with site.stepping() as driver, a_log() as log:
        driver.say_all()
        echo(driver)
        assert log.is_clean

        switch(driver, log, True)
        echo(driver)
        assert log.has(driver.receive_queue().place.used)
        assert log.has(driver.transmit_queue().place.used)

        switch(driver, log, False)
        log.clear()
        echo(driver)
        assert log.is_clean


def test_nothing_goes_to_the_old_log_once_the_new_one_is_answered(site: Site) -> None:
    with site.stepping() as driver, a_log() as old, a_log() as new:
        driver.say_all()
        switch(driver, old, True)
        echo(driver)
        driver.do(calls.set_log_base(LOG_SIZE, 0, new.fd))
        old.clear()
        echo(driver)

        assert old.is_clean
        assert not new.is_clean


def test_log_all_without_a_log_marks_nothing_and_harms_nothing(site: Site) -> None:
    # QEMU sends the log after the rings when the device was not running at first.
    with site.stepping() as driver, a_log() as log:
        driver.say_all()
        driver.do(calls.set_features(driver.features | VirtioFeature.LOG_ALL))
        echo(driver)
        driver.do(calls.set_log_base(LOG_SIZE, 0, log.fd))
        echo(driver)
        assert not log.is_clean


def test_set_log_base_is_answered_with_what_came(talk: PlainFrontend) -> None:
    fd = memfd()
    assert talk.ask(6, u64(PAGE) + u64(0), [fd], flags=1) == u64(PAGE) + u64(0)
    os.close(fd)


@pytest.mark.parametrize(("size", "offset"), [(0, 0), (PAGE + 1, 0), (PAGE, PAGE), ((1 << 64) - 1, 2)])
def test_log_that_is_not_in_its_file_ends_the_connection(talk: PlainFrontend, size: int, offset: int) -> None:
    fd = memfd()
    talk.send(6, u64(size) + u64(offset), [fd])
    talk.assert_ended()
    os.close(fd)
