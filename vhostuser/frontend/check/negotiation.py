"""Features and protocol features, and the requests about the device as a whole."""

from __future__ import annotations

import contextlib
import os
import select
import socket

from vhostuser.frontend import calls
from vhostuser.frontend.check.model import Group, NotApplicableError, Severity, expect
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stepper import TX
from vhostuser.frontend.check.stream import number, state, u64
from vhostuser.frontend.check.traffic import assert_untouched, frame, pass_frames, settle, wait_used
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V

GROUP = Group("negotiation", "features, protocol features and the device as a whole")

_FEATURES = 'vhost-user, "Feature negotiation"'
_UNASSIGNED = 1 << 49
"""A bit between the transport's and the network device's that no specification has given away."""


@GROUP.check(
    "bit-30",
    "VHOST_USER_F_PROTOCOL_FEATURES is offered: without it there are no acknowledgements and no queue pairs.",
    _FEATURES,
    Severity.SHOULD,
)
def _bit_30(peer: Peer) -> None:
    expect(V.PROTOCOL_FEATURES in peer.offer.virtio, "bit 30", f"{int(peer.offer.virtio):#x}")


@GROUP.check(
    "version-1",
    "VIRTIO_F_VERSION_1 is offered: a modern driver does not start without it.",
    "virtio 1.x, 6",
)
def _version_1(peer: Peer) -> None:
    expect(V.VERSION_1 in peer.offer.virtio, "bit 32", f"{int(peer.offer.virtio):#x}")


@GROUP.check(
    "stable-offer",
    "The features are the same on every connection and after SET_FEATURES: QEMU refuses what shrinks.",
    'vhost-user, "Communication"',
)
def _stable_offer(peer: Peer) -> None:
    for _ in range(3):
        stream = peer.stream()
        for _ in range(2):
            found = number(stream.ask(Request.GET_FEATURES))
            expect(found == int(peer.offer.virtio), f"features {int(peer.offer.virtio):#x}", f"{found:#x}")
            stream.send(Request.SET_FEATURES, u64(int(peer.plain_features)))
        if V.PROTOCOL_FEATURES in peer.offer.virtio:
            found = number(stream.ask(Request.GET_PROTOCOL_FEATURES))
            wanted = int(peer.offer.protocol)
            expect(found == wanted, f"protocol features {wanted:#x}", f"{found:#x}")
        stream.close()


@GROUP.check(
    "protocol-features-first",
    "GET and SET_PROTOCOL_FEATURES are legal as soon as bit 30 is offered, before SET_FEATURES.",
    'vhost-user, "VHOST_USER_GET_PROTOCOL_FEATURES"',
    virtio=V.PROTOCOL_FEATURES,
)
def _protocol_features_first(peer: Peer) -> None:
    stream = peer.stream()
    stream.ask(Request.GET_PROTOCOL_FEATURES)
    stream.negotiate(peer.acked_protocol)
    stream.do(Request.SET_FEATURES, u64(int(peer.plain_features)))


@GROUP.check(
    "protocol-features-without-bit-30",
    "Protocol features are legal also for a front-end that does not acknowledge bit 30.",
    'vhost-user, "VHOST_USER_GET_PROTOCOL_FEATURES"',
    protocol=P.REPLY_ACK,
)
def _protocol_features_without_bit_30(peer: Peer) -> None:
    stream = peer.stream()
    stream.send(Request.SET_FEATURES, u64(int(peer.plain_features & ~V.PROTOCOL_FEATURES)))
    stream.negotiate(peer.acked_protocol)
    stream.do(Request.SET_VRING_NUM, state(0, 64))


@GROUP.check(
    "protocol-features-unasked",
    "SET_PROTOCOL_FEATURES needs no GET before it: Cloud Hypervisor sends none when it reconnects.",
    "rust-vmm/vhost, commit 14db3cd",
    protocol=P.REPLY_ACK,
)
def _protocol_features_unasked(peer: Peer) -> None:
    stream = peer.stream()
    stream.send(Request.SET_PROTOCOL_FEATURES, u64(int(peer.acked_protocol)))
    stream.acks = True
    stream.do(Request.SET_VRING_NUM, state(0, 64))


@GROUP.check(
    "protocol-features-again",
    "SET_PROTOCOL_FEATURES again resets nothing: QEMU sends it once for each queue pair.",
    "QEMU, vhost_user_backend_init",
    virtio=V.PROTOCOL_FEATURES,
)
def _protocol_features_again(peer: Peer) -> None:
    with peer.driver() as driver:
        settle(peer, driver)
        for round_ in range(3):
            driver.frontend.set_protocol_features(driver.protocol_features)
            driver.frontend.get_features()
            pass_frames(peer, driver, 4, first=4 * round_)


