"""The config space (vhost-user: VHOST_USER_GET_CONFIG, VHOST_USER_SET_CONFIG), where it is ours to keep."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tests.plain_frontend import SERVED_PROTOCOL, PlainFrontend, state
from tests.site import make_site

GET_CONFIG, SET_CONFIG = 24, 25
WRITABLE, MIGRATION = 0, 1
SPACE = bytes.fromhex("525400123456 0100 0100") + bytes(246)
"""MAC, link up, one pair."""


@pytest.fixture
def talk() -> Iterator[PlainFrontend]:
    with make_site(mac="52:54:00:12:34:56") as site, PlainFrontend(site.path) as plain:
        plain.negotiate(protocol=SERVED_PROTOCOL | 1 << 9)
        yield plain


def window(offset: int, content: bytes, flags: int = WRITABLE, size: int | None = None) -> bytes:
    return struct.pack("=III", offset, len(content) if size is None else size, flags) + content


def read(talk: PlainFrontend, offset: int, size: int) -> bytes:
    return talk.ask(GET_CONFIG, window(offset, bytes(size)))[12:]


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 1), (0, 6), (4, 4), (0, 12), (200, 56), (255, 1), (0, 256), (9, 0)]
)
def test_answer_has_the_size_of_the_request(talk: PlainFrontend, offset: int, size: int) -> None:
    answer = talk.ask(GET_CONFIG, window(offset, bytes(size)))
    assert answer == state(offset, size) + bytes(4) + SPACE[offset : offset + size]


@pytest.mark.parametrize("flags", [WRITABLE, MIGRATION])
@pytest.mark.parametrize(("offset", "size"), [(0, 6), (6, 2), (8, 2), (10, 2), (0, 256)])
def test_read_only_fields_are_not_set(talk: PlainFrontend, offset: int, size: int, flags: int) -> None:
    # Every field of a network device is read-only to its driver, and none is the front-end's to migrate.
    before = read(talk, 0, 256)
    assert talk.number(SET_CONFIG, window(offset, b"\xaa" * size, flags)) != 0
    assert read(talk, 0, 256) == before


@pytest.mark.parametrize("flags", [2, 3, 0x80000000])
def test_flags_are_checked(talk: PlainFrontend, flags: int) -> None:
    assert talk.number(SET_CONFIG, window(0, bytes(6), flags)) != 0


@pytest.mark.parametrize(("offset", "size"), [(256, 1), (255, 2), (0xFFFFFFFF, 1)])
def test_window_beyond_the_space_is_not_set(talk: PlainFrontend, offset: int, size: int) -> None:
    assert talk.number(SET_CONFIG, window(offset, bytes(size))) != 0


def test_config_without_the_feature_is_refused(talk: PlainFrontend) -> None:
    talk.negotiate(protocol=SERVED_PROTOCOL)
    assert talk.number(SET_CONFIG, window(0, bytes(6))) != 0
    talk.send(GET_CONFIG, window(0, bytes(6)))
    talk.assert_ended()
