from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from vhostuser.wire import payloads as p


@pytest.mark.parametrize("kind", [*get_args(p.Payload), p.MemoryRegion])
def test_payloads_are_frozen_and_slotted(kind: type) -> None:
    assert dataclasses.is_dataclass(kind)
    assert not hasattr(kind, "__dict__") or "__slots__" in vars(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_equal_content_is_equal() -> None:
    assert p.VringFd(3) == p.VringFd(3, has_fd=True)
    assert p.VringFd(3) != p.VringFd(3, has_fd=False)


def test_a_payload_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        p.U64(1).value = 2  # type: ignore[misc]
