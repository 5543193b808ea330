"""Port specs: which port a text names, and what is said when it names none."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from vhostuser.errors import UsageError
from vhostuser.ports import base
from vhostuser.ports.base import ALL_OFFLOADS, parse_port, port_type
from vhostuser.ports.echo import EchoPort
from vhostuser.ports.packet import PacketPort
from vhostuser.ports.sink import SinkPort
from vhostuser.ports.source import SourcePort
from vhostuser.ports.switch import SwitchPort
from vhostuser.ports.tap import TapPort
from vhostuser.wire.features import feature_names


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("echo", EchoPort),
        ("packet:eth1", PacketPort),
        ("sink", SinkPort),
        ("source", SourcePort),
        ("source:size=60", SourcePort),
        ("switch:lan", SwitchPort),
        ("tap:x", TapPort),
    ],
)
def test_a_spec_names_a_port(spec: str, kind: type[object]) -> None:
    port = parse_port(spec)
    assert type(port) is kind
    assert port.kind == spec.partition(":")[0]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("ecko", "there is no port type 'ecko' (did you mean 'echo'?)"),
        ("TAP:x", "there is no port type 'TAP' (did you mean 'tap'?)"),
        ("xyz", "there is no port type 'xyz': it may be echo, packet, sink, source, switch, tap"),
        ("", "there is no port type '': it may be echo, packet, sink, source, switch, tap"),
        (":x", "there is no port type '': it may be echo, packet, sink, source, switch, tap"),
    ],
)
def test_a_spec_that_names_none(spec: str, sentence: str) -> None:
    with pytest.raises(UsageError) as failure:
        parse_port(spec)
    assert str(failure.value) == sentence


def test_the_built_in_ports_are_the_registered_ones() -> None:
    project = tomllib.loads((Path(base.__file__).parents[2] / "pyproject.toml").read_text())["project"]
    registered = project["entry-points"][base.ENTRY_POINT_GROUP]
    for kind, target in registered.items():
        module, _, name = target.partition(":")
        assert (port_type(kind).__module__, port_type(kind).__name__) == (module, name)
    assert sorted(registered) == list(base.built_in_kinds())


def test_a_plug_in_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = EntryPoints([EntryPoint("loop", "vhostuser.ports.echo:EchoPort", base.ENTRY_POINT_GROUP)])
    monkeypatch.setattr("importlib.metadata.entry_points", lambda *, group: installed.select(group=group))
    assert type(parse_port("loop")) is EchoPort
    with pytest.raises(UsageError, match=r"did you mean 'loop'\?"):
        parse_port("lopp")


def test_a_built_in_port_needs_no_search_of_what_is_installed() -> None:
    program = (
        "import sys; from vhostuser.ports.base import parse_port; parse_port('echo'); print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert "importlib.metadata" not in loaded.split()
    assert "vhostuser.ports.tap" not in loaded.split()


def test_what_may_be_offered_is_checksums_and_segmentation() -> None:
    assert feature_names(ALL_OFFLOADS) == [
        *("CSUM", "GUEST_CSUM", "GSO", "GUEST_TSO4", "GUEST_TSO6", "GUEST_ECN", "GUEST_UFO"),
        *("HOST_TSO4", "HOST_TSO6", "HOST_ECN", "HOST_UFO", "GUEST_USO4", "GUEST_USO6", "HOST_USO"),
    ]
