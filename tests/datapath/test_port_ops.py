"""What net and ports share is plain, immutable data."""

from __future__ import annotations

import dataclasses

import pytest

from vhostuser.datapath.port_ops import PortCaps, PortKind, PortOps
from vhostuser.wire.features import VirtioFeature


def test_ops_of_a_port_without_fds() -> None:
    assert PortOps(PortKind.SINK) == PortOps(PortKind.SINK, fds=(), frame_size=0)


def test_what_was_offered_cannot_change() -> None:
    caps = PortCaps(VirtioFeature.CSUM, queues=1, max_frame=1514)
    with pytest.raises(dataclasses.FrozenInstanceError):
        caps.offloads = VirtioFeature(0)  # type: ignore[misc]
