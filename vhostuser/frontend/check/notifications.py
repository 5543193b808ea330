"""Kicks and calls: who is woken when, who is left alone, and what happens when the fds change."""

from __future__ import annotations

import contextlib
import os
import select
import time

from vhostuser.frontend import calls
from vhostuser.frontend.check.model import NO_VIRTIO, Group, Severity, expect
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stepper import RX, TX, Stepper
from vhostuser.frontend.check.traffic import (
    await_frame,
    frame,
    pass_frames,
    rest,
    settle,
    used_by_polling,
    wait_used,
)
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.frontend.timeouts import Deadline
from vhostuser.wire.features import VirtioFeature as V

GROUP = Group("notifications", "kicks and calls, suppressed and not, and fds that change")

_CALL = 'vhost-user, "VHOST_USER_SET_VRING_CALL"'
_KICK = 'vhost-user, "VHOST_USER_SET_VRING_KICK"'
_FORMATS: tuple[tuple[str, str, V, V, str], ...] = (
    ("flags", "by flags", NO_VIRTIO, V.EVENT_IDX, "virtio 1.x, 2.7.7"),
    ("event-idx", "by event index", V.EVENT_IDX, NO_VIRTIO, "virtio 1.x, 2.7.7.2"),
    ("packed-flags", "by flags on packed rings", V.RING_PACKED, V.EVENT_IDX, "virtio 1.x, 2.8.10"),
    (
        "packed-event-idx",
        "by offset on packed rings",
        V.RING_PACKED | V.EVENT_IDX,
        NO_VIRTIO,
        "virtio 1.x, 2.8.10",
    ),
)
"""Name, words, what it needs, what it does without, rule: the four ways to say when to be called."""


def _called_within(driver: Stepper, index: int, seconds: float) -> bool:
    """Whether the ring calls, now or within so long."""
    fd = driver.nic.rings[index].call_fd
    assert fd is not None
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(Deadline(seconds).left_ms))


def _add_calls(name: str, words: str, virtio: V, without: V, rule: str) -> None:
    features = (DEFAULT_FEATURES | virtio) & ~without

    def wanted(peer: Peer) -> None:
        with peer.stepper(features=features) as driver:
            driver.say_all()
            settle(peer, driver)
            queue = driver.virtqueues[TX]
            for number in range(20):
                driver.read_call(TX)
                queue.enable_calls()
                driver.send(frame(number))
                expect(_called_within(driver, TX, peer.patience), "a call for a used chain", "none")
                used_by_polling(peer, driver)

    def unwanted(peer: Peer) -> None:
        with peer.stepper(features=features) as driver:
            driver.say_all()
            settle(peer, driver)
            queue = driver.virtqueues[TX]
            used_by_polling(peer, driver)
            queue.disable_calls()
            rest()
            driver.read_call(TX)
            for number in range(8):
                driver.send(frame(number))
                used_by_polling(peer, driver)
            rest()
            found = driver.read_call(TX)
            expect(found == 0, "no call while the driver wants none", f"{found}")

    GROUP.check(
        f"call-{name}",
        f"A driver that asks for calls {words} is called for the next used chain.",
        rule,
        virtio=virtio,
    )(wanted)
    GROUP.check(
        f"no-call-{name}",
        f"A driver that asks for no calls {words} is left alone.",
        rule,
        Severity.SHOULD,
        virtio=virtio,
    )(unwanted)


for _name, _words, _virtio, _without, _rule in _FORMATS:
    _add_calls(_name, _words, _virtio, _without, _rule)


