"""State that a front-end takes from one back-end to another (vhost-user: "Migrating back-end state")."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable

import pytest

from tests.plain_frontend import PlainFrontend, state, u64
from tests.site import Site, Stepper, echo, make_site, wait
from vhostuser.frontend import calls
from vhostuser.wire.constants import TRANSFER_LOAD, TRANSFER_SAVE

SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE = 42, 43
SAVE, LOAD = state(0, 0), state(1, 0)
ACCEPTED, REFUSED = u64(0x100), u64(0x101)


def pipe() -> tuple[int, int]:
    """QEMU's channel."""
    return os.pipe()


def sockets() -> tuple[int, int]:
    """Cloud Hypervisor's."""
    reader, writer = socket.socketpair()
    return reader.detach(), writer.detach()


either = pytest.mark.parametrize("make", [pipe, sockets])
Make = Callable[[], tuple[int, int]]


def save(talk: PlainFrontend, make: Make = pipe) -> bytes:
    reader, writer = make()
    assert talk.ask(SET_DEVICE_STATE_FD, SAVE, [writer]) == ACCEPTED
    os.close(writer)
    with open(reader, "rb") as file:
        return file.read()


def load(talk: PlainFrontend, content: bytes, make: Make = pipe) -> None:
    reader, writer = make()
    assert talk.ask(SET_DEVICE_STATE_FD, LOAD, [reader]) == ACCEPTED
    os.close(reader)
    with open(writer, "wb") as file:
        file.write(content)


def check(talk: PlainFrontend) -> int:
    return talk.number(CHECK_DEVICE_STATE)


@either
def test_state_is_written_up_to_its_end_and_found_good(talk: PlainFrontend, make: Make) -> None:
    assert save(talk, make).startswith(b"VHOSTNET")
    assert check(talk) == 0


@either
def test_state_that_was_saved_can_be_loaded(talk: PlainFrontend, make: Make) -> None:
    load(talk, save(talk), make)

    assert check(talk) == 0


def test_answer_to_a_transfer_is_exactly_0x100_with_no_fd(talk: PlainFrontend) -> None:
    # rust-vmm's front-end takes no other for "use your own channel".
    reader, writer = os.pipe()
    assert talk.ask(SET_DEVICE_STATE_FD, SAVE, [writer], flags=1) == u64(0x100)
    os.close(reader)
    os.close(writer)


def test_load_may_come_before_features_and_rings(site: Site) -> None:
    # QEMU loads before it starts the device.
    with PlainFrontend(site.path) as source:
        source.negotiate()
        content = save(source)
    with PlainFrontend(site.path) as target:
        target.negotiate()
        load(target, content)
        assert check(target) == 0


@pytest.mark.parametrize("transfer", [SAVE, LOAD])
def test_transfer_is_refused_unless_all_rings_are_stopped(talk: PlainFrontend, transfer: bytes) -> None:
    reader, writer = os.pipe()
    assert talk.number(12, u64(0x103)) == 0
    assert talk.ask(SET_DEVICE_STATE_FD, transfer, [writer]) == REFUSED
    assert check(talk) != 0

    assert talk.ask(11, state(3, 0)) == state(3, 0)
    assert talk.ask(SET_DEVICE_STATE_FD, SAVE, [writer]) == ACCEPTED
    os.close(writer)
    with open(reader, "rb") as file:
        assert file.read()
    assert check(talk) == 0


@pytest.mark.parametrize("transfer", [state(2, 0), state(0, 1), state(1, 1), state(0xFFFFFFFF, 0)])
def test_unknown_direction_and_phase_are_refused(talk: PlainFrontend, transfer: bytes) -> None:
    reader, writer = os.pipe()
    assert talk.ask(SET_DEVICE_STATE_FD, transfer, [writer]) == REFUSED
    os.close(writer)
    # The back-end has closed its copy: it is the end of file.
    with open(reader, "rb") as file:
        assert file.read() == b""


def test_check_without_a_transfer_is_an_error(talk: PlainFrontend) -> None:
    assert check(talk) != 0
    save(talk)
    assert check(talk) == 0
    assert check(talk) != 0


def test_check_is_answered_when_the_result_is_known(talk: PlainFrontend) -> None:
    content = save(talk)
    reader, writer = os.pipe()
    assert talk.ask(SET_DEVICE_STATE_FD, LOAD, [reader]) == ACCEPTED
    os.close(reader)
    os.write(writer, content[:20])

    talk.send(CHECK_DEVICE_STATE)
    talk.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        talk.sock.recv(1)
    talk.sock.settimeout(20)
    os.write(writer, content[20:])
    os.close(writer)

    assert talk.reply(CHECK_DEVICE_STATE) == u64(0)


def test_state_of_an_unknown_newer_version_is_refused(talk: PlainFrontend) -> None:
    content = save(talk)
    (version,) = struct.unpack_from("<H", content, 8)
    load(talk, content[:8] + struct.pack("<H", version + 1) + content[10:])

    assert check(talk) != 0


def _save(driver: Stepper) -> bytes:
    reader, writer = os.pipe()
    assert driver.do(calls.set_device_state_fd(TRANSFER_SAVE, writer)) == 0x100
    os.close(writer)
    with open(reader, "rb") as file:
        content = file.read()
    assert driver.do(calls.check_device_state()) == 0
    return content


def _restart(driver: Stepper) -> None:
    driver.say("base")
    driver.say("addr")
    driver.say("call")
    driver.say("kick")
    driver.say("enable")


def test_source_goes_on_when_the_migration_fails(site: Site) -> None:
    with site.stepping() as driver:
        driver.say_all()
        echo(driver)
        for ring in driver.nic.rings:
            ring.base = driver.do(calls.get_vring_base(ring.index))
        _save(driver)

        _restart(driver)

        echo(driver)


def test_device_on_the_other_host_goes_on_counting() -> None:
    with make_site() as site, site.stepping() as driver:
        driver.say_all()
        echo(driver)
        for ring in driver.nic.rings:
            ring.base = driver.do(calls.get_vring_base(ring.index))
        content = _save(driver)
        counted = site.server.counters()["a"]

    with make_site() as site, site.stepping() as driver:
        reader, writer = os.pipe()
        assert driver.do(calls.set_device_state_fd(TRANSFER_LOAD, reader)) == 0x100
        os.close(reader)
        with open(writer, "wb") as file:
            file.write(content)
        assert driver.do(calls.check_device_state()) == 0
        assert site.server.counters()["a"] == counted

        driver.say_all()
        echo(driver)

        wait(lambda: site.server.counters()["a"][1].packets == counted[1].packets + 1)
