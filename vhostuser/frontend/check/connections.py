"""Connections that end anywhere and are made anew, and where rings go on then."""

from __future__ import annotations

import contextlib
import itertools
import select
from collections.abc import Callable

from vhostuser.errors import PeerError
from vhostuser.frontend import orders
from vhostuser.frontend.check.model import Group, NotApplicableError, Severity, expect
from vhostuser.frontend.check.peer import Peer, connect
from vhostuser.frontend.check.stream import HEADER, Stream, message, number, state, u64
from vhostuser.frontend.check.traffic import assert_serves, frame, pass_frames, settle
from vhostuser.frontend.dialogue import Script
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.frontend.orders import Order
from vhostuser.wire.constants import Request
from vhostuser.wire.features import VirtioFeature as V

GROUP = Group("connections", "connections that end anywhere, and rings that go on with the next one")

_RECONNECT = 'vhost-user, "Communication"'
_WHO = {
    Order.QEMU: "QEMU",
    Order.CLOUD_HYPERVISOR: "Cloud Hypervisor",
    Order.VIRTIO_USER: "DPDK's virtio-user",
}
_BASE_OF = {
    Order.QEMU: "the used index",
    Order.CLOUD_HYPERVISOR: "the available index",
    Order.VIRTIO_USER: "0",
}
"""What each front-end says where a split ring goes on when its back-end was lost."""


def _add_reconnect(order: Order, packed: bool) -> None:
    features = DEFAULT_FEATURES | (V.RING_PACKED if packed else 0)

    def check(peer: Peer) -> None:
        with peer.driver(order=order, features=features) as driver:
            settle(peer, driver)
            for round_ in range(4):
                pass_frames(peer, driver, 10, first=20 * round_)
                driver.frontend.close()
                driver.resume(peer.frontend())
                settle(peer, driver)
            pass_frames(peer, driver, 10, first=100)

    if packed:
        name, also = f"reconnect-{order.value}-packed", "with packed rings"
    else:
        name, also = f"reconnect-{order.value}", f"which gives {_BASE_OF[order]} for the base"
    GROUP.check(
        name,
        f"Rings go on with a new connection of {_WHO[order]}, {also}.",
        _RECONNECT,
        virtio=V.RING_PACKED if packed else V(0),
    )(check)


for _order, _packed in itertools.product(Order, (False, True)):
    _add_reconnect(_order, _packed)


@GROUP.check(
    "reconnect-with-fewer-features",
    "A new connection may acknowledge less than the one before: another guest is there.",
    _RECONNECT,
)
def _reconnect_with_fewer_features(peer: Peer) -> None:
    for features in (
        DEFAULT_FEATURES,
        V.VERSION_1 | V.PROTOCOL_FEATURES,
        V.PROTOCOL_FEATURES,
        DEFAULT_FEATURES,
    ):
        with peer.driver(features=features) as driver:
            settle(peer, driver)
            pass_frames(peer, driver, 4)


@GROUP.check(
    "end-in-traffic",
    "A connection may end with frames on their way, again and again.",
    _RECONNECT,
)
def _end_in_traffic(peer: Peer) -> None:
    for _ in range(20):
        with peer.driver() as driver:
            for number_ in range(48):
                driver.send(frame(number_), timeout=peer.patience)
    assert_serves(peer)


def _first(script: Script[None], count: int) -> Script[None]:
    """No more than so many of its messages."""
    answer = None
    for _ in range(count):
        try:
            call = script.send(answer)
        except StopIteration:
            return
        answer = yield call


def _messages(driver: VirtioNetDriver, script: Callable[[], Script[None]]) -> int:
    """How many messages it has; they are sent."""
    sent = 0

    def counting() -> Script[None]:
        nonlocal sent
        answer = None
        inner = script()
        while True:
            try:
                call = inner.send(answer)
            except StopIteration:
                return
            sent += 1
            answer = yield call

    driver.frontend.run_script(counting())
    return sent