@GROUP.check(
    "event-idx-far",
    "With event index a call comes when the index that the driver named is passed, and not before.",
    "virtio 1.x, 2.7.7.2",
    Severity.SHOULD,
    virtio=V.EVENT_IDX,
)
def _event_idx_far(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        queue = driver.queues[TX]
        used_by_polling(peer, driver)
        queue.write_avail_flags(0)
        queue.write_used_event(queue.used_index + 5)
        # A call for what was used so far may still be under way.
        rest()
        driver.read_call(TX)
        for number in range(5):
            driver.send(frame(number))
            used_by_polling(peer, driver)
        rest()
        early = driver.read_call(TX)
        expect(early == 0, "no call for the first 5 chains of 6", f"{early}")
        driver.send(frame(5))
        expect(_called_within(driver, TX, peer.patience), "a call for the 6th chain", "none")


@GROUP.check(
    "call-for-received",
    "A driver that sleeps on its receive ring is called when a frame has been delivered.",
    "virtio 1.x, 2.7.7",
    echo=True,
)
def _call_for_received(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        for number in range(20):
            while driver.recv_now() is not None:
                pass
            driver.read_call(RX)
            if driver.virtqueues[RX].enable_calls():
                continue
            driver.send(frame(number))
            expect(_called_within(driver, RX, peer.patience), "a call for a delivered frame", "none")


@GROUP.check(
    "kick-wakes",
    "A back-end that asked for kicks looks at the ring when it is kicked, after any length of silence.",
    "virtio 1.x, 2.7.10",
)
def _kick_wakes(peer: Peer) -> None:
    with peer.driver() as driver:
        settle(peer, driver)
        for number in range(5):
            time.sleep(0.05)
            pass_frames(peer, driver, 1, first=number)


@GROUP.check(
    "polled",
    "A ring without a kick fd is polled.",
    _KICK,
)
def _polled(peer: Peer) -> None:
    with peer.driver(kick_fds=False) as driver:
        settle(peer, driver)
        pass_frames(peer, driver, 32)


@GROUP.check("uncalled", "A ring without a call fd is served, and nobody is called.", _CALL)
def _uncalled(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all("call")
        for index in (RX, TX):
            driver.do(calls.set_vring_call(index, None))
        for number in range(8):
            driver.send(frame(number))
            used_by_polling(peer, driver)


@GROUP.check(
    "without-call",
    "A ring of which no SET_VRING_CALL ever came is served.",
    'vhost-user, "Ring states"',
    Severity.SHOULD,
)
def _without_call(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all("call")
        driver.send(frame(1))
        driver.kick(TX)
        used_by_polling(peer, driver)


@GROUP.check(
    "call-fd-replaced",
    "A call fd that comes while the ring runs replaces the one before: guests mask and unmask interrupts.",
    _CALL,
)
def _call_fd_replaced(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        ring, queue = driver.nic.rings[TX], driver.virtqueues[TX]
        fds = [ring.call_fd, ring.masked_fd]
        for number in range(10):
            old = fds[number % 2]
            ring.call_fd = fds[(number + 1) % 2]
            driver.say("call", TX)
            assert old is not None
            for fd in (old, ring.call_fd):
                _drain(fd)
            queue.enable_calls()
            driver.send(frame(number))
            expect(_called_within(driver, TX, peer.patience), "a call on the new fd", "none")
            used_by_polling(peer, driver)
            expect(_drain(old) == 0, "no call on the old fd", "one")


def _drain(fd: int | None) -> int:
    assert fd is not None
    with contextlib.suppress(BlockingIOError):
        return os.eventfd_read(fd)
    return 0


@GROUP.check(
    "call-fd-late",
    "What was used while there was no call fd is told when one comes, or the driver sleeps for ever.",
    "libvhost-user, vu_set_vring_call_exec",
    Severity.SHOULD,
)
def _call_fd_late(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        driver.do(calls.set_vring_call(TX, None))
        queue = driver.virtqueues[TX]
        queue.enable_calls()
        used = driver.used()[TX]
        driver.send(frame(1))
        deadline = Deadline(peer.patience)
        while driver.used()[TX] == used and deadline.left:
            time.sleep(0.001)
        driver.read_call(TX)
        driver.say("call", TX)
        expect(_called_within(driver, TX, peer.patience), "a call for what had been used", "none")


@GROUP.check(
    "kick-fd-replaced",
    "A kick fd that comes while the ring runs replaces the one before, and no kick is lost.",
    _KICK,
)
def _kick_fd_replaced(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.say_all()
        settle(peer, driver)
        ring = driver.nic.rings[TX]
        spare, old = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK), ring.kick_fd
        try:
            for number in range(10):
                ring.kick_fd = spare if number % 2 == 0 else old
                driver.send(frame(number))
                driver.say("kick", TX)
                wait_used(peer, driver, "what was sent while the kick fd was replaced")
                if peer.echoes:
                    await_frame(peer, driver, frame(number))
        finally:
            ring.kick_fd = old
            os.close(spare)


@GROUP.check(
    "few-calls",
    "Many frames at once are not called for one by one.",
    "virtio 1.x, 2.7.7",
    Severity.SHOULD,
)
def _few_calls(peer: Peer) -> None:
    with peer.stepper(features=DEFAULT_FEATURES & ~V.EVENT_IDX) as driver:
        driver.say_all()
        settle(peer, driver)
        used_by_polling(peer, driver)
        driver.stop_rings()
        for number in range(32):
            driver.send(frame(number))
        driver.virtqueues[TX].enable_calls()
        driver.read_call(TX)
        driver.start_rings()
        driver.kick(TX)
        used_by_polling(peer, driver)
        rest()
        found = driver.read_call(TX)
        expect(0 < found <= 16, "1 to 16 calls for 32 chains that lay there together", f"{found}")
