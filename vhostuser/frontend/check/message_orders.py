"""The message orders of front-ends in use, from the first message to a reboot, and what they do between."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager

from vhostuser.frontend.check.model import NO_VIRTIO, Group, NotApplicableError, Severity
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stepper import ITEMS, TX
from vhostuser.frontend.check.stream import number
from vhostuser.frontend.check.traffic import frame, pass_frames, settle, wait_used
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.link import DEFAULT_FEATURES, LinkOptions
from vhostuser.frontend.orders import Order
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V

GROUP = Group("message-orders", "the orders of QEMU, Cloud Hypervisor and DPDK's virtio-user")

_FRONT_ENDS: tuple[tuple[str, str, Order | None, str], ...] = (
    ("qemu-7", "QEMU 7.2", None, "QEMU 7.2, hw/virtio/vhost.c"),
    ("qemu-10", "QEMU 10", Order.QEMU, "QEMU 10.0, hw/virtio/vhost.c"),
    ("cloud-hypervisor", "Cloud Hypervisor", Order.CLOUD_HYPERVISOR, "cloud-hypervisor, vhost_user/mod.rs"),
    ("virtio-user", "DPDK's virtio-user", Order.VIRTIO_USER, "DPDK, virtio_user_dev.c"),
)
"""Name, whom it plays, how; None is the order that only the checks have."""
_PAIRS = 2


def _start(peer: Peer, order: Order | None, options: LinkOptions) -> AbstractContextManager[VirtioNetDriver]:
    if order is None:
        return peer.old_qemu(**options)
    options["order"] = order
    return peer.driver(**options)


def _life(peer: Peer, driver: VirtioNetDriver) -> None:
    """Frames, stop, start, frames, reboot, frames: on every pair."""
    _use(peer, driver, 0)
    driver.stop()
    driver.start()
    _use(peer, driver, 100)
    driver.reset()
    driver.start()
    _use(peer, driver, 200)


def _use(peer: Peer, driver: VirtioNetDriver, first: int) -> None:
    settle(peer, driver)
    for pair in range(driver.queue_pairs):
        pass_frames(peer, driver, 12, pair=pair, first=first + 20 * pair)


def _add_orders(suffix: str, also: str, virtio: V, pairs: int) -> None:
    for name, who, order, rule in _FRONT_ENDS:

        def body(peer: Peer, order: Order | None = order) -> None:
            if pairs > 1:
                _need_pairs(peer)
            options: LinkOptions = {"queue_pairs": pairs, "features": DEFAULT_FEATURES | virtio}
            with _start(peer, order, options) as driver:
                _life(peer, driver)

        GROUP.check(
            f"{name}{suffix}",
            f"Started, stopped, started again and rebooted{also} as {who} does it, it serves each time.",
            rule,
            virtio=virtio,
        )(body)


def _need_pairs(peer: Peer) -> None:
    """Twice as many as are used, for the answer may count rings."""
    most = 1
    if P.MQ in peer.acked_protocol:
        with contextlib.closing(peer.talk()) as stream:
            most = number(stream.ask(Request.GET_QUEUE_NUM))
    if most < 2 * _PAIRS:
        raise NotApplicableError(f"the back-end says that it has {most} queues")


_add_orders("", "", NO_VIRTIO, 1)
_add_orders("-packed", " with packed rings", V.RING_PACKED, 1)
_add_orders("-pairs", " with two queue pairs", V.MQ, _PAIRS)


@GROUP.check(
    "firmware-then-system",
    "After a firmware with few features the system starts the device anew with more, on one connection.",
    'vhost-user, "Feature negotiation"',
)
def _firmware_then_system(peer: Peer) -> None:
    with peer.driver(features=V.VERSION_1 | V.PROTOCOL_FEATURES) as driver:
        _use(peer, driver, 0)
        driver.reset(DEFAULT_FEATURES)
        driver.start()
        _use(peer, driver, 100)
        driver.reset(V.VERSION_1 | V.PROTOCOL_FEATURES)
        driver.start()
        _use(peer, driver, 200)


@GROUP.check(
    "legacy-guest",
    "A guest without VERSION_1 is served, with the header of 10 bytes: old systems have no other.",
    "virtio 1.x, 5.1.6.1",
    Severity.SHOULD,
)
def _legacy_guest(peer: Peer) -> None:
    with peer.driver(features=V.PROTOCOL_FEATURES) as driver:
        _use(peer, driver, 0)


@GROUP.check(
    "pause-and-resume",
    "Rings that are disabled and enabled again run on: so Cloud Hypervisor pauses a guest.",
    "cloud-hypervisor, vhost_user/net.rs",
    virtio=V.PROTOCOL_FEATURES,
)
def _pause_and_resume(peer: Peer) -> None:
    with peer.driver(order=Order.CLOUD_HYPERVISOR) as driver:
        settle(peer, driver)
        for round_ in range(5):
            driver.enable(0, False)
            driver.enable(0, True)
            settle(peer, driver)
            pass_frames(peer, driver, 8, first=8 * round_)


@GROUP.check(
    "fewer-pairs",
    "With the second pair disabled the first goes on, and enabled again both run: so guests change channels.",
    "virtio 1.x, 5.1.6.5.5",
    virtio=V.MQ | V.PROTOCOL_FEATURES,
)
def _fewer_pairs(peer: Peer) -> None:
    _need_pairs(peer)
    with peer.driver(queue_pairs=_PAIRS, features=DEFAULT_FEATURES | V.MQ) as driver:
        _use(peer, driver, 0)
        driver.enable(1, False)
        pass_frames(peer, driver, 12, first=100)
        driver.enable(1, True)
        _use(peer, driver, 200)


@GROUP.check(
    "unused-pair",
    "A pair that the guest never set up does not keep the others from running.",
    "QEMU, vhost_net_start",
    virtio=V.MQ,
)
def _unused_pair(peer: Peer) -> None:
    _need_pairs(peer)
    with peer.stepper(queue_pairs=_PAIRS, features=DEFAULT_FEATURES | V.MQ) as driver:
        driver.say("features")
        driver.say("memory")
        for item in ("call", "err"):
            driver.say(item)
        for item in ("num", "base", "addr", "kick", "enable"):
            driver.say(item, 0, 1)
        settle(peer, driver, 1)
        pass_frames(peer, driver, 4)
        for ring in driver.nic.rings:
            driver.stop_ring(ring.index)


@GROUP.check(
    "any-order",
    "Features, memory and what is said of a ring come in any order, and it runs when all is known.",
    'vhost-user, "Ring states"',
    Severity.SHOULD,
)
def _any_order(peer: Peer) -> None:
    rest = ITEMS[1:]
    rotations = [rest[start:] + rest[:start] for start in range(len(rest))]
    for order in (*rotations, rest[::-1], ITEMS[::-1]):
        _run_in_order(peer, order if "features" in order else ("features", *order))


def _run_in_order(peer: Peer, order: Sequence[str]) -> None:
    with peer.stepper() as driver:
        for item in order:
            driver.say(item)
        driver.send(frame(1))
        driver.kick(TX)
        wait_used(peer, driver, f"what is sent after {', '.join(order)}")
