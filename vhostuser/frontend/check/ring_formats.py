"""Split and packed rings in every variant that drivers use, with many frames and with odd ones."""

from __future__ import annotations

from collections.abc import Sequence

from vhostuser.frontend.check.model import NO_VIRTIO, Group, Severity, expect
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.traffic import carry_load, pass_frames, settle
from vhostuser.frontend.guest_memory import GuestMemory, Region
from vhostuser.frontend.link import DEFAULT_FEATURES, LinkOptions
from vhostuser.frontend.orders import PROTOCOL_FEATURES, Order
from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V

GROUP = Group("ring-formats", "split and packed rings in every variant")

_SPLIT = "virtio 1.x, 2.7"
_PACKED = "virtio 1.x, 2.8"
_ONCE_AROUND = 70000
"""Frames after which every 16-bit index has begun again."""
_SOME = 5000
_LARGE_FRAME = 1500
_SMALL_BUFFER = 256
_MIB = 1 << 20


def _add_load(
    name: str,
    what: str,
    virtio: V = NO_VIRTIO,
    without: V = NO_VIRTIO,
    *,
    count: int = _SOME,
    size: int = 64,
    segments: int = 1,
    indirect: bool = False,
    buffer_size: int | None = None,
) -> None:
    """The same check for split and for packed rings."""
    for kind, packed, rule in (("split", NO_VIRTIO, _SPLIT), ("packed", V.RING_PACKED, _PACKED)):
        features = (DEFAULT_FEATURES | virtio | packed) & ~without
        options: LinkOptions = {"features": features, "segments": segments, "indirect": indirect}
        if buffer_size is not None:
            options["buffer_size"] = buffer_size

        def check(peer: Peer, options: LinkOptions = options) -> None:
            carry_load(peer, count, size, **options)

        GROUP.check(f"{kind}-{name}", f"{kind.capitalize()} rings {what}.", rule, virtio=virtio | packed)(
            check
        )


_add_load("load", f"carry {_ONCE_AROUND} frames, past the wrap of every index", count=_ONCE_AROUND)
_add_load("chains", "carry frames in chains of several descriptors", segments=3)
_add_load("indirect", "carry frames in indirect tables", V.INDIRECT_DESC, segments=3, indirect=True)
_add_load("without-event-idx", "work with flags in place of event indices", without=V.EVENT_IDX)
_add_load("in-order", "are used in order where that was negotiated", V.IN_ORDER)
_add_load("large-frames", f"carry frames of {_LARGE_FRAME} bytes", size=_LARGE_FRAME)
_add_load("unmergeable", "work with one buffer for each frame", without=V.MRG_RXBUF, size=_LARGE_FRAME)
_add_load(
    "mergeable",
    "spread a frame over as many buffers as it takes, and give them back together",
    V.MRG_RXBUF,
    size=_LARGE_FRAME,
    buffer_size=_SMALL_BUFFER,
)


