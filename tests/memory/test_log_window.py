from __future__ import annotations

import pytest

from vhostuser.errors import RequestError
from vhostuser.memory.log_window import LOG_PAGE, MAX_LOG_BYTES, check_log_window
from vhostuser.memory.regions import MAX_TABLE_BYTES


@pytest.mark.parametrize(("size", "offset", "file_size"), [(1, 0, 1), (4096, 100, 4196), (4096, 0, 1 << 20)])
def test_log_that_fits_is_fine(size: int, offset: int, file_size: int) -> None:
    check_log_window(size, offset, file_size)


@pytest.mark.parametrize(
    ("size", "offset", "words"),
    [
        (0, 0, "expected 1 to"),
        (MAX_LOG_BYTES + 1, 0, "expected 1 to"),
        ((1 << 64) - 1, 1, "expected 1 to"),
        (4097, 0, "needs a file of 0x1001"),
        (4096, 1, "needs a file of 0x1001"),
        (1, (1 << 64) - 1, "needs a file of 0x10000000000000000"),
    ],
)
def test_log_that_is_none_or_does_not_fit(size: int, offset: int, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check_log_window(size, offset, 4096)


def test_log_of_the_largest_table_fits() -> None:
    assert MAX_TABLE_BYTES // LOG_PAGE // 8 <= MAX_LOG_BYTES
