from __future__ import annotations

import pytest

from vhostuser.errors import RequestError
from vhostuser.memory.inflight import check_region, part_bytes, region_bytes
from vhostuser.wire.payloads import Inflight


@pytest.mark.parametrize(
    ("queue_size", "is_packed", "size"),
    [
        (1, False, 64),
        (3, True, 128),
        (128, False, 2112),
        (256, False, 4160),
        (256, True, 8256),
        (32768, False, 524352),
        (32768, True, 1048640),
    ],
)
def test_part_is_head_and_entries_rounded_up_to_64(queue_size: int, is_packed: bool, size: int) -> None:
    assert part_bytes(queue_size, is_packed) == size
    assert region_bytes(7, queue_size, is_packed) == 7 * size


@pytest.mark.parametrize(
    ("num_queues", "queue_size", "is_packed", "words"),
    [
        (0, 256, False, "0 rings"),
        (257, 256, False, "257 rings, expected 1 to 256"),
        (65535, 256, True, "65535 rings"),
        (2, 0, False, "0 entries"),
        (2, 0, True, "0 entries"),
        (2, 3, False, "3 entries, which is no power of two"),
        (2, 32769, True, "32769 entries, expected 1 to 32768"),
        (2, 65535, False, "65535 entries"),
    ],
)
def test_numbers_that_no_device_has(num_queues: int, queue_size: int, is_packed: bool, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        region_bytes(num_queues, queue_size, is_packed)


@pytest.mark.parametrize(("size", "offset"), [(8320, 0), (9000, 64), (12288, 1 << 20)])
def test_region_that_its_file_holds_is_fine(size: int, offset: int) -> None:
    check_region(Inflight(size, offset, 2, 256), offset + size, False)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (Inflight(8319, 0, 2, 256), "2 rings of 256 entries need 0x2080"),
        (Inflight(0, 0, 2, 256), "region of 0x0 bytes"),
        (Inflight(8320, 0, 3, 256), "need 0x30c0"),
        (Inflight(8320, 32, 2, 256), "offset 0x20, which is not aligned to 64"),
        (Inflight(8320, 64, 2, 256), "needs a file of 0x20c0 bytes, this one has 0x2080"),
        (Inflight(8320, (1 << 64) - 64, 2, 256), "needs a file of 0x10000000000002040 bytes"),
        (Inflight((1 << 64) - 1, 64, 2, 256), "needs a file of"),
        (Inflight(8320, 0, 65535, 256), "65535 rings"),
        (Inflight(8320, 0, 2, 65535), "65535 entries"),
    ],
)
def test_region_that_its_file_does_not_hold(layout: Inflight, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check_region(layout, 8320, False)
