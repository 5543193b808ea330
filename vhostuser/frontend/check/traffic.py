"""Frames of ours, and what has to become of them: given back whatever it does, and the same if they return.

A back-end may lose frames while it starts, and may send frames of its own at any time. So a start is followed
by `settle`, and what does not bear our mark is looked at by the driver's rules only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Unpack

from vhostuser.frontend.check.model import CheckFailedError, expect
from vhostuser.frontend.check.peer import Peer
from vhostuser.frontend.check.stepper import TX
from vhostuser.frontend.driver import Received, VirtioNetDriver
from vhostuser.frontend.flood import Flood, Load, ethernet
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.link import LinkOptions
from vhostuser.frontend.net_header import PLAIN
from vhostuser.frontend.timeouts import Deadline, scaled
from vhostuser.frontend.virtqueue_base import Segment

MARK = b"vhck"
PROBE = b"prob"
SMALLEST = 60
QUIET = 0.15
"""How long nothing has to happen until it is believed that nothing will."""
_START = ethernet()
_ECHO_LOOK = 0.02
_WINDOW = 8
"""Frames on their way under load: no more than the receive rings of the checks have buffers for."""


def frame(number: int, size: int = SMALLEST) -> bytes:
    """A frame that can be told from all others, of a pattern that shows which part is wrong."""
    head = _START + MARK + number.to_bytes(4, "big")
    filler = bytes((number + index) & 0xFF for index in range(256))
    return (head + filler * (size // 256 + 1))[:size]


def rest() -> None:
    """Let a back-end do what it should not do."""
    time.sleep(scaled(QUIET))


def snapshot(memory: GuestMemory) -> list[bytes]:
    """All of guest memory as it is now."""
    return [memory.read(region.gpa, region.size) for region in memory.regions]


def wait_used(peer: Peer, driver: VirtioNetDriver, what: str = "every transmit chain", pair: int = 0) -> None:
    """Until the back-end has given every chain of a transmit ring back."""
    sent = driver.virtqueues[2 * pair + 1].outstanding
    try:
        driver.wait_sent(pair, timeout=peer.patience)
    except TimeoutError:
        left = driver.virtqueues[2 * pair + 1].outstanding
        raise CheckFailedError(
            f"{what} to be given back within {scaled(peer.patience):g} s", f"{left} of {sent} still out"
        ) from None


def used_by_polling(peer: Peer, driver: VirtioNetDriver) -> None:
    """Until all that was sent is given back, without a word about calls."""
    queue, deadline = driver.virtqueues[TX], Deadline(peer.patience)
    while queue.outstanding:
        driver.reclaim()
        if not deadline.left:
            raise CheckFailedError("what was sent to be given back", f"{queue.outstanding} chains still out")
        time.sleep(0.0005)


def take_in(driver: VirtioNetDriver) -> list[Received]:
    """What has come by now; its buffers are lent again."""
    taken = []
    while (received := driver.recv_now()) is not None:
        taken.append(received)
    return taken


def await_frame(peer: Peer, driver: VirtioNetDriver, wanted: bytes, what: str = "the frame") -> Received:
    """The next frame of ours, which is `wanted`; others' are passed over."""
    deadline = Deadline(peer.patience)
    while True:
        try:
            received = driver.recv(timeout=peer.patience)
        except TimeoutError:
            received = None
        if received is None or not deadline.left:
            raise CheckFailedError(f"{what} back within {deadline.seconds:g} s", "no frame of ours") from None
        if received.frame[14:18] == MARK:
            break
    if received.frame != wanted:
        raise CheckFailedError(f"{what} back as it was", _difference(wanted, received.frame))
    return received


def _difference(wanted: bytes, got: bytes) -> str:
    if len(wanted) != len(got):
        return f"a frame of {len(got)} bytes for one of {len(wanted)}"
    at = next(index for index, (a, b) in enumerate(zip(wanted, got, strict=True)) if a != b)
    return f"another frame: byte {at} is {got[at]:#04x}, not {wanted[at]:#04x}"


def settle(peer: Peer, driver: VirtioNetDriver, pairs: int | None = None) -> None:
    """After a start: frames are given back and, where it echoes, one has come back.

    On the first `pairs`, on all by default.
    """
    for pair in range(driver.queue_pairs if pairs is None else pairs):
        _settle_pair(peer, driver, pair)


