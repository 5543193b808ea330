"""The sink port is a word to the C core and nothing else."""

from __future__ import annotations

import pytest

from vhostuser.datapath.port_ops import PortKind, PortOps
from vhostuser.errors import UsageError
from vhostuser.ports.base import ALL_OFFLOADS, parse_port
from vhostuser.ports.sink import SinkPort


def test_it_is_emptied_by_the_core() -> None:
    assert SinkPort().open(128) == PortOps(PortKind.SINK)


def test_it_takes_no_options() -> None:
    with pytest.raises(UsageError, match="sink takes no options"):
        parse_port("sink:slow=on")


def test_it_takes_every_offload() -> None:
    assert SinkPort.caps.offloads == ALL_OFFLOADS
