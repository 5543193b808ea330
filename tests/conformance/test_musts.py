"""Keeps the table of `musts` true."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.conformance.musts import ABSENT, MUSTS
from vhostuser.net.offer import protocol_offer, virtio_offer
from vhostuser.ports.base import parse_port
from vhostuser.wire.features import ProtocolFeature, VirtioFeature
from vhostuser.wire.requests import BACKEND_REQUESTS, FRONTEND_REQUESTS

HERE = Path(__file__).parent
SERVED = {row.name for row in FRONTEND_REQUESTS.values() if row.handler}
OTHERS = {row.name for row in FRONTEND_REQUESTS.values()} - SERVED


@cache
def names_in(file: Path) -> set[str]:
    body = ast.walk(ast.parse(file.read_text()))
    return {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("name", sorted({test for must in MUSTS for test in must.tests}))
def test_named_test_is_there(name: str) -> None:
    where, _, test = name.partition("::")
    folder = HERE.parent if "/" in where else HERE

    assert test.startswith("test_")
    assert test in names_in(folder / where)


def test_every_demand_has_a_test() -> None:
    assert [must for must in MUSTS if not must.tests] == []


def test_every_request_that_is_served_has_its_demands() -> None:
    assert SERVED - {must.section for must in MUSTS} == set(), (
        "served without a row in MUSTS (tests/conformance/musts.py): name the tests that hold its demands"
    )


def test_what_is_absent_is_what_is_not_served() -> None:
    assert {absent.section for absent in ABSENT} == OTHERS, (
        "a request that came to be served moves from ABSENT to MUSTS (tests/conformance/musts.py)"
    )


def test_bits_of_what_is_absent_are_not_offered() -> None:
    protocol = protocol_offer(disabled=ProtocolFeature(0), config_space=True)
    virtio = virtio_offer(
        parse_port("echo").caps,
        disabled=VirtioFeature(0),
        protocol=protocol,
        uso=True,
        config_space=True,
        has_mac=True,
        has_mtu=True,
    )
    offered = {
        absent.section
        for absent in ABSENT
        if absent.bit is not None
        and absent.bit & (protocol if isinstance(absent.bit, ProtocolFeature) else virtio)
    }

    assert offered == set()


def test_no_section_is_misspelt() -> None:
    """A name in capitals is that of a request, or of a feature with a section of its own."""
    capitals = {must.section for must in MUSTS if must.section.isupper()}

    of_backend = {row.name for row in BACKEND_REQUESTS.values()}
    assert capitals - SERVED - of_backend == {"VHOST_USER_PROTOCOL_F_REPLY_ACK"}
