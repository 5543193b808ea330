from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest

from tests.frontend.lockstep import LockstepDevice, RingDevice
from tests.frontend.packed_lockstep import PackedLockstepDevice
from vhostuser.errors import PeerError
from vhostuser.frontend.control import ControlQueue, RxMode
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.packed_virtqueue import PackedVirtqueue
from vhostuser.frontend.timeouts import Deadline
from vhostuser.frontend.virtqueue import SplitVirtqueue
from vhostuser.frontend.virtqueue_base import Segment, Virtqueue
from vhostuser.wire.features import VirtioFeature as V

INDEX = 6
MAC = bytes.fromhex("525400123456")
GROUP = bytes.fromhex("3333ff123456")


class Answering:
    """A device that answers when it is waited for, after some waits for nothing."""

    def __init__(self, packed: bool) -> None:
        self.memory = GuestMemory(1 << 16)
        made = PackedVirtqueue[Segment] if packed else SplitVirtqueue[Segment]
        device = PackedLockstepDevice if packed else LockstepDevice
        self.queue: Virtqueue[Segment] = made(self.memory, 8)
        self.device: RingDevice = device(self.memory, 8, self.queue.place)
        self.control = ControlQueue(self, self.queue, INDEX)
        self.kicks: list[int] = []
        self.commands: list[bytes] = []
        self.layouts: list[list[int]] = []
        self.ack = b"\0"
        self.written = 1
        self.late = 0

    def kick(self, index: int) -> None:
        self.kicks.append(index)

    def wait_for_call(self, indices: Iterable[int], deadline: Deadline) -> bool:
        assert list(indices) == [INDEX]
        if self.late:
            self.late -= 1
            return self.late > 0
        chain = self.device.fetch()
        assert chain is not None
        self.commands.append(self.device.read(chain))
        self.layouts.append([length for _, length in chain.readable])
        self.device.fill(chain, self.ack)
        self.device.push(chain.head, self.written)
        self.device.publish()
        return True


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def answering(request: pytest.FixtureRequest) -> Iterator[Answering]:
    answering = Answering(request.param)
    yield answering
    answering.queue.close()
    answering.memory.close()


COMMANDS: dict[str, tuple[Callable[[ControlQueue], bool], bytes]] = {
    # Virtio 1.2, 5.1.6.5: class, command, data.
    "pairs": (lambda c: c.set_pairs(0x102), bytes([4, 0, 2, 1])),
    "mode on": (lambda c: c.set_rx_mode(RxMode.NO_BROADCAST, True), bytes([0, 5, 1])),
    "mode off": (lambda c: c.set_rx_mode(RxMode.PROMISCUOUS, False), bytes([0, 0, 0])),
    "MAC table": (
        lambda c: c.set_mac_table([MAC], [GROUP, GROUP]),
        bytes([1, 0, 1, 0, 0, 0]) + MAC + bytes([2, 0, 0, 0]) + GROUP + GROUP,
    ),
    "MAC": (lambda c: c.set_mac(MAC), bytes([1, 1]) + MAC),
    "add VLAN": (lambda c: c.add_vlan(0xFFE), bytes([2, 0, 0xFE, 0xF])),
    "delete VLAN": (lambda c: c.delete_vlan(1), bytes([2, 1, 1, 0])),
    "announce": (lambda c: c.ack_announce(), bytes([3, 0])),
    "offloads": (
        lambda c: c.set_offloads(V.GUEST_CSUM | V.GUEST_USO6),
        bytes([5, 0, 2, 0, 0, 0, 0, 0, 0x80, 0]),
    ),
}


@pytest.mark.parametrize(("say", "wanted"), COMMANDS.values(), ids=COMMANDS.keys())
def test_command_as_the_specification_lays_it_out(
    answering: Answering, say: Callable[[ControlQueue], bool], wanted: bytes
) -> None:
    assert say(answering.control) is True
    answering.ack = b"\1"
    assert say(answering.control) is False

    assert answering.commands == [wanted] * 2
    assert answering.kicks == [INDEX] * 2
    assert answering.layouts[0] == ([2, len(wanted) - 2] if len(wanted) > 2 else [2])


def test_command_may_be_cut_anywhere(answering: Answering) -> None:
    for layout in ([], [1], [1, 0, 2], [6]):
        assert answering.control.command(4, 0, b"\1\0", layout=layout)

    assert answering.commands == [b"\4\0\1\0"] * 4
    assert answering.layouts == [[4], [1, 3], [1, 0, 2, 1], [4]]


def test_any_bytes_may_be_said(answering: Answering) -> None:
    assert answering.control.raw(b"\xff", layout=[])

    assert answering.commands == [b"\xff"]


def test_chain_beyond_the_ring_is_the_callers_mistake(answering: Answering) -> None:
    with pytest.raises(ValueError, match="9 segments"):
        answering.control.command(0, 0, bytes(8), layout=[1] * 7)
    assert answering.control.set_pairs(1)


def test_answer_may_take_its_time_but_not_for_ever(answering: Answering) -> None:
    answering.late = 3  # two calls for nothing, and then none
    with pytest.raises(TimeoutError, match="control ring 6"):
        answering.control.set_pairs(1)
    assert answering.late == 0


@pytest.mark.parametrize("ack", [b"\2", b"\xff"])
def test_ack_that_is_none_is_the_back_ends_mistake(answering: Answering, ack: bytes) -> None:
    answering.ack = ack
    with pytest.raises(PeerError, match="neither 0"):
        answering.control.set_pairs(1)


def test_ack_of_no_bytes_is_the_back_ends_mistake(answering: Answering) -> None:
    answering.written = 0
    with pytest.raises(PeerError, match="0 bytes written"):
        answering.control.set_pairs(1)
