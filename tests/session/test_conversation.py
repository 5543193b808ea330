from __future__ import annotations

from tests.session.fake_device import FakeDevice
from vhostuser.session.conversation import Conversation
from vhostuser.session.states import RingEvent, RingState
from vhostuser.wire.features import ProtocolFeature, VirtioFeature


def test_offer_is_the_devices_and_bit_30() -> None:
    device = FakeDevice(features=VirtioFeature.VERSION_1)
    assert Conversation(device).offer() == VirtioFeature.VERSION_1 | VirtioFeature.PROTOCOL_FEATURES


def test_device_is_told_of_the_rings_that_change_and_of_no_other() -> None:
    device = FakeDevice()
    said = Conversation(device)
    said.step([0, 1], RingEvent.ENABLE)
    device.take_calls()

    said.step([0, 1, 2], RingEvent.ENABLE)

    assert device.take_calls() == [("set_vring_state", 2, RingState.STOPPED_ENABLED)]


def test_what_was_said_is_forgotten_with_the_connection() -> None:
    device = FakeDevice()
    said = Conversation(device)
    said.step([3], RingEvent.START)
    said.features, said.has_features = VirtioFeature.VERSION_1, True
    said.protocol_features, said.status = ProtocolFeature.MQ, 4
    device.take_calls()

    said.forget()

    assert device.take_calls() == [("set_vring_state", 3, RingState.STOPPED_DISABLED), ("reset_device",)]
    assert vars(said) == vars(Conversation(device))
