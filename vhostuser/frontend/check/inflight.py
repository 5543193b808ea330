"""Inflight regions: what a back-end makes and takes. That rings go on by them is in `connections`."""

from __future__ import annotations

import os
import struct

from vhostuser.frontend import calls
from vhostuser.frontend.check.model import Group, Severity, expect
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stream import memfds
from vhostuser.frontend.check.traffic import assert_serves, pass_frames, settle
from vhostuser.frontend.link import DEFAULT_FEATURES
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V

GROUP = Group("inflight", "inflight regions: asked for, given back, and wrong")

_GET = 'vhost-user, "VHOST_USER_GET_INFLIGHT_FD"'
_SET = 'vhost-user, "VHOST_USER_SET_INFLIGHT_FD"'
_SHAPES = ((2, 64), (2, 1024), (8, 256))
"""Rings and entries."""
_FILE = 1 << 20
_BAD = (
    ("size", "that is larger than its file", (4 * _FILE, 0, 2, 64)),
    ("offset", "that begins behind the end of its file", (4096, 4 * _FILE, 2, 64)),
    ("overflow", "whose end overflows", ((1 << 64) - 4096, 8192, 2, 64)),
    ("small", "without room for its rings", (64, 0, 256, 1024)),
    ("nothing", "of no bytes", (0, 0, 2, 64)),
)


def _add(name: str, extra: V) -> None:
    features = DEFAULT_FEATURES | extra

    def made(peer: Peer) -> None:
        with peer.stepper(features=features) as driver:
            driver.acknowledge(driver.protocol_features | P.INFLIGHT_SHMFD)
            driver.say("features")
            for queues, size in _SHAPES:
                layout, fd = driver.do(calls.get_inflight_fd(queues, size))
                try:
                    said = (layout.num_queues, layout.queue_size)
                    expect(said == (queues, size), f"{queues} rings of {size} entries", f"{said}")
                    end, length = layout.mmap_offset + layout.mmap_size, os.fstat(fd).st_size
                    expect(layout.mmap_size > 0, "a region with bytes", "none")
                    expect(length >= end, f"a file of at least {end} bytes", f"{length}")
                    content = os.pread(fd, layout.mmap_size, layout.mmap_offset)
                    used = sum(map(bool, content))
                    # Versions and sizes may be in it, entries not. A packed one may have its free list.
                    is_empty = bool(extra) or used <= 16 * queues
                    expect(is_empty, "a region without chains", f"{used} bytes that are not 0")
                finally:
                    os.close(fd)

    def given_back(peer: Peer) -> None:
        with peer.stepper(features=features) as driver:
            driver.acknowledge(driver.protocol_features | P.INFLIGHT_SHMFD)
            driver.say("features")
            layout, fd = driver.do(calls.get_inflight_fd(2, driver.nic.rings[0].size))
            try:
                driver.do(calls.set_inflight_fd(layout, fd))
            finally:
                os.close(fd)
            driver.say_all()
            settle(peer, driver)
            pass_frames(peer, driver, 64)

    GROUP.check(
        f"inflight-made{name}",
        "The region is for as many rings and entries as were asked for, and no chain is in it.",
        _GET,
        virtio=extra,
        protocol=P.INFLIGHT_SHMFD,
    )(made)
    GROUP.check(
        f"inflight-used{name}",
        "Frames pass with the region that the back-end made.",
        _SET,
        virtio=extra,
        protocol=P.INFLIGHT_SHMFD,
    )(given_back)


_add("", V(0))
_add("-packed", V.RING_PACKED)


def _add_bad(name: str, what: str, numbers: tuple[int, int, int, int]) -> None:
    def refused(peer: Peer) -> None:
        stream = peer.stream()
        stream.negotiate(peer.acked_protocol | P.INFLIGHT_SHMFD, int(peer.plain_features))
        with memfds(1, _FILE) as fds:
            stream.refuses(Request.SET_INFLIGHT_FD, struct.pack("=QQHHxxxx", *numbers), fds)
        stream.close()
        assert_serves(peer)

    GROUP.check(
        f"inflight-bad-{name}",
        f"An inflight region {what} is refused.",
        _SET,
        Severity.ROBUSTNESS,
        protocol=P.INFLIGHT_SHMFD,
    )(refused)


for _name, _what, _numbers in _BAD:
    _add_bad(_name, _what, _numbers)
