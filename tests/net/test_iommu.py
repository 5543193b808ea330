from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.net.device_rig import SIZE, Rig
from vhostuser.datapath.worker import EventKind, WorkerEvent
from vhostuser.errors import RequestError
from vhostuser.wire.constants import BackendRequest
from vhostuser.wire.features import VirtioFeature as V
from vhostuser.wire.payloads import Iotlb, VringAddr

PAGE = 4096
IOVA = 0x7700_0000_0000
READ, BOTH = 1, 3


class Platform(Rig):
    """A ring whose page of guest memory is at I/O address IOVA."""

    def start_ring(self) -> None:
        place = self.virtqueue(1).place
        self.page = place.desc & -PAGE
        assert place.used + 6 + 8 * SIZE <= self.page + PAGE
        self.device.set_features(V.VERSION_1 | V.ACCESS_PLATFORM)
        self.items(1)["memory"]()
        self.device.set_vring_num(1, SIZE)
        desc, used, avail = (IOVA + part - self.page for part in (place.desc, place.used, place.avail))
        self.device.set_vring_addr(VringAddr(1, 0, desc, used, avail, 0))
        self.items(1)["kick"]()
        self.follow()

    def follow(self) -> list[WorkerEvent]:
        """Turns the worker and tells the device what it reports."""
        seen = []
        while events := self.settle():
            seen += events
            for event in events:
                self.device.on_event(event)
        return seen

    def tell(self) -> None:
        self.device.iotlb_update(IOVA, IOVA + PAGE - 1, self.memory.user_address(self.page), BOTH)


@pytest.fixture
def platform() -> Iterator[Platform]:
    platform = Platform()
    yield platform
    platform.close()


def test_miss_goes_out_on_the_channel_and_the_update_starts_the_ring(platform: Platform) -> None:
    platform.device.set_backend_req_fd(10)
    platform.start_ring()
    (channel,) = platform.channels
    ((request, payload, _),) = channel.asked

    assert (request, payload) == (BackendRequest.IOTLB_MSG, Iotlb(IOVA, 0, 0, READ, 1))
    platform.tell()
    assert EventKind.RING_STARTED in [event.kind for event in platform.follow()]
    assert len(channel.asked) == 1


def test_without_a_channel_the_ring_waits_says_so_and_the_next_channel_is_asked(platform: Platform) -> None:
    platform.start_ring()
    (reason,) = platform.device.idle_reasons().values()
    assert reason == (
        f"it waits for a translation of I/O address {IOVA:#x} to read, and has no channel to ask for it"
    )
    platform.device.set_backend_req_fd(10)
    assert len(platform.channels[0].asked) == 1
    assert platform.device.idle_reasons() == {
        1: f"it waits for a translation of I/O address {IOVA:#x} to read"
    }
    platform.device.set_backend_req_fd(11)
    assert len(platform.channels[1].asked) == 1
    platform.tell()
    platform.follow()
    assert platform.device.idle_reasons() == {}


def test_lost_channel_is_forgotten_and_nothing_else(platform: Platform) -> None:
    platform.device.set_backend_req_fd(10)
    platform.channels[0].on_lost()
    platform.start_ring()
    assert platform.channels[0].asked == []
    platform.tell()
    assert EventKind.RING_STARTED in [event.kind for event in platform.follow()]


def test_no_breaks_the_ring_and_yes_waits_for_the_update(platform: Platform) -> None:
    platform.device.set_backend_req_fd(10)
    platform.start_ring()
    then = platform.channels[0].asked[0][2]
    then(True)
    assert platform.follow() == []
    then(False)
    (broken,) = platform.follow()

    assert (broken.kind, broken.ring) == (EventKind.RING_BROKEN, 1)


def test_misses_whose_event_was_lost_are_asked_for(platform: Platform) -> None:
    platform.device.set_backend_req_fd(10)
    platform.start_ring()
    platform.device.iotlb_invalidate(0, (1 << 64) - 1)
    platform.tell()
    platform.settle()  # the events are dropped
    platform.device.iotlb_invalidate(0, (1 << 64) - 1)
    kick = platform.device._rings[1].kick
    assert kick is not None
    os.eventfd_write(kick.fd, 1)
    platform.settle()
    before = len(platform.channels[0].asked)
    platform.device.look_again()
    assert len(platform.channels[0].asked) == before + 1


def test_ring_outlives_a_new_memory_table_and_is_asked_for_anew(platform: Platform) -> None:
    platform.device.set_backend_req_fd(10)
    platform.start_ring()
    platform.tell()
    platform.follow()
    platform.say_memory()
    platform.device.set_vring_kick(1, os.eventfd(0))
    platform.follow()
    assert len(platform.channels[0].asked) == 2
    platform.tell()
    platform.follow()
    assert platform.device.idle_reasons() == {}
    assert platform.stop(1) == 0


def test_update_outside_of_memory_is_refused(platform: Platform) -> None:
    with pytest.raises(RequestError, match="not within one memory region"):
        platform.device.iotlb_update(IOVA, IOVA + PAGE - 1, 0x1000, BOTH)


def test_ring_can_be_stopped_while_it_waits_and_is_not_asked_for_then(platform: Platform) -> None:
    platform.start_ring()
    assert platform.stop(1) == 0
    platform.device.set_backend_req_fd(10)
    assert platform.channels[0].asked == []