@GROUP.check(
    "features-not-offered",
    "Features that were not offered are refused.",
    "virtio 1.x, 2.2",
    Severity.SHOULD,
)
def _features_not_offered(peer: Peer) -> None:
    if int(peer.offer.virtio) & _UNASSIGNED:
        raise NotApplicableError(f"the back-end offers bit {_UNASSIGNED.bit_length() - 1}")
    stream = peer.talk()
    if not stream.acks:
        raise NotApplicableError("without REPLY_ACK a refusal cannot be seen")
    stream.refuses(Request.SET_FEATURES, u64(int(peer.plain_features) | _UNASSIGNED))


@GROUP.check(
    "protocol-features-not-offered",
    "Protocol features that were not offered are refused.",
    _FEATURES,
    Severity.SHOULD,
    protocol=P.REPLY_ACK,
)
def _protocol_features_not_offered(peer: Peer) -> None:
    peer.talk().refuses(Request.SET_PROTOCOL_FEATURES, u64(1 << 40 | int(peer.acked_protocol)))


@GROUP.check(
    "queue-num",
    "GET_QUEUE_NUM says at least 1, and not more than the 128 pairs or 256 rings that messages can name.",
    'vhost-user, "Multiple queue support"',
    protocol=P.MQ,
)
def _queue_num(peer: Peer) -> None:
    found = number(peer.talk().ask(Request.GET_QUEUE_NUM))
    expect(1 <= found <= 256, "1 to 256", found)


@GROUP.check(
    "queue-num-of-a-pair",
    "GET_QUEUE_NUM is at least 2: rust-vmm's front-end counts rings, and does not start a pair with 1.",
    "cloud-hypervisor issue 7640",
    Severity.SHOULD,
    protocol=P.MQ,
)
def _queue_num_of_a_pair(peer: Peer) -> None:
    found = number(peer.talk().ask(Request.GET_QUEUE_NUM))
    expect(found >= 2, "at least 2", found)


@GROUP.check(
    "owner-again", "SET_OWNER may come again.", 'vhost-user, "VHOST_USER_SET_OWNER"', Severity.SHOULD
)
def _owner_again(peer: Peer) -> None:
    stream = peer.talk()
    stream.do(Request.SET_OWNER)
    stream.do(Request.SET_OWNER)


@GROUP.check(
    "reset-owner",
    "RESET_OWNER is not the end of the connection: it is deprecated, and old QEMUs send it at every stop.",
    'vhost-user, "VHOST_USER_RESET_OWNER"',
    Severity.SHOULD,
)
def _reset_owner(peer: Peer) -> None:
    stream = peer.talk()
    stream.send(Request.RESET_OWNER)
    stream.assert_silent(Request.RESET_OWNER)


@GROUP.check(
    "backend-channel",
    "The socket of SET_BACKEND_REQ_FD is kept open, and closed at the end of the connection at the latest.",
    'vhost-user, "Back-end communication"',
    protocol=P.BACKEND_REQ,
)
def _backend_channel(peer: Peer) -> None:
    stream = peer.talk()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream.do(Request.SET_BACKEND_REQ_FD, b"", [theirs.fileno()])
        theirs.close()
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            expect(ours.recv(1) != b"", "the channel to stay open", "it was closed at once")
        stream.close()
        ours.settimeout(peer.patience)
        try:
            expect(ours.recv(4096) == b"", "the end of the channel", "something on it")
        except TimeoutError:
            expect(False, "the channel closed with the connection", "it is still open")


@GROUP.check(
    "reset-device",
    "RESET_DEVICE stops every ring, and set up anew they run.",
    'vhost-user, "VHOST_USER_RESET_DEVICE"',
    protocol=P.RESET_DEVICE,
)
def _reset_device(peer: Peer) -> None:
    with peer.stepper() as driver:
        driver.acknowledge(driver.protocol_features | P.RESET_DEVICE)
        driver.say_all()
        settle(peer, driver)
        driver.do(calls.reset_device())
        driver.send(frame(1))
        driver.kick(TX)
        assert_untouched(driver, "after RESET_DEVICE")
        driver.say_all("features")
        driver.kick(TX)
        wait_used(peer, driver)


@GROUP.check(
    "fds-are-closed",
    "Fds of the back-end's rings are closed when the connection ends.",
    'vhost-user, "Communication"',
    Severity.SHOULD,
)
def _fds_are_closed(peer: Peer) -> None:
    stream = peer.talk()
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    try:
        stream.send(Request.SET_VRING_CALL, u64(0), [theirs])
        stream.assert_silent(Request.SET_VRING_CALL)
        os.close(theirs)
        theirs = -1
        stream.close()
        with open(ours, "rb", buffering=0, closefd=False) as pipe:
            os.set_blocking(ours, False)
            expect(_ends(peer, pipe.fileno()), "the call fd to be closed", "it is still open")
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)


def _ends(peer: Peer, fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, 0)
    return bool(poller.poll(int(peer.patience * 1000)))
