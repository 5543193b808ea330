"""Started, stopped, enabled, disabled: what a back-end does with a ring in each state, and between them."""

from __future__ import annotations

import os
import select
import time

from vhostuser.frontend import calls
from vhostuser.frontend.check.model import CheckFailedError, Group, Severity, expect
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stepper import RX, TX, Stepper
from vhostuser.frontend.check.stream import state
from vhostuser.frontend.check.traffic import (
    SMALLEST,
    assert_untouched,
    await_frame,
    frame,
    pass_frames,
    rest,
    send_at,
    settle,
    snapshot,
    take_in,
    wait_used,
)
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.frontend.timeouts import Deadline
from vhostuser.wire.constants import Request
from vhostuser.wire.features import VirtioFeature as V

GROUP = Group("ring-states", "started, stopped, enabled, disabled")

_STATES = 'vhost-user, "Ring states"'
_FAR_RINGS = (0, 1, 2, 3)
"""Of rings that nobody has set up; more than four not every back-end has."""


@GROUP.check("untouched-before-kick", "A ring is not touched before SET_VRING_KICK has come.", _STATES)
def _untouched_before_kick(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all("kick")
        driver.send(frame(1))
        driver.kick(TX)
        assert_untouched(driver, "before SET_VRING_KICK")
        driver.say("kick")
        driver.kick(TX)
        wait_used(peer, driver)


@GROUP.check(
    "starts-without-a-kick",
    "SET_VRING_KICK starts the ring: what lies in it is taken without anything written to the fd.",
    _STATES,
    Severity.SHOULD,
)
def _starts_without_a_kick(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all("kick")
        driver.send(frame(1))
        _drain_kick(driver, TX)
        driver.say("kick")
        wait_used(peer, driver, "what lay in the ring when it was started")


def _drain_kick(driver: Stepper, index: int) -> None:
    """Take back what the driver wrote, as if it had been told to write nothing."""
    fd = driver.nic.rings[index].kick_fd
    assert fd is not None
    if select.select([fd], [], [], 0)[0]:
        os.eventfd_read(fd)


@GROUP.check(
    "starts-disabled",
    "With bit 30 acknowledged a ring is disabled until SET_VRING_ENABLE: nothing is delivered.",
    _STATES,
    virtio=V.PROTOCOL_FEATURES,
    echo=True,
)
def _starts_disabled(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all("enable")
        driver.say("enable", TX)
        _assert_not_delivered(driver, "into a ring that was never enabled")
        driver.say("enable", RX)
        settle(peer, driver)
        pass_frames(peer, driver, 4)


@GROUP.check(
    "enabled-late",
    "What lies in a ring is taken when it is enabled after it was started, without another kick.",
    _STATES,
    virtio=V.PROTOCOL_FEATURES,
)
def _enabled_late(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all("enable")
        driver.send(frame(1))
        rest()
        driver.say("enable")
        wait_used(peer, driver, "what lay in the ring when it was enabled")
        settle(peer, driver)


@GROUP.check(
    "disabled-transmit",
    "What is sent on a started, disabled ring is taken and thrown away.",
    _STATES,
    virtio=V.PROTOCOL_FEATURES,
)
def _disabled_transmit(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        driver.say("disable", TX)
        take_in(driver)
        for number in range(4):
            driver.send(frame(number))
        wait_used(peer, driver, "what is sent on a disabled ring")
        rest()
        came = [received.frame for received in take_in(driver)]
        expect(frame(0) not in came, "frames of a disabled ring thrown away", "one came back")


@GROUP.check(
    "disabled-receive",
    "Nothing is delivered into a disabled ring, and enabled again it delivers.",
    _STATES,
    virtio=V.PROTOCOL_FEATURES,
    echo=True,
)
def _disabled_receive(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        driver.say("disable", RX)
        _assert_not_delivered(driver, "into a disabled ring")
        driver.say("enable", RX)
        settle(peer, driver)
        pass_frames(peer, driver, 4, first=10)


def _assert_not_delivered(driver: Stepper, where: str) -> None:
    before, _ = driver.used()
    driver.send(frame(1))
    rest()
    after, _ = driver.used()
    expect(after == before, f"nothing delivered {where}", f"{after - before} buffers used")


@GROUP.check("stopped", "GET_VRING_BASE stops the ring: it is not touched any more, kicked or not.", _STATES)
def _stopped(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        driver.stop_ring(TX)
        driver.send(frame(1))
        driver.kick(TX)
        assert_untouched(driver, "after GET_VRING_BASE")


@GROUP.check(
    "stopped-stays-stopped",
    "SET_VRING_ENABLE, either way, does not start a stopped ring.",
    _STATES,
    virtio=V.PROTOCOL_FEATURES,
)
def _stopped_stays_stopped(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        driver.stop_ring(TX)
        driver.send(frame(1))
        for item in ("enable", "disable", "enable"):
            driver.say(item, TX)
            driver.kick(TX)
        assert_untouched(driver, "when a stopped ring was enabled")


@GROUP.check(
    "quiet-after-stop",
    "When GET_VRING_BASE has been answered for every ring, nothing is written to guest memory or call fds.",
    'vhost-user, "Suspended device state"',
)
def _quiet_after_stop(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        for round_ in range(5):
            for number in range(24):
                driver.send(frame(24 * round_ + number), timeout=peer.patience)
            for index in (RX, TX):
                driver.stop_ring(index)
                driver.read_call(index)
            used = driver.used()
            for number in range(4):
                driver.send(frame(200 + number), timeout=peer.patience)
            before = snapshot(driver.memory)
            rest()
            expect(driver.used() == used, f"used indices {used} as they were", driver.used())
            after = snapshot(driver.memory)
            expect(after == before, "guest memory as it was when the last ring was stopped", "writes to it")
            rung = driver.read_call(RX) + driver.read_call(TX)
            expect(rung == 0, "no call after the last ring was stopped", f"{rung}")
            driver.start_rings()
            driver.kick(TX)
            wait_used(peer, driver)
            take_in(driver)


@GROUP.check(
    "base",
    "GET_VRING_BASE answers where the ring goes on, with nothing left behind: the used index.",
    'vhost-user, "VHOST_USER_GET_VRING_BASE"',
)
def _base(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        for number in range(8):
            driver.send(frame(number))
        wait_used(peer, driver)
        for index in (TX, RX):
            base = driver.stop_ring(index)
            used = driver.used()[index]
            expect(base == used, f"base {used} of ring {index}", base)


@GROUP.check(
    "stop-twice",
    "GET_VRING_BASE again answers the same.",
    'vhost-user, "VHOST_USER_GET_VRING_BASE"',
    Severity.SHOULD,
)
def _stop_twice(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        for index in (RX, TX):
            bases = [driver.stop_ring(index) for _ in range(3)]
            expect(len(set(bases)) == 1, f"base {bases[0]} each time", bases)


@GROUP.check(
    "base-of-unknown-rings",
    "GET_VRING_BASE is answered for rings that were never set up, before and after features and memory: "
    "QEMU stops pairs that the guest never used.",
    "QEMU, vhost_virtqueue_stop",
)
def _base_of_unknown_rings(peer: Peer) -> None:
    stream = peer.stream()
    for index in _FAR_RINGS[:2]:
        _assert_base(stream.ask(Request.GET_VRING_BASE, state(index, 0xDEAD)), index)
    stream.close()
    stream = peer.talk()
    for index in _FAR_RINGS:
        _assert_base(stream.ask(Request.GET_VRING_BASE, state(index, 0xDEAD)), index)
    stream.close()


def _assert_base(answer: bytes, index: int) -> None:
    expect(answer == state(index, 0), f"ring {index}, base 0", answer.hex())


@GROUP.check(
    "start-again",
    "A ring that was stopped goes on at its base when it is started again: no frame is lost or comes twice.",
    'vhost-user, "VHOST_USER_SET_VRING_BASE"',
)
def _start_again(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        for round_ in range(10):
            pass_frames(peer, driver, 7, first=7 * round_)
            driver.stop_rings()
            driver.start_rings()
            settle(peer, driver)


@GROUP.check(
    "sent-while-stopped",
    "What is put into a stopped ring is taken when it is started again.",
    _STATES,
)
def _sent_while_stopped(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        driver.stop_rings()
        driver.send(frame(1))
        driver.start_rings()
        driver.kick(TX)
        wait_used(peer, driver, "what was sent while the ring was stopped")
        settle(peer, driver)
        pass_frames(peer, driver, 4, first=10)


@GROUP.check(
    "rings-are-independent",
    "A ring runs while the other one of its pair is stopped.",
    _STATES,
    Severity.SHOULD,
)
def _rings_are_independent(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        driver.stop_ring(RX)
        driver.send(frame(1))
        driver.kick(TX)
        wait_used(peer, driver, "what is sent while only the receive ring is stopped")


@GROUP.check(
    "fds-closed-at-stop",
    "GET_VRING_BASE closes the kick and the call fd of the ring: they may not exist any more.",
    'vhost-user, "Ring states"',
    Severity.SHOULD,
)
def _fds_closed_at_stop(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all("call")
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            driver.do(calls.set_vring_call(TX, theirs))
            os.close(theirs)
            theirs = -1
            driver.stop_ring(TX)
            deadline = Deadline(peer.patience)
            while not _hung_up(ours):
                if not deadline.left:
                    raise CheckFailedError("the call fd to be closed", "it is still open")
                time.sleep(0.001)
        finally:
            os.close(ours)
            if theirs >= 0:
                os.close(theirs)


def _hung_up(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, 0)
    return any(events & select.POLLHUP for _, events in poller.poll(0))


@GROUP.check(
    "without-bit-30",
    "A front-end that does not acknowledge bit 30 has its rings enabled from the start.",
    _STATES,
)
def _without_bit_30(peer: Peer) -> None:
    with peer.stepper(features=DEFAULT_FEATURES & ~V.PROTOCOL_FEATURES) as driver:
        driver.say_all("enable")
        settle(peer, driver)
        pass_frames(peer, driver, 8)


@GROUP.check(
    "started-again-while-running",
    "SET_VRING_KICK while the ring runs replaces the fd, and nothing is lost.",
    'vhost-user, "VHOST_USER_SET_VRING_KICK"',
)
def _started_again_while_running(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        for round_ in range(5):
            # Without a kick on the old fd, which a quick back-end would see before it is replaced.
            send_at(driver, driver.memory.alloc(SMALLEST + driver.header_size), frame(round_), kicks=False)
            driver.say("kick", TX)
            wait_used(peer, driver, "what was sent while the kick fd was replaced")
            if peer.echoes:
                await_frame(peer, driver, frame(round_))
