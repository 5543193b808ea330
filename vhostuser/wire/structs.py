"""The layout of each payload in bytes: the only file that knows construct. No Container leaves it.

All numbers are in the host's byte order and never swapped: it is a local socket. Padding is written as zeros
(uninitialised bytes sent to a peer were CVE-2018-1118) and ignored when read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Final

from construct import (
    Array,
    Byte,
    Bytes,
    Construct,
    ConstructError,
    GreedyBytes,
    GreedyRange,
    Int16un,
    Int32un,
    Int64un,
    Padding,
    Struct,
)

from vhostuser.errors import RequestError
from vhostuser.wire import constants as c
from vhostuser.wire import payloads as p


@dataclass(frozen=True, slots=True)
class Header:
    """What stands in front of every message."""

    request: int
    flags: int
    size: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """One payload type: its struct, the sizes it takes, the way from parsed fields to the value and back."""

    struct: Construct
    takes: Callable[[int], bool]
    size_text: str
    to_value: Callable[[Any], p.Payload]
    to_fields: Callable[[Any], dict[str, Any]]


def _fields_of(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _value_of(kind: Callable[..., Any], parsed: Any) -> Any:
    return kind(**{name: member for name, member in parsed.items() if not name.startswith("_")})


def _layout(
    struct: Construct,
    takes: Callable[[int], bool],
    size_text: str,
    to_value: Callable[[Any], p.Payload],
    to_fields: Callable[[Any], dict[str, Any]] = _fields_of,
) -> _Layout:
    """Not compiled: that took 30 ms at import, more than parsing a whole connection's messages does."""
    return _Layout(struct, takes, size_text, to_value, to_fields)


def _flat(kind: type[p.Payload], *members: Construct) -> _Layout:
    """A struct of fixed size whose members are the fields of ``kind``, one for one."""
    struct = Struct(*members)
    size = struct.sizeof()
    return _layout(struct, size.__eq__, f"{size}", partial(_value_of, kind))


_HEADER = Struct("request" / Int32un, "flags" / Int32un, "size" / Int32un).compile()

_U64 = Struct("value" / Int64un)
_REGION = Struct("gpa" / Int64un, "size" / Int64un, "uva" / Int64un, "mmap_offset" / Int64un)
_MEM_TABLE_HEAD = 8
_REGION_SIZE: Final[int] = _REGION.sizeof()
_CONFIG_HEAD = 12
_INFLIGHT = (
    "mmap_size" / Int64un,
    "mmap_offset" / Int64un,
    "num_queues" / Int16un,
    "queue_size" / Int16un,
)
_INFLIGHT_SIZES = (20, 24)


def _parse_mem_table(parsed: Any) -> p.MemTable:
    expected = parsed.nregions
    if expected != len(parsed.regions):
        raise RequestError(f"the table announces {expected} regions, the payload holds {len(parsed.regions)}")
    return p.MemTable(tuple(_value_of(p.MemoryRegion, region) for region in parsed.regions))


def _build_mem_table(table: p.MemTable) -> dict[str, Any]:
    return {"nregions": len(table.regions), "regions": [_fields_of(region) for region in table.regions]}


def _split_index(word: int) -> tuple[int, bool]:
    """Ring index and has_fd of the word that kick, call, err and host notifier messages share."""
    if word & ~(c.VRING_INDEX_MASK | c.VRING_NOFD):
        raise RequestError(f"ring word {word:#x} has bits above the NOFD bit set")
    return word & c.VRING_INDEX_MASK, not word & c.VRING_NOFD


def _join_index(index: int, has_fd: bool) -> int:
    return index | (0 if has_fd else c.VRING_NOFD)


def _parse_vring_fd(parsed: Any) -> p.VringFd:
    index, has_fd = _split_index(parsed.value)
    return p.VringFd(index, has_fd)


def _parse_vring_area(parsed: Any) -> p.VringArea:
    index, has_fd = _split_index(parsed.word)
    return p.VringArea(index, parsed.size, parsed.offset, has_fd)


