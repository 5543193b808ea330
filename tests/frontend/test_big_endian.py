"""Words of a big-endian guest, as bytes in memory and as numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.frontend.backend_double import BackendDouble
from vhostuser.errors import PeerError
from vhostuser.frontend.big_endian import BigEndianWords, Words
from vhostuser.frontend.driver import VirtioNetDriver
from vhostuser.frontend.flood import Flood
from vhostuser.frontend.frontend import Frontend
from vhostuser.frontend.guest_memory import GuestMemory
from vhostuser.frontend.orders import Order
from vhostuser.frontend.virtqueue import Segment, SplitVirtqueue


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory(1 << 20) as memory:
        yield memory


def test_words_lie_with_the_highest_byte_first(memory: GuestMemory) -> None:
    at, words = memory.alloc(16), BigEndianWords(memory)
    words.store_u16(at, 0x0102)
    words.store_u32(at + 4, 0x01020304)
    words.store_u64(at + 8, 0x0102030405060708)

    assert memory.read(at, 16).hex(" ", 2) == "0102 0000 0102 0304 0102 0304 0506 0708"
    assert (words.load_u16(at), words.load_u32(at + 4)) == (0x0102, 0x01020304)
    assert words.load_u64(at + 8) == 0x0102030405060708


def test_memory_itself_has_little_endian_words(memory: GuestMemory) -> None:
    at, words = memory.alloc(8), memory
    little: Words = words
    little.store_u16(at, 0x0102)

    assert memory.read(at, 2).hex() == "0201"


def test_every_word_of_a_ring_is_turned(memory: GuestMemory) -> None:
    """Virtio 0.9.5, 2.3: descriptor, available and used rings as a guest of that order has them."""
    queue: SplitVirtqueue[str] = SplitVirtqueue(memory, 4, big_endian=True, event_idx=True)
    queue.add([Segment(0x11223344, 0x55)], [Segment(0x66, 0x77)], "frame")
    queue.publish()
    queue.enable_calls()

    place = queue.place
    assert memory.read(place.desc, 32).hex() == (
        "0000000011223344" + "00000055" + "0001" + "0001" + "0000000000000066" + "00000077" + "0002" + "0000"
    )
    assert memory.read(place.avail, 14).hex() == "0000" + "0001" + "0000" * 4 + "0000"

    memory.write(place.used, bytes.fromhex("0000" + "0001" + "00000000" + "00000077"))
    (used,) = queue.take_used()
    assert (used.head, used.length, used.token) == (0, 0x77, "frame")


def test_back_end_without_the_feature_cannot_be_driven(backend: BackendDouble) -> None:
    with (
        pytest.raises(PeerError, match="lacks CROSS_ENDIAN"),
        VirtioNetDriver.connect(backend.path, big_endian=True),
    ):
        pass


@pytest.mark.parametrize("order", [Order.VIRTIO_USER, Order.CLOUD_HYPERVISOR])
def test_other_front_ends_know_no_such_guests(backend: BackendDouble, order: Order) -> None:
    with Frontend.connect(backend.path) as frontend, pytest.raises(ValueError, match="big-endian"):
        VirtioNetDriver(frontend, big_endian=True, order=order)


def test_driver_in_c_knows_no_such_rings(backend: BackendDouble) -> None:
    with Frontend.connect(backend.path) as frontend, pytest.raises(ValueError, match="big-endian"):
        Flood(frontend, big_endian=True)
