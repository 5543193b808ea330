from __future__ import annotations

import inspect

import pytest

from tests.session.fake_device import FakeDevice
from vhostuser.session.device import Device, Pending


def test_the_fake_device_is_a_device() -> None:
    device: Device = FakeDevice()
    methods = {name for name, _ in inspect.getmembers(Device, inspect.isfunction) if not name.startswith("_")}
    assert all(callable(getattr(device, name)) for name in methods)


def test_the_fake_device_takes_the_arguments_that_the_protocol_names() -> None:
    for name, method in inspect.getmembers(Device, inspect.isfunction):
        if not name.startswith("_"):
            expected = list(inspect.signature(method).parameters)
            assert list(inspect.signature(getattr(FakeDevice, name)).parameters) == expected


def test_each_pending_is_a_promise_of_its_own() -> None:
    assert Pending() != Pending()


def test_a_promise_is_heard_of_once_whoever_comes_first() -> None:
    heard: list[object] = []
    early, late = Pending(), Pending()

    early.resolve(7)
    early.then(heard.append)
    late.then(heard.append)
    late.resolve()

    assert heard == [7, None]


def test_a_promise_is_kept_once() -> None:
    pending = Pending()
    pending.resolve()

    with pytest.raises(AssertionError, match="once"):
        pending.resolve(1)
