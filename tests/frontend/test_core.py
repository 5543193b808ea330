"""The compiled driver, and what a user reads when it is not there."""

from __future__ import annotations

import runpy
import sys

import pytest

from vhostuser.errors import EnvironmentLacksError
from vhostuser.frontend import core


def test_driver_that_is_not_built_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vhostuser.frontend._driver", None)
    with pytest.raises(EnvironmentLacksError, match="pip install -e"):
        runpy.run_path(core.__file__)


def test_driver_built_from_other_headers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vhostuser.abi.headers_hash", lambda module: 0)
    with pytest.raises(EnvironmentLacksError, match="other C headers"):
        runpy.run_path(core.__file__)


@pytest.mark.parametrize("value", [0, 1, 63, 64, 65, 1000, 12345, 10**6, 10**9])
def test_histogram_bucket_holds_its_value_within_three_percent(value: int) -> None:
    bucket = core.lib.vu_histogram_bucket(value)
    floor, above = core.lib.vu_histogram_floor(bucket), core.lib.vu_histogram_floor(bucket + 1)
    assert floor <= value < above
    assert above - floor <= max(1, floor / 31)


def test_histogram_buckets_rise_without_a_gap() -> None:
    floors = [core.lib.vu_histogram_floor(bucket) for bucket in range(core.lib.VU_HISTOGRAM_BUCKETS)]
    assert floors == sorted(set(floors))
    assert [core.lib.vu_histogram_bucket(floor) for floor in floors] == list(range(len(floors)))


def test_value_beyond_the_histogram_lands_in_the_last_bucket() -> None:
    assert core.lib.vu_histogram_bucket(2**64 - 1) == core.lib.VU_HISTOGRAM_BUCKETS - 1


@pytest.mark.parametrize("length", [16, 17, 23, 24, 25, 100, 1448, 65000])
def test_stamp_is_whole_as_written_and_corrupt_with_any_byte_changed(length: int) -> None:
    content = core.ffi.new("uint8_t[]", length)
    sequence = core.ffi.new("uint64_t *")
    core.lib.vu_stamp_write(content, length, 7, 12345)
    assert core.lib.vu_stamp_check(content, length, 7, sequence) == core.lib.VU_STAMP_WHOLE
    assert sequence[0] == 12345
    for at in {4, 8, 15, length // 2, length - 1}:
        content[at] ^= 0x10
        judged = core.lib.vu_stamp_check(content, length, 7, sequence)
        assert judged != core.lib.VU_STAMP_WHOLE, at
        content[at] ^= 0x10
    assert core.lib.vu_stamp_check(content, length, 7, sequence) == core.lib.VU_STAMP_WHOLE


@pytest.mark.parametrize(("length", "run"), [(15, 7), (100, 8)])
def test_stamp_of_another_run_or_too_short_is_foreign(length: int, run: int) -> None:
    content = core.ffi.new("uint8_t[]", 100)
    core.lib.vu_stamp_write(content, 100, 7, 1)
    judged = core.lib.vu_stamp_check(content, length, run, core.ffi.new("uint64_t *"))
    assert judged == core.lib.VU_STAMP_FOREIGN


def test_stamp_of_a_frame_cut_short_is_corrupt() -> None:
    content = core.ffi.new("uint8_t[]", 100)
    core.lib.vu_stamp_write(content, 100, 7, 1)
    judged = core.lib.vu_stamp_check(content, 92, 7, core.ffi.new("uint64_t *"))
    assert judged == core.lib.VU_STAMP_CORRUPT


def test_patterns_of_two_frames_differ_everywhere() -> None:
    one, other = (core.ffi.new("uint8_t[]", 1000) for _ in range(2))
    core.lib.vu_stamp_write(one, 1000, 7, 1)
    core.lib.vu_stamp_write(other, 1000, 7, 2)
    same = sum(a == b for a, b in zip(bytes(one)[16:], bytes(other)[16:], strict=True))
    assert same < 20
