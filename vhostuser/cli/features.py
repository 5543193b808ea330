"""`vhostuser features`: what is offered with each kind of port, and which requests are served.

Read out of the tables that the server itself goes by, so the list cannot be wrong about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from vhostuser.datapath.port_ops import PortCaps
    from vhostuser.wire.features import ProtocolFeature, VirtioFeature
    from vhostuser.wire.requests import RequestRow


Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""Title, head, rows."""

_MARKDOWN_HEAD = """\
# What is offered, and what is served

Made by `vhostuser features --markdown` out of the tables that the server goes by; a test compares the two. A
bit marked `uso`, `config-space` or `postcopy` is offered with that option only. Replies: `own` has a payload
of the request's own, `ack` a u64 where one is asked for, `always u64` one in any case. A request that is not
served is refused by name. What says no concerns other kinds of devices, or is not there yet.
"""


class Offer(StrEnum):
    """When a bit is offered."""

    ALWAYS = "yes"
    USO = "uso"
    CONFIG_SPACE = "config-space"
    POSTCOPY = "postcopy"
    NEVER = "no"


@dataclass(frozen=True, slots=True)
class FeatureLine:
    bit: int
    name: str
    ports: dict[str, Offer]
    """Kind of port -> when the bit is offered with it."""


@dataclass(frozen=True, slots=True)
class RequestLine:
    number: int
    name: str
    reply: str
    """own: an answer of its own. ack: an acknowledgement where one is asked for."""
    needs: list[str]
    served: bool
    """Of the back-end's own: sent."""


@dataclass(frozen=True, slots=True)
class Listing:
    virtio: list[FeatureLine]
    protocol: list[FeatureLine]
    requests: list[RequestLine]
    backend_requests: list[RequestLine]


@click.command("features")
@click.option("--json", "form", flag_value="json", help="Print JSON instead of tables.")
@click.option("--markdown", "form", flag_value="markdown", help="Print the tables as Markdown.")
def features(form: str | None) -> None:
    """List the features offered with each kind of port, and which requests are served.

    A bit marked `uso`, `config-space` or `postcopy` is offered with that option only. Nothing here depends on
    the machine: the offer has to be the same after a restart.
    """
    listing = make_listing()
    if form == "json":
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(asdict(listing)), indent=2).decode())
        return
    if form == "markdown":
        click.echo(make_document(listing), nl=False)
        return
    for title, head, rows in _tables(listing):
        click.echo(_table(title, head, rows))


def make_document(listing: Listing) -> str:
    """`vhostuser/PROTOCOL.md`."""
    parts = [_MARKDOWN_HEAD]
    for title, head, rows in _tables(listing):
        lines = [head, ["---"] * len(head), *rows]
        parts += [f"\n## {title}\n\n", *(f"| {' | '.join(line)} |\n" for line in lines)]
    return "".join(parts)


def make_listing() -> Listing:
    """All that `features` prints."""
    from vhostuser.net.offer import protocol_offer
    from vhostuser.wire.features import ProtocolFeature, VirtioFeature
    from vhostuser.wire.requests import BACKEND_REQUESTS, FRONTEND_REQUESTS

    no_protocol = ProtocolFeature(0)
    return Listing(
        _feature_lines(VirtioFeature, _virtio_offer),
        _feature_lines(
            ProtocolFeature,
            lambda kind, offer: protocol_offer(
                disabled=no_protocol,
                config_space=offer is Offer.CONFIG_SPACE,
                postcopy=offer is Offer.POSTCOPY and _caps(kind).postcopy,
            ),
        ),
        _request_lines(FRONTEND_REQUESTS),
        _request_lines(BACKEND_REQUESTS),
    )


def _caps(kind: str) -> PortCaps:
    from vhostuser.ports.base import parse_port

    # Some have to have a name; what they may offer does not hang on it.
    return parse_port(f"{kind}:any" if kind in ("packet", "switch", "tap") else kind).caps


def _virtio_offer(kind: str, offer: Offer) -> VirtioFeature:
    """With the option that ``offer`` is named after."""
    from vhostuser.net.offer import protocol_offer, virtio_offer
    from vhostuser.wire.features import ProtocolFeature, VirtioFeature

    config_space = offer is Offer.CONFIG_SPACE
    bits = virtio_offer(
        _caps(kind),
        disabled=VirtioFeature(0),
        protocol=protocol_offer(disabled=ProtocolFeature(0), config_space=config_space),
        uso=offer is Offer.USO,
        config_space=config_space,
        has_mtu=True,
        has_mac=config_space,
    )
    return bits | VirtioFeature.PROTOCOL_FEATURES


def _feature_lines(
    bits: type[VirtioFeature] | type[ProtocolFeature],
    bits_of: Callable[[str, Offer], VirtioFeature | ProtocolFeature],
) -> list[FeatureLine]:
    from vhostuser.ports.base import built_in_kinds

    lines = []
    for bit in bits:
        ports = {}
        for kind in built_in_kinds():
            ports[kind] = next(
                (offer for offer in Offer if offer is not Offer.NEVER and bits_of(kind, offer) & bit),
                Offer.NEVER,
            )
        lines.append(FeatureLine(bit.bit_length() - 1, bit.name or "", ports))
    return lines


def _request_lines(rows: Mapping[int, RequestRow]) -> list[RequestLine]:
    from vhostuser.wire.features import feature_names

    lines = []
    for number, row in rows.items():
        gate = row.gate
        needs = [f"PROTOCOL_F_{name}" for name in feature_names(gate.protocol)]
        needs += feature_names(gate.offered | gate.acked)
        reply = row.reply.name.lower().replace("_", " ")
        lines.append(RequestLine(number, row.name, reply, needs, bool(row.handler) or row.is_sent))
    return lines


def _tables(listing: Listing) -> list[Table]:
    return [
        _feature_table("Virtio features", listing.virtio),
        _feature_table("Protocol features", listing.protocol),
        _request_table("Requests of the front-end", "served", listing.requests),
        _request_table("Requests of the back-end", "sent", listing.backend_requests),
    ]


def _feature_table(title: str, lines: Sequence[FeatureLine]) -> Table:
    kinds = list(lines[0].ports)
    rows = [[str(line.bit), line.name, *(line.ports[kind] for kind in kinds)] for line in lines]
    return title, ["bit", "name", *kinds], rows


def _request_table(title: str, verb: str, lines: Iterable[RequestLine]) -> Table:
    rows = [
        [str(line.number), line.name, "yes" if line.served else "no", line.reply, ", ".join(line.needs)]
        for line in lines
    ]
    return title, ["no.", "name", verb, "reply", "needs"], rows


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]
    return "\n".join([title, "", *lines, ""])
