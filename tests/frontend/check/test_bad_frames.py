"""Planted faults that the checks of the group have to find."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.frontend.backend_double import HEADER_SIZE, BackendDouble
from tests.frontend.lockstep import Fetched, LockstepDevice, RingDevice
from vhostuser.frontend.check import bad_frames

FindsInDouble = Callable[[str], str]
HEADERS = ["header-unknown-gso", "header-csum-outside", "header-all-ones", "offload-not-negotiated"]


@pytest.mark.parametrize("check", HEADERS)
def test_headers_that_go_back_as_they_came_are_found(
    finds_in_double: FindsInDouble, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deliver(self: BackendDouble, receiver: RingDevice, content: bytes) -> None:
        chain = receiver.fetch()
        assert chain is not None
        due = bytearray(content)
        due[10:HEADER_SIZE] = b"\1\0"
        receiver.push(chain.head, receiver.fill(chain, bytes(due)))
        receiver.publish()

    monkeypatch.setattr(BackendDouble, "_deliver", deliver)
    assert "NetHeader(" in finds_in_double(check)


@pytest.mark.parametrize("check", ["short-chains", "many-short-chains"])
def test_short_chains_that_are_kept_are_found(
    finds_in_double: FindsInDouble, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = LockstepDevice.fetch

    def fetch_long(self: LockstepDevice) -> Fetched | None:
        while (chain := fetch(self)) is not None:
            if chain.writable or sum(length for _, length in chain.readable) > HEADER_SIZE:
                return chain
        return None

    monkeypatch.setattr(LockstepDevice, "fetch", fetch_long)
    assert "still out" in finds_in_double(check)


def test_checks_of_headers_are_known() -> None:
    names = {check.name for check in bad_frames.GROUP.checks}
    assert set(HEADERS) < names
