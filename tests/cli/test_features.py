"""`vhostuser features` says what the server does."""

from __future__ import annotations

import json
import re
from pathlib import Path

from click.testing import CliRunner

from vhostuser.cli.features import Offer, make_listing
from vhostuser.cli.main import vhostuser
from vhostuser.ports.base import built_in_kinds
from vhostuser.wire.requests import BACKEND_REQUESTS, FRONTEND_REQUESTS

DOCUMENT = Path(__file__).resolve().parents[2] / "vhostuser" / "PROTOCOL.md"


def test_every_request_is_listed_and_the_served_ones_are_marked() -> None:
    requests = make_listing().requests
    assert [line.number for line in requests] == list(range(1, 46))
    served = {number for number, row in FRONTEND_REQUESTS.items() if row.handler}
    assert {line.number for line in requests if line.served} == served
    assert served >= {1, 2, 3, 5, *range(8, 22), 24, 25, 34}


def test_every_request_of_the_back_end_is_listed_and_those_that_it_sends_are_marked() -> None:
    requests = make_listing().backend_requests
    assert [line.number for line in requests] == list(range(1, 11))
    package = DOCUMENT.parent
    text = "".join(path.read_text() for path in sorted((package / "net").glob("*.py")))
    sent = set(re.findall(r"BackendRequest\.([A-Z_]+)", text))
    assert {line.name for line in requests if line.served} == sent
    assert sent == {"IOTLB_MSG", "CONFIG_CHANGE_MSG", "VRING_CALL", "VRING_ERR"}


def test_the_marks_of_an_offer() -> None:
    virtio = {line.name: line for line in make_listing().virtio}
    for kind in built_in_kinds():
        assert virtio["MRG_RXBUF"].ports[kind] is Offer.ALWAYS
        assert virtio["PROTOCOL_FEATURES"].ports[kind] is Offer.ALWAYS
        assert virtio["HOST_USO"].ports[kind] is Offer.USO
        assert virtio["MAC"].ports[kind] is Offer.CONFIG_SPACE
        assert virtio["RSS"].ports[kind] is Offer.NEVER
    protocol = {line.name: line for line in make_listing().protocol}
    assert (protocol["REPLY_ACK"].bit, protocol["REPLY_ACK"].ports["tap"]) == (3, Offer.ALWAYS)
    assert protocol["CONFIG"].ports["tap"] is Offer.CONFIG_SPACE
    assert protocol["PAGEFAULT"].ports["tap"] is Offer.POSTCOPY


def test_json_has_what_the_tables_have() -> None:
    listing = json.loads(CliRunner().invoke(vhostuser, ["features", "--json"]).output)
    assert set(listing) == {"virtio", "protocol", "requests", "backend_requests"}
    assert listing["virtio"][0] == {"bit": 0, "name": "CSUM", "ports": dict.fromkeys(built_in_kinds(), "yes")}
    assert listing["requests"][18] == {
        "number": 19,
        "name": "SEND_RARP",
        "reply": "ack",
        "needs": ["PROTOCOL_F_RARP"],
        "served": True,
    }


def test_the_tables() -> None:
    result = CliRunner().invoke(vhostuser, ["features"])
    assert result.exit_code == 0
    words = [line.split() for line in result.output.splitlines()]
    assert ["54", "GUEST_USO4", *["uso"] * len(built_in_kinds())] in words
    assert ["20", "NET_SET_MTU", "yes", "ack", "PROTOCOL_F_MTU,", "MTU"] in words


def test_protocol_document_is_what_features_prints() -> None:
    printed = CliRunner().invoke(vhostuser, ["features", "--markdown"]).output
    assert DOCUMENT.read_text() == printed, (
        "make it anew: .venv/bin/vhostuser features --markdown > vhostuser/PROTOCOL.md"
    )


def test_protocol_document_has_every_request() -> None:
    lines = [line.strip("| ").split(" | ") for line in DOCUMENT.read_text().splitlines()]
    names = [cells[1] for cells in lines if len(cells) in (4, 5) and cells[0].isdigit()]

    rows = [*FRONTEND_REQUESTS.values(), *BACKEND_REQUESTS.values()]
    assert names == [row.name for row in rows]
