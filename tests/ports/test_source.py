"""The source port: the size of its frames."""

from __future__ import annotations

import pytest

from vhostuser.datapath.port_ops import PortKind, PortOps
from vhostuser.errors import UsageError
from vhostuser.ports.base import parse_port


@pytest.mark.parametrize(("spec", "size"), [("source", 64), ("source:", 64), ("source:size=1514", 1514)])
def test_the_size_of_a_frame(spec: str, size: int) -> None:
    port = parse_port(spec)
    assert port.open(1) == PortOps(PortKind.SOURCE, frame_size=size)
    assert port.caps.max_frame == size


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("source:size=59", "size=59 is out of range: it may be 60 to 9216"),
        ("source:size=9217", "size=9217 is out of range: it may be 60 to 9216"),
        ("source:size=-1", "size=-1 is not a number from 60 to 9216"),
        ("source:sise=64", "port source:sise=64: unknown option 'sise' (did you mean 'size'?)"),
        ("source:64", "port source:64: unknown option '64'; it takes size"),
    ],
)
def test_options_that_are_refused(spec: str, sentence: str) -> None:
    with pytest.raises(UsageError) as failure:
        parse_port(spec)
    assert str(failure.value) == sentence