def _serve_size(peer: Peer, size: int, features: V = DEFAULT_FEATURES) -> None:
    room = 8 * _MIB + 3072 * size
    with (
        GuestMemory(regions=[Region(gpa=0, size=room)]) as memory,
        peer.driver(queue_size=size, memory=memory, features=features) as driver,
    ):
        settle(peer, driver)
        pass_frames(peer, driver, 3 * min(size, 32), chunk=max(1, min(4, size // 2)))


@GROUP.check("split-sizes", "Split rings have any power of two of entries from 2 to 1024.", _SPLIT)
def _split_sizes(peer: Peer) -> None:
    for size in (2, 8, 128, 256, 1024):
        _serve_size(peer, size)


@GROUP.check("split-largest", "A split ring has 32768 entries at most.", _SPLIT, Severity.SHOULD)
def _split_largest(peer: Peer) -> None:
    # Small buffers keep the memory small, which some back-ends touch whole before they answer.
    with GuestMemory(regions=[Region(gpa=0, size=80 * _MIB)]) as memory:
        carry_load(peer, _SOME, 64, queue_size=32768, memory=memory, buffer_size=_SMALL_BUFFER)


@GROUP.check(
    "packed-sizes",
    "Packed rings have any number of entries, also no power of two.",
    _PACKED,
    virtio=V.RING_PACKED,
)
def _packed_sizes(peer: Peer) -> None:
    for size in (4, 7, 100, 256, 1023):
        _serve_size(peer, size, features=DEFAULT_FEATURES | V.RING_PACKED)


_LAYOUTS: tuple[Sequence[int], ...] = ([], [12], [1] * 12, [5, 7], [13], [30], [6, 6, 1, 1, 1])
"""Lengths of all segments but the last: header and frame together, apart, and cut anywhere."""


@GROUP.check(
    "any-layout",
    "Header and frame may be cut into descriptors anywhere: the device makes no assumption on the layout.",
    "virtio 1.x, 2.7.4; CVE-2022-2132",
    virtio=V.VERSION_1,
)
def _any_layout(peer: Peer) -> None:
    with peer.driver() as driver:
        settle(peer, driver)
        for round_, layout in enumerate(_LAYOUTS):
            pass_frames(peer, driver, 4, first=4 * round_, layout=layout, indirect=False, chunk=2)


@GROUP.check(
    "any-layout-indirect",
    "The same holds for the descriptors of an indirect table.",
    "virtio 1.x, 2.7.5.3",
    virtio=V.VERSION_1 | V.INDIRECT_DESC,
)
def _any_layout_indirect(peer: Peer) -> None:
    with peer.driver() as driver:
        settle(peer, driver)
        for round_, layout in enumerate(_LAYOUTS):
            pass_frames(peer, driver, 4, first=4 * round_, layout=layout, indirect=True, chunk=2)


@GROUP.check(
    "frame-sizes",
    "Frames of every size from 18 to 1518 bytes pass: no padding, nothing cut off.",
    "virtio 1.x, 5.1.6.4",
)
def _frame_sizes(peer: Peer) -> None:
    with peer.driver() as driver:
        settle(peer, driver)
        for round_, size in enumerate((18, 59, 60, 61, 64, 127, 128, 1000, 1513, 1514, 1518)):
            pass_frames(peer, driver, 2, size, first=2 * round_)


@GROUP.check(
    "jumbo-frames",
    "Frames of 9000 bytes pass where buffers can be merged.",
    "virtio 1.x, 5.1.6.4",
    Severity.SHOULD,
    virtio=V.MRG_RXBUF,
)
def _jumbo_frames(peer: Peer) -> None:
    with peer.driver() as driver:
        settle(peer, driver)
        pass_frames(peer, driver, 8, 9000)


@GROUP.check(
    "merged-buffers",
    "A frame fills all its buffers but the last, and takes no more of them than it needs.",
    "virtio 1.x, 5.1.6.4.1",
    virtio=V.MRG_RXBUF,
    echo=True,
)
def _merged_buffers(peer: Peer) -> None:
    with peer.driver(buffer_size=_SMALL_BUFFER) as driver:
        settle(peer, driver)
        needed = -(-(_LARGE_FRAME + driver.header_size) // _SMALL_BUFFER)
        for received in pass_frames(peer, driver, 4, _LARGE_FRAME, chunk=1):
            expect(received.chains == needed, f"{needed} buffers of {_SMALL_BUFFER} bytes", received.chains)


@GROUP.check(
    "num-buffers-unmerged",
    "num_buffers of a delivered frame is 1 where buffers are not merged.",
    "virtio 1.x, 5.1.6.4.1",
    virtio=V.VERSION_1,
    echo=True,
)
def _num_buffers_unmerged(peer: Peer) -> None:
    with peer.driver(features=DEFAULT_FEATURES & ~V.MRG_RXBUF) as driver:
        settle(peer, driver)
        for received in pass_frames(peer, driver, 4):
            found = received.header.num_buffers
            expect(found == 1, "num_buffers 1", found)


@GROUP.check(
    "plain-headers",
    "Without offloads every delivered header is plain: no flags, no segmentation.",
    "virtio 1.x, 5.1.6.4.1",
    echo=True,
)
def _plain_headers(peer: Peer) -> None:
    with peer.driver() as driver:
        settle(peer, driver)
        for received in pass_frames(peer, driver, 8):
            header = received.header
            expect((header.flags, header.gso_type) == (0, 0), "flags 0, gso_type 0", header)


@GROUP.check(
    "split-big-endian",
    "A legacy guest of big-endian byte order is served, told apart by SET_VRING_ENDIAN.",
    'vhost-user, "VHOST_USER_SET_VRING_ENDIAN"',
    protocol=P.CROSS_ENDIAN,
)
def _split_big_endian(peer: Peer) -> None:
    wanted = PROTOCOL_FEATURES[Order.QEMU] | P.CROSS_ENDIAN
    with peer.driver(big_endian=True, protocol_features=wanted) as driver:
        settle(peer, driver)
        pass_frames(peer, driver, 32)
        driver.stop()
        driver.start()
        settle(peer, driver)
        pass_frames(peer, driver, 32, first=100)
