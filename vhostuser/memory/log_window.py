"""The dirty log's place in its file: one bit for each 4096 bytes of guest memory, in guest address order."""

from __future__ import annotations

from typing import Final

from vhostuser.errors import RequestError
from vhostuser.memory.regions import MAX_TABLE_BYTES

LOG_PAGE: Final = 4096
MAX_LOG_BYTES: Final = MAX_TABLE_BYTES // LOG_PAGE // 8 * 16
"""For 16 times the memory that a table may have: guest addresses leave gaps."""


def check_log_window(size: int, offset: int, file_size: int) -> None:
    """Raise RequestError unless the file holds the whole log (CVE-2020-10722 was a sum that wrapped)."""
    if not 0 < size <= MAX_LOG_BYTES:
        raise RequestError(f"log of {size:#x} bytes, expected 1 to {MAX_LOG_BYTES:#x}")
    if offset + size > file_size:
        raise RequestError(
            f"log of {size:#x} bytes at offset {offset:#x} needs a file of {offset + size:#x} bytes, "
            f"this one has {file_size:#x}"
        )
