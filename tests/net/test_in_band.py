from __future__ import annotations

import os

import pytest

from tests.net.fakes import FakeChannel
from vhostuser.errors import RequestError
from vhostuser.net.in_band import InBand, own_eventfd
from vhostuser.wire.constants import BackendRequest
from vhostuser.wire.features import ProtocolFeature
from vhostuser.wire.payloads import VringState

CALL, ERR = BackendRequest.VRING_CALL, BackendRequest.VRING_ERR


def channel() -> FakeChannel:
    return FakeChannel(-1, ProtocolFeature(0), lambda: None)


def test_outlet_sends_its_request_until_it_is_withdrawn() -> None:
    in_band, way = InBand(), channel()
    in_band.use(way)
    call, err = in_band.outlet(3, CALL), in_band.outlet(3, ERR)
    assert way.forwards == {call.fd: (CALL, VringState(3, 0)), err.fd: (ERR, VringState(3, 0))}
    in_band.withdraw(3, CALL)
    in_band.withdraw(3, CALL)
    in_band.withdraw(4, ERR)
    assert way.forwards == {err.fd: (ERR, VringState(3, 0))}
    in_band.withdraw_all()
    assert way.forwards == {}
    call.close()
    err.close()


def test_outlets_go_on_with_the_next_channel() -> None:
    in_band, first, second = InBand(), channel(), channel()
    outlet = in_band.outlet(0, CALL)
    in_band.use(first)
    in_band.use(None)
    in_band.use(second)
    assert first.forwards == second.forwards == {outlet.fd: (CALL, VringState(0, 0))}
    in_band.withdraw_all()
    assert second.forwards == {}
    outlet.close()


def test_no_fd_left_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "eventfd", full)
    with pytest.raises(RequestError, match="in-band notifications: Too many open files"):
        own_eventfd()
