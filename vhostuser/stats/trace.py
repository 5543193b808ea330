"""The trace of the control sockets: what was said and what came of it, as one line of JSON each.

Pure: objects and times in, lines out. Who writes them, and where to, is `server.trace_file`'s matter.

Every line has ``time`` (UTC), ``device`` and ``event``. Addresses, feature words and numbers that readers of
JSON would round are text in hex; other numbers are numbers, bytes are hex.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from vhostuser.errors import FrontendError
from vhostuser.session.states import INITIAL, RingState
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature, VirtioFeature, feature_names
from vhostuser.wire.messages import U64, Malformed, Message, Payload, Reply
from vhostuser.wire.requests import FRONTEND_REQUESTS, ReplyKind

_ADDRESSES: Final = frozenset({"gpa", "uva", "iova", "desc", "used", "avail", "log"})
_ROUNDED: Final = 1 << 53
"""From here on a double does not hold every integer."""
_MOST_BYTES: Final = 256
"""Of one field: what is longer is never served, and only its beginning is of interest."""
_WORDS: Final[Mapping[Request, type[VirtioFeature] | type[ProtocolFeature]]] = {
    Request.GET_FEATURES: VirtioFeature,
    Request.SET_FEATURES: VirtioFeature,
    Request.GET_PROTOCOL_FEATURES: ProtocolFeature,
    Request.SET_PROTOCOL_FEATURES: ProtocolFeature,
}


class Direction(StrEnum):
    """Who asks."""

    FRONT_END = "front-end to back-end"
    BACK_END = "back-end to front-end"
    """On the socket that SET_BACKEND_REQ_FD brought."""


def message_line(
    at_ns: int,
    device: str,
    direction: Direction,
    message: Message,
    fds: int,
    reply: Reply | None,
    refusal: FrontendError | None,
    took_ns: int,
) -> str:
    """One request with its fate. ``at_ns``: since the epoch, when it was there whole; ``fds``: how many came
    with it.

    ``reply`` is "ack" or "nack" for an acknowledgement, otherwise what the answer carries; left out where
    nothing was sent.
    """
    words: dict[str, Any] = {"direction": direction.value, "request": message.name}
    if isinstance(message.payload, Malformed):
        words["malformed"] = message.payload.reason
    else:
        words["payload"] = _payload(message, message.payload)
    words["fds"] = fds
    words["need_reply"] = message.need_reply
    if reply is not None:
        words["reply"] = _reply(message, reply)
    if refusal is not None:
        words["refused"] = str(refusal)
    words["us"] = took_ns // 1000
    return _line(at_ns, device, "message", words)


def ring_lines(
    at_ns: int, device: str, before: Mapping[int, RingState], after: Mapping[int, RingState]
) -> list[str]:
    """Each ring whose state changed; one that is in neither never left its first state."""
    changes = (
        (index, before.get(index, INITIAL), after.get(index, INITIAL))
        for index in sorted(before.keys() | after.keys())
    )
    return [
        _line(at_ns, device, "ring", {"ring": index, "was": old.value, "is": new.value})
        for index, old, new in changes
        if old is not new
    ]


def report_line(at_ns: int, device: str, text: str) -> str:
    """What the packet side reports: a ring that runs or broke, memory that is gone."""
    return _line(at_ns, device, "report", {"text": text})


def begin_line(at_ns: int, device: str, peer: str) -> str:
    return _line(at_ns, device, "begin", {"peer": peer})


def end_line(at_ns: int, device: str, reason: str) -> str:
    """``reason`` is "" for a clean end."""
    return _line(at_ns, device, "end", {"reason": reason})


def lost_line(at_ns: int, count: int) -> str:
    """In place of ``count`` lines that could not be written as fast as they came."""
    return _line(at_ns, "", "lost", {"lines": count})


def _line(at_ns: int, device: str, event: str, words: dict[str, Any]) -> str:
    seconds, rest = divmod(at_ns, 10**9)
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    head = {"time": f"{at}.{rest // 1000:06d}Z", "device": device, "event": event}
    return msgspec.json.encode(head | words).decode()


def _reply(message: Message, reply: Reply) -> Any:
    row = FRONTEND_REQUESTS.get(message.request)
    is_told = row is not None and row.reply in (ReplyKind.OWN, ReplyKind.ALWAYS_U64)
    if isinstance(reply.payload, U64) and not is_told:
        return "nack" if reply.payload.value else "ack"
    said = _payload(message, reply.payload)
    return said | {"fds": len(reply.fds)} if reply.fds else said


def _payload(message: Message, payload: Payload) -> dict[str, Any]:
    said: dict[str, Any] = _value("", payload)
    kind = _WORDS.get(message.request) if isinstance(message.request, Request) else None
    if kind is not None and isinstance(payload, U64):
        said = {"value": hex(payload.value), "names": feature_names(kind(payload.value))}
    return said


def _value(name: str, value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _value(field.name, getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_value(name, member) for member in value]
    if isinstance(value, bytes):
        return value[:_MOST_BYTES].hex() + ("..." if len(value) > _MOST_BYTES else "")
    if isinstance(value, int) and not isinstance(value, bool):
        return hex(value) if name in _ADDRESSES or value >= _ROUNDED else value
    return value
