"""Who waits for a page: one worker, and nobody for that worker. With a lender whose thread the test ends."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import live_regions, open_fds
from tests.site import wait
from vhostuser.datapath.mapping import MappedMemory
from vhostuser.datapath.reaper import reaper
from vhostuser.datapath.vring import PacketDevice
from vhostuser.datapath.worker import Worker
from vhostuser.errors import EnvironmentLacksError, RequestError
from vhostuser.net.postcopy import Postcopy
from vhostuser.wire.payloads import MemoryRegion

REGION = MemoryRegion(0, 1 << 16, 1 << 40, 0)


class Lent(Worker):
    """Is in a turn for as long as the test says so."""

    quiet = True

    @property
    def is_quiet(self) -> bool:
        return self.quiet


class Lender:
    def __init__(self) -> None:
        self.lent: list[Lent] = []
        self.on_quiet: Callable[[], None] = lambda: None
        self.refusal: EnvironmentLacksError | None = None

    def lend(self, on_quiet: Callable[[], None]) -> Worker:
        if self.refusal is not None:
            raise self.refusal
        self.on_quiet = on_quiet
        self.lent.append(Lent())
        return self.lent[-1]

    def take_back(self, worker: Worker) -> None:
        self.lent = [lent for lent in self.lent if lent is not worker]
        worker.close()


class Rig:
    def __init__(self) -> None:
        self.home = Worker()
        self.packet = PacketDevice(0, [self.home])
        self.pair = self.packet.pair(0)
        self.lender = Lender()
        self.done: list[str] = []
        log = logging.LoggerAdapter(logging.getLogger("vhostuser"), {})
        self.postcopy = Postcopy(self.packet, self.lender, log)

    def listen(self) -> Lent:
        uffd = self.postcopy.advise()
        assert uffd is not None
        os.close(uffd)
        self.postcopy.listen(None)
        return self.lender.lent[0]

    def memory(self) -> MappedMemory:
        fd = os.memfd_create("guest")
        os.ftruncate(fd, REGION.size)
        (base,) = self.postcopy.map((REGION,), [fd])
        memory = self.postcopy.confirm()
        assert memory.base_of(REGION) == base != 0
        return memory

    def note(self, word: str) -> Callable[[], None]:
        return lambda: self.done.append(word)


@pytest.fixture
def rig() -> Iterator[Rig]:
    before = open_fds().keys()
    rig = Rig()
    yield rig
    rig.postcopy.cut(None, rig.postcopy.leave)
    assert rig.pair.worker is rig.home
    assert rig.lender.lent == []
    rig.packet.close()
    rig.home.close()
    assert reaper.wait(20)
    # What cuts memory is a thread of its own.
    wait(lambda: open_fds().keys() <= before and live_regions() == 0)


def test_pairs_are_on_a_worker_of_their_own_from_listen_to_end(rig: Rig) -> None:
    lent = rig.listen()
    assert rig.pair.worker is lent
    assert rig.packet.pair(1).worker is lent
    rig.postcopy.end(None)
    assert rig.pair.worker is rig.home
    assert rig.packet.pair(1).worker is rig.home


def test_without_postcopy_nothing_waits(rig: Rig) -> None:
    rig.postcopy.when_quiet(rig.note("at once"))
    assert rig.done == ["at once"]


def test_what_waits_is_done_in_order_when_the_turn_has_ended(rig: Rig) -> None:
    lent = rig.listen()
    rig.postcopy.when_quiet(rig.note("at once"))
    lent.quiet = False
    rig.postcopy.when_quiet(rig.note("first"))
    rig.postcopy.when_quiet(rig.note("second"))
    rig.lender.on_quiet()
    assert rig.done == ["at once"]
    assert lent.turn() == (True, False)  # held: nothing is done

    lent.quiet = True
    rig.lender.on_quiet()
    rig.lender.on_quiet()
    assert rig.done == ["at once", "first", "second"]


def test_end_does_not_wait_and_does_what_waited(rig: Rig) -> None:
    lent = rig.listen()
    memory = rig.memory()
    lent.quiet = False
    rig.postcopy.when_quiet(rig.note("waited"))

    rig.postcopy.end(memory)

    assert rig.done == ["waited"]
    assert rig.lender.lent == []
    memory.close()


def test_what_waits_for_a_front_end_that_has_gone_is_not_done(rig: Rig) -> None:
    lent = rig.listen()
    memory = rig.memory()
    lent.quiet = False
    rig.postcopy.when_quiet(rig.note("waited"))

    rig.postcopy.cut(memory, rig.note("gone"))
    memory.close()
    assert rig.done == []
    lent.quiet = True
    rig.lender.on_quiet()

    assert rig.done == ["gone"]


def test_connection_may_end_in_what_waited(rig: Rig) -> None:
    lent = rig.listen()
    lent.quiet = False
    rig.postcopy.when_quiet(lambda: rig.postcopy.cut(None, rig.postcopy.leave))
    lent.quiet = True

    rig.lender.on_quiet()

    assert rig.lender.lent == []


def test_worker_is_held_between_table_and_acknowledgement(rig: Rig) -> None:
    """The front-end knows the new addresses alone by then: a fault at one of the old would be nobody's."""
    lent = rig.listen()
    fd = os.memfd_create("guest")
    os.ftruncate(fd, REGION.size)
    rig.postcopy.map((REGION,), [fd])
    assert lent.turn() == (True, False)

    rig.postcopy.confirm().close()

    lent.turn()
    assert lent.turn() == (False, False)


def test_table_that_is_never_acknowledged_is_given_back(rig: Rig) -> None:
    rig.listen()
    fd = os.memfd_create("guest")
    os.ftruncate(fd, REGION.size)
    rig.postcopy.map((REGION,), [fd])


def test_no_thread_is_a_refusal(rig: Rig) -> None:
    rig.lender.refusal = EnvironmentLacksError("no thread for a packet worker")
    with pytest.raises(RequestError, match="no thread"):
        rig.listen()
