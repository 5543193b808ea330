"""Postcopy out of order, given up, or without the kernel's leave: nobody hangs and nothing is left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.loglines import assert_one_line, complaints
from tests.postcopy import PROTOCOL, advise, arriving, say_table, send_until_asked, stuck
from tests.site import Site, Stepper, echo, make_site, serving
from vhostuser.config import DeviceConfig
from vhostuser.datapath import page_faults
from vhostuser.errors import PeerError
from vhostuser.frontend import calls
from vhostuser.frontend.late_pages import LatePages
from vhostuser.wire.constants import Request
from vhostuser.wire.messages import U64, MemoryRegion


@pytest.fixture
def site() -> Iterator[Site]:
    with make_site(workers=1, postcopy=True) as made:
        yield made


def test_front_end_goes_away_while_its_page_is_waited_for(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.stepping() as driver, stuck(driver) as late:
        hole = late.asked[0]
        driver.frontend.close()
        site.assert_serves()

        # Nobody else can tell that it was ours: no zeros were written in place of what was to come.
        assert not is_there(driver, hole)
    assert complaints(caplog) == []


def is_there(driver: Stepper, gpa: int) -> bool:
    """Whether the guest's file has a page there."""
    region = driver.memory.region_of(gpa)
    fd = driver.memory.fds()[driver.memory.regions.index(region)]
    at = region.mmap_offset + gpa - region.gpa
    try:
        return os.lseek(fd, at, os.SEEK_DATA) == at
    except OSError:
        return False


def test_front_end_goes_away_while_a_request_waits_for_its_page(site: Site) -> None:
    with site.stepping() as driver, stuck(driver):
        content, _ = driver.frontend.dialogue.encode(calls.set_vring_enable(0, False), True)
        driver.frontend.send_raw(content)
        site.assert_neighbour_unharmed()
        driver.frontend.close()
        site.assert_serves()


def test_server_ends_while_a_page_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with serving([DeviceConfig(socket_path=str(path), port="echo")], workers=1, postcopy=True):
        driver = Stepper.at(path)
        late = LatePages(driver.memory, advise(driver), say_table(driver))
        driver.say_all("memory")
        send_until_asked(driver, late)
    late.close()
    driver.close()