@GROUP.check(
    "end-after-each-message",
    "A connection may end after any message of the start.",
    _RECONNECT,
    Severity.ROBUSTNESS,
)
def _end_after_each_message(peer: Peer) -> None:
    with peer.stepper() as driver:
        count = _messages(driver, lambda: orders.start(driver.nic))
    for most in range(count + 1):
        with contextlib.suppress(PeerError), peer.stepper() as driver:
            driver.frontend.run_script(_first(orders.start(driver.nic), most))
    assert_serves(peer)


@GROUP.check(
    "end-inside-a-message",
    "A connection may end inside a header or a payload.",
    _RECONNECT,
    Severity.ROBUSTNESS,
)
def _end_inside_a_message(peer: Peer) -> None:
    whole = message(Request.SET_VRING_NUM, state(0, 64))
    for length in range(1, len(whole)):
        stream = peer.talk()
        stream.send_bytes(whole[:length])
        stream.close()
    assert_serves(peer)


@GROUP.check(
    "end-before-the-reply",
    "A connection may end while a reply is due.",
    _RECONNECT,
    Severity.ROBUSTNESS,
)
def _end_before_the_reply(peer: Peer) -> None:
    for _ in range(50):
        stream = peer.stream()
        for _ in range(5):
            stream.send(Request.GET_FEATURES)
        stream.close()
    assert_serves(peer)


@GROUP.check(
    "many-connections",
    "Two hundred connections one after the other use nothing up.",
    _RECONNECT,
    Severity.ROBUSTNESS,
)
def _many_connections(peer: Peer) -> None:
    for _ in range(200):
        connect(peer.path, peer.patience).close()
    assert_serves(peer)


@GROUP.check(
    "half-a-message-and-silence",
    "A front-end that stops inside a message holds up nobody for longer than its connection lasts.",
    _RECONNECT,
    Severity.ROBUSTNESS,
)
def _half_a_message_and_silence(peer: Peer) -> None:
    stream = peer.talk()
    stream.send_bytes(message(Request.SET_FEATURES, u64(0))[: HEADER.size + 3])
    stream.wait_taken()
    stream.close()
    assert_serves(peer)


@GROUP.check(
    "replies-that-nobody-reads",
    "A front-end that reads no replies holds up nobody once it has gone.",
    _RECONNECT,
    Severity.ROBUSTNESS,
)
def _replies_that_nobody_reads(peer: Peer) -> None:
    sock = connect(peer.path, peer.patience)
    with contextlib.closing(sock), contextlib.suppress(OSError):
        sock.setblocking(False)
        for _ in range(20000):
            sock.send(message(Request.GET_FEATURES) * 16)
    assert_serves(peer)


@GROUP.check(
    "second-front-end",
    "A second connection to a device that serves one does not disturb it.",
    _RECONNECT,
    Severity.SHOULD,
)
def _second_front_end(peer: Peer) -> None:
    with peer.driver() as driver:
        settle(peer, driver)
        with contextlib.closing(Stream(connect(peer.path, peer.patience), peer.patience)) as second:
            with contextlib.suppress(PeerError):
                second.send(Request.SET_OWNER)
                second.send(Request.SET_FEATURES, u64(int(peer.plain_features)))
                second.send(Request.GET_FEATURES)
            # Only when it was noticed, by an answer or its end, has it had the chance to disturb; a back-end
            # that leaves it in the backlog says nothing.
            select.select([second.socket], [], [], peer.patience)
            pass_frames(peer, driver, 8)
        pass_frames(peer, driver, 8, first=20)


@GROUP.check(
    "offer-after-all-this",
    "What is offered does not depend on the connections before.",
    _RECONNECT,
)
def _offer_after_all_this(peer: Peer) -> None:
    found = number(peer.stream().ask(Request.GET_FEATURES))
    if not peer.offer.virtio:
        raise NotApplicableError("nothing is offered")
    expect(found == int(peer.offer.virtio), f"features {int(peer.offer.virtio):#x}", f"{found:#x}")
