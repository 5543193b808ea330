from __future__ import annotations

import pytest

from tests.vectors import load_payloads
from vhostuser.errors import RequestError
from vhostuser.wire import payloads as p
from vhostuser.wire import structs

_LOW = p.MemoryRegion(0, 0xC0000000, 0x7F1000000000, 0)
_HIGH = p.MemoryRegion(0x100000000, 0x40000000, 0x7F10C0000000, 0xC0000000)

GOLDEN: dict[str, p.Payload] = {
    "U64": p.U64(0x1122334455667788),
    "VringState": p.VringState(0x01020304, 0x05060708),
    "VringAddr": p.VringAddr(
        index=0x01020304,
        flags=1,
        desc=0x7F0011223344550,
        used=0x7F0066778899AA0,
        avail=0x7F00BBCCDDEEFF0,
        log=0x1234567890,
    ),
    "VringFd": p.VringFd(0xFE),
    "VringFd-nofd": p.VringFd(0xFE, has_fd=False),
    "MemTable": p.MemTable((_LOW, _HIGH)),
    "SingleRegion": p.SingleRegion(_HIGH),
    "Log": p.Log(0x20000, 0x1000),
    "Iotlb": p.Iotlb(0xFEE00000, 0x1000, 0x7F1000001000, 3, 2),
    "Config": p.Config(6, 6, 1, bytes.fromhex("525400123456")),
    "Rarp": p.Rarp(bytes.fromhex("525400123456")),
    "VringArea": p.VringArea(3, 0x1000, 0x2000, has_fd=False),
    "Inflight": p.Inflight(0x4200, 0x1000, 2, 256),
    "Inflight-i386": p.Inflight(0x4200, 0x1000, 2, 256, padded=False),
    "SharedObject": p.SharedObject(bytes(range(16))),
    "TransferState": p.TransferState(1, 0),
    "Mmap": p.Mmap(7, 0x1000, 0x2000, 0x3000, 1),
}
"""The values that vectors/payloads.c writes, as they are here."""


@pytest.mark.parametrize(("name", "content"), load_payloads().items())
def test_payload_is_laid_out_as_c_does_it(name: str, content: bytes) -> None:
    value = GOLDEN[name]
    assert structs.parse_payload([type(value)], content) == value
    assert structs.build_payload(value) == content


def test_every_golden_value_has_its_bytes() -> None:
    assert load_payloads().keys() == GOLDEN.keys()


@pytest.mark.parametrize(
    "value",
    [
        p.Empty(),
        p.ShmemConfig(2, (0x1000, 0x2000) + (0,) * 254),
        p.Opaque(b"anything"),
        p.Config(0, 0, 0, b""),
        p.MemTable(()),
    ],
)
def test_payload_survives_the_way_there_and_back(value: p.Payload) -> None:
    assert structs.parse_payload([type(value)], structs.build_payload(value)) == value


def test_shmem_config_is_2056_bytes() -> None:
    assert len(structs.build_payload(p.ShmemConfig(0, (0,) * 256))) == 2056


def test_padding_is_ignored_when_read() -> None:
    dirty = bytearray(load_payloads()["Iotlb"])
    dirty[-6:] = b"\xff" * 6
    assert structs.parse_payload([p.Iotlb], bytes(dirty)) == GOLDEN["Iotlb"]


@pytest.mark.parametrize("name", [name for name in GOLDEN if name != "Config"])
@pytest.mark.parametrize("surplus", [-1, 1])
def test_a_size_one_off_is_refused(name: str, surplus: int) -> None:
    """Config is the exception: it takes any number of bytes after its twelve."""
    content = (load_payloads()[name] + b"\0")[: len(load_payloads()[name]) + surplus]
    with pytest.raises(RequestError, match=f"payload of {len(content)} bytes, expected "):
        structs.parse_payload([type(GOLDEN[name])], content)


def test_a_config_shorter_than_its_head_is_refused() -> None:
    with pytest.raises(RequestError, match="payload of 11 bytes, expected 12 or more"):
        structs.parse_payload([p.Config], bytes(11))


def test_the_first_kind_that_has_the_size_is_taken() -> None:
    assert structs.parse_payload([p.Log, p.U64], bytes(16)) == p.Log(0, 0)
    assert structs.parse_payload([p.Log, p.U64], bytes(8)) == p.U64(0)
    with pytest.raises(RequestError, match="payload of 9 bytes, expected 16 or 8"):
        structs.parse_payload([p.Log, p.U64], bytes(9))


@pytest.mark.parametrize("announced", [0, 1, 3, 0xFFFFFFFF])
def test_a_table_that_counts_wrongly_is_refused(announced: int) -> None:
    content = announced.to_bytes(4, "little") + load_payloads()["MemTable"][4:]
    with pytest.raises(RequestError, match=f"announces {announced} regions, the payload holds 2"):
        structs.parse_payload([p.MemTable], content)


@pytest.mark.parametrize("word", [0x200, 0x100000000, 1 << 63])
def test_a_ring_word_with_unknown_bits_is_refused(word: int) -> None:
    """CVE-2020-10723 began with an index that was cut to fewer bits than were checked."""
    with pytest.raises(RequestError, match=f"ring word {word:#x}"):
        structs.parse_payload([p.VringFd], word.to_bytes(8, "little"))
    with pytest.raises(RequestError, match=f"ring word {word:#x}"):
        structs.parse_payload([p.VringArea], word.to_bytes(8, "little") + bytes(16))


@pytest.mark.parametrize("value", [p.U64(-1), p.U64(1 << 64), p.VringState(1 << 32, 0), p.Rarp(b"abc")])
def test_a_value_that_does_not_fit_is_our_own_mistake(value: p.Payload) -> None:
    with pytest.raises(ValueError, match="does not fit its layout"):
        structs.build_payload(value)


def test_header_is_three_words() -> None:
    built = structs.build_header(12, 0x9, 8)
    assert built == bytes.fromhex("0c000000 09000000 08000000")
    assert structs.parse_header(built) == structs.Header(12, 0x9, 8)
