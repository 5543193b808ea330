from __future__ import annotations

import inspect

from tests.net.fakes import FakeChannel
from vhostuser.net.back_channel import BackChannel
from vhostuser.server.back_channel import SocketBackChannel


def test_both_channels_take_what_the_protocol_names() -> None:
    for name, method in inspect.getmembers(BackChannel, inspect.isfunction):
        if not name.startswith("_"):
            expected = list(inspect.signature(method).parameters)
            for kind in (FakeChannel, SocketBackChannel):
                assert list(inspect.signature(getattr(kind, name)).parameters) == expected