def test_listen_without_advice_is_refused(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with site.stepping() as driver:
        driver.frontend.set_protocol_features(PROTOCOL)
        with pytest.raises(PeerError, match="refused POSTCOPY_LISTEN"):
            driver.do(calls.postcopy_listen())
        driver.say_all()
        echo(driver)
    assert_one_line(caplog, "POSTCOPY_LISTEN", "without a POSTCOPY_ADVISE")


def test_listen_after_the_memory_is_refused(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with site.stepping() as driver:
        driver.frontend.set_protocol_features(PROTOCOL)
        driver.say_all()
        uffd = driver.do(calls.postcopy_advise())
        assert uffd is not None
        os.close(uffd)
        with pytest.raises(PeerError, match="refused POSTCOPY_LISTEN"):
            driver.do(calls.postcopy_listen())
        echo(driver)
    assert_one_line(caplog, "POSTCOPY_LISTEN", "after guest memory")


def test_listen_twice_is_refused(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with site.stepping() as driver, arriving(driver):
        with pytest.raises(PeerError, match="refused POSTCOPY_LISTEN"):
            driver.do(calls.postcopy_listen())
        driver.frontend.dialogue.in_postcopy = True
        echo(driver)
    assert_one_line(caplog, "POSTCOPY_LISTEN", "a second time")


def test_advice_in_postcopy_ends_the_connection(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with (
        site.stepping() as driver,
        arriving(driver),
        pytest.raises(PeerError, match="closed the connection"),
    ):
        driver.frontend.postcopy_advise()
    assert_one_line(caplog, "POSTCOPY_ADVISE", "between POSTCOPY_LISTEN and POSTCOPY_END")


def test_advice_twice_replaces_the_first_one(site: Site) -> None:
    with site.stepping() as driver:
        driver.frontend.set_protocol_features(PROTOCOL)
        first = driver.do(calls.postcopy_advise())
        assert first is not None
        os.close(first)
        with arriving(driver):
            echo(driver)


def offer_table(driver: Stepper) -> tuple[MemoryRegion, ...]:
    return driver.frontend.map_mem_table(calls.memory_table(driver.memory), driver.memory.fds())


def test_request_in_place_of_the_acknowledgement_is_refused(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.stepping() as driver:
        uffd = advise(driver)
        with LatePages(driver.memory, uffd, offer_table(driver)):
            with pytest.raises(PeerError, match="refused SET_VRING_NUM"):
                driver.say("num", 0)
            driver.frontend.confirm_mem_table()
            driver.say_all("memory")
            echo(driver)
    assert_one_line(caplog, "SET_VRING_NUM", "the acknowledgement of SET_MEM_TABLE is due")


def test_question_in_place_of_the_acknowledgement_ends_the_connection(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.stepping() as driver:
        uffd = advise(driver)
        with (
            LatePages(driver.memory, uffd, offer_table(driver)),
            pytest.raises(PeerError, match="closed the connection"),
        ):
            driver.frontend.get_features()
    assert_one_line(caplog, "GET_FEATURES", "the acknowledgement of SET_MEM_TABLE is due")


def test_second_table_in_place_of_the_acknowledgement_ends_the_connection(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.stepping() as driver:
        uffd = advise(driver)
        with (
            LatePages(driver.memory, uffd, offer_table(driver)),
            pytest.raises(PeerError, match="closed the connection"),
        ):
            offer_table(driver)
    assert_one_line(caplog, "SET_MEM_TABLE", "the acknowledgement of the last one is due")


@pytest.mark.parametrize("value", [1, 1 << 63 | 1])
def test_acknowledgement_that_says_no_ends_the_connection(
    site: Site, caplog: pytest.LogCaptureFixture, value: int
) -> None:
    with site.stepping() as driver:
        uffd = advise(driver)
        with LatePages(driver.memory, uffd, offer_table(driver)):
            connection = driver.frontend.dialogue.connection
            driver.frontend.send_raw(connection.encode_request(Request.SET_MEM_TABLE, U64(value)))
            driver.frontend.wait_closed()
    assert_one_line(caplog, "SET_MEM_TABLE", "announces 1 regions")


def test_acknowledgement_is_never_given(site: Site) -> None:
    with site.stepping() as driver:
        uffd = advise(driver)
        with LatePages(driver.memory, uffd, offer_table(driver)):
            site.assert_neighbour_unharmed()


def test_memory_slot_in_postcopy_ends_the_connection(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with site.stepping() as driver, arriving(driver):
        region = MemoryRegion(1 << 40, 4096, 1 << 40, 0)
        content = driver.frontend.dialogue.encode(calls.add_mem_reg(region, 0), True)[0]
        driver.frontend.send_raw(content, driver.memory.fds()[:1])
        driver.frontend.wait_closed()
    assert_one_line(caplog, "ADD_MEM_REG", "needs CONFIGURE_MEM_SLOTS")


def test_postcopy_without_a_userfaultfd_is_answered_without_one(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Denied:
        def vu_uffd_open(self) -> int:
            return -1

    monkeypatch.setattr(page_faults, "lib", Denied())
    with site.stepping() as driver:
        driver.frontend.set_protocol_features(PROTOCOL)
        assert driver.frontend.postcopy_advise() is None
        with pytest.raises(PeerError, match="refused POSTCOPY_LISTEN"):
            driver.do(calls.postcopy_listen())
        driver.say_all()
        echo(driver)
    first, second = complaints(caplog)
    assert "no userfaultfd (Operation not permitted)" in first
    assert "CAP_SYS_PTRACE" in first
    assert "without a POSTCOPY_ADVISE" in second