def _settle_pair(peer: Peer, driver: VirtioNetDriver, pair: int) -> None:
    deadline = Deadline(peer.patience)
    while True:
        driver.send(_START + PROBE + bytes(42), queue=pair, timeout=peer.patience)
        wait_used(peer, driver, "the first frame after a start", pair)
        if not peer.echoes:
            return
        look = Deadline(_ECHO_LOOK)
        while look.left:
            driver.serve_iommu()
            if any(received.frame[14:18] == PROBE for received in take_in(driver)):
                return
            time.sleep(0.001)
        if not deadline.left:
            raise CheckFailedError(f"frames back within {deadline.seconds:g} s of a start", "none")


def pass_frames(
    peer: Peer,
    driver: VirtioNetDriver,
    count: int = 16,
    size: int = SMALLEST,
    *,
    first: int = 0,
    pair: int = 0,
    chunk: int = 4,
    layout: Sequence[int] | None = None,
    indirect: bool | None = None,
) -> list[Received]:
    """Frames in chunks that the rings have room for; each is given back and, where it echoes, the same.

    The frames that came back, empty where the back-end does not echo.
    """
    came: list[Received] = []
    for start in range(first, first + count, chunk):
        numbers = range(start, min(start + chunk, first + count))
        for number in numbers:
            driver.send(
                frame(number, size), queue=pair, layout=layout, indirect=indirect, timeout=peer.patience
            )
        wait_used(peer, driver, pair=pair)
        if not peer.echoes:
            take_in(driver)
            continue
        for number in numbers:
            came.append(await_frame(peer, driver, frame(number, size), f"frame {number}"))
    return came


def carry_load(peer: Peer, count: int, size: int, **options: Unpack[LinkOptions]) -> None:
    """Many frames by the driver in C: all given back and, where it echoes, returned whole and in order."""
    with peer.flood(**options) as flood:
        _start_load(peer, flood)
        load = Load(
            count,
            seconds=3 * peer.patience,
            frame_size=size,
            window=_WINDOW if peer.echoes else 0,
            stamp=True,
            sleep=True,
            lost_after=peer.patience / 4,
        )
        report = flood.run(load) if peer.echoes else flood.flood(load)
        left = flood.counts(TX).in_flight
    expect(report.corrupt == 0, "every frame whole", f"{report.corrupt} damaged")
    expect(report.late == 0, "every frame in its place", f"{report.late} out of order or doubled")
    expect(report.sent == count, f"{count} frames taken within {scaled(load.seconds):g} s", report.sent)
    expect(left == 0, "every chain given back", f"{left} still out")
    if peer.echoes:
        expect(report.received == count, f"{count} frames back", report.received)


def _start_load(peer: Peer, flood: Flood) -> None:
    """Frames until one comes back: some may be lost while a back-end starts."""
    deadline = Deadline(peer.patience)
    load = Load(1, window=1, stamp=True, lost_after=_ECHO_LOOK)
    while peer.echoes and not flood.run(load).received:
        if not deadline.left:
            raise CheckFailedError(f"frames back within {deadline.seconds:g} s of a start", "none")


def send_at(driver: VirtioNetDriver, gpa: int, content: bytes, *, kicks: bool = True) -> None:
    """Send a frame out of a buffer at this guest address, which may lie across regions; perhaps unkicked."""
    whole = PLAIN.build(driver.header_size) + content
    driver.memory.write(gpa, whole)
    # What the driver frees when the chain comes back is a stand-in.
    token = Segment(driver.memory.alloc(SMALLEST), SMALLEST)
    ring = driver.virtqueues[TX]
    if ring.add([Segment(gpa, len(whole))], (), token) is None:
        raise CheckFailedError("room in the transmit ring", "none")
    ring.publish()
    if kicks and ring.needs_kick():
        driver.kick(TX)


def assert_serves(peer: Peer) -> None:
    """A new connection finds the back-end as if nothing had been."""
    with peer.driver() as driver:
        settle(peer, driver)
        pass_frames(peer, driver, 4)


def assert_untouched(driver: VirtioNetDriver, why: str) -> None:
    """No chain of the first transmit ring is given back in a while in which it would have been."""
    before = driver.virtqueues[TX].outstanding
    rest()
    driver.reclaim()
    done = before - driver.virtqueues[TX].outstanding
    expect(done == 0, f"no chain given back {why}", f"{done} given back")