_LAYOUTS: Final[dict[type[p.Payload], _Layout]] = {
    p.Empty: _flat(p.Empty),
    p.U64: _flat(p.U64, "value" / Int64un),
    p.VringState: _flat(p.VringState, "index" / Int32un, "num" / Int32un),
    p.VringAddr: _flat(
        p.VringAddr,
        "index" / Int32un,
        "flags" / Int32un,
        "desc" / Int64un,
        "used" / Int64un,
        "avail" / Int64un,
        "log" / Int64un,
    ),
    p.VringFd: _layout(
        _U64,
        (8).__eq__,
        "8",
        _parse_vring_fd,
        lambda vring: {"value": _join_index(vring.index, vring.has_fd)},
    ),
    p.MemTable: _layout(
        Struct("nregions" / Int32un, Padding(4), "regions" / GreedyRange(_REGION)),
        lambda size: size >= _MEM_TABLE_HEAD and (size - _MEM_TABLE_HEAD) % _REGION_SIZE == 0,
        "8 and 32 for each region",
        _parse_mem_table,
        _build_mem_table,
    ),
    p.SingleRegion: _layout(
        Struct(Padding(8), "region" / _REGION),
        (40).__eq__,
        "40",
        lambda parsed: p.SingleRegion(_value_of(p.MemoryRegion, parsed.region)),
        lambda single: {"region": _fields_of(single.region)},
    ),
    p.Log: _flat(p.Log, "size" / Int64un, "offset" / Int64un),
    p.Iotlb: _flat(
        p.Iotlb,
        "iova" / Int64un,
        "size" / Int64un,
        "uva" / Int64un,
        "perm" / Byte,
        "type" / Byte,
        Padding(6),
    ),
    p.Config: _layout(
        Struct("offset" / Int32un, "size" / Int32un, "flags" / Int32un, "data" / GreedyBytes),
        _CONFIG_HEAD.__le__,
        "12 or more",
        partial(_value_of, p.Config),
    ),
    p.Rarp: _flat(p.Rarp, "mac" / Bytes(6), Padding(2)),
    p.VringArea: _layout(
        Struct("word" / Int64un, "size" / Int64un, "offset" / Int64un),
        (24).__eq__,
        "24",
        _parse_vring_area,
        lambda area: {"word": _join_index(area.index, area.has_fd), "size": area.size, "offset": area.offset},
    ),
    p.Inflight: _layout(
        Struct(*_INFLIGHT, "tail" / GreedyBytes),
        _INFLIGHT_SIZES.__contains__,
        "24 or 20",
        lambda parsed: p.Inflight(
            parsed.mmap_size, parsed.mmap_offset, parsed.num_queues, parsed.queue_size, bool(parsed.tail)
        ),
        lambda inflight: _fields_of(inflight) | {"tail": bytes(4 if inflight.padded else 0)},
    ),
    p.SharedObject: _flat(p.SharedObject, "uuid" / Bytes(c.UUID_SIZE)),
    p.TransferState: _flat(p.TransferState, "direction" / Int32un, "phase" / Int32un),
    p.Mmap: _flat(
        p.Mmap,
        "shmid" / Byte,
        Padding(7),
        "fd_offset" / Int64un,
        "shm_offset" / Int64un,
        "length" / Int64un,
        "flags" / Int64un,
    ),
    p.ShmemConfig: _layout(
        Struct("nregions" / Int32un, Padding(4), "sizes" / Array(c.SHMEM_REGIONS, Int64un)),
        (8 + 8 * c.SHMEM_REGIONS).__eq__,
        "2056",
        lambda parsed: p.ShmemConfig(parsed.nregions, tuple(parsed.sizes)),
    ),
    p.Opaque: _layout(
        Struct("content" / GreedyBytes),
        lambda size: True,
        "any",
        partial(_value_of, p.Opaque),
    ),
}


def parse_header(head: bytes) -> Header:
    """The header in exactly `constants.HEADER_SIZE` bytes; any content parses."""
    parsed = _HEADER.parse(head)
    return Header(parsed.request, parsed.flags, parsed.size)


def build_header(request: int, flags: int, size: int) -> bytes:
    built: bytes = _HEADER.build({"request": request, "flags": flags, "size": size})
    return built


def parse_payload(kinds: Sequence[type[p.Payload]], content: bytes) -> p.Payload:
    """``content`` as the first of ``kinds`` whose size it has. Raises RequestError when none fits."""
    for kind in kinds:
        layout = _LAYOUTS[kind]
        if layout.takes(len(content)):
            return layout.to_value(layout.struct.parse(content))
    expected = " or ".join(_LAYOUTS[kind].size_text for kind in kinds)
    raise RequestError(f"payload of {len(content)} bytes, expected {expected}")


def build_payload(payload: p.Payload) -> bytes:
    """The bytes of a payload. A value that does not fit its field is our caller's mistake: ValueError."""
    layout = _LAYOUTS[type(payload)]
    try:
        built: bytes = layout.struct.build(layout.to_fields(payload))
    except ConstructError as error:
        raise ValueError(f"{payload} does not fit its layout: {error}") from error
    return built
