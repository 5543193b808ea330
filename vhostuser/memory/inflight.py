"""The inflight region (vhost-user, "Inflight I/O tracking"): how large it is, and what a front-end may give.

One part for each ring, in order of their index, each rounded up to 64 bytes as DPDK and libvhost-user do.
What is in a part is C's (`datapath/csrc/tracking.h`).
"""

from __future__ import annotations

from typing import Final

from vhostuser.errors import RequestError
from vhostuser.wire.constants import MAX_VRING_SIZE, MAX_VRINGS
from vhostuser.wire.payloads import Inflight

ALIGNMENT: Final = 64
_SPLIT_HEAD, _SPLIT_ENTRY = 16, 16
_PACKED_HEAD, _PACKED_ENTRY = 32, 32


def part_bytes(queue_size: int, is_packed: bool) -> int:
    """Of one ring's part."""
    head, entry = (_PACKED_HEAD, _PACKED_ENTRY) if is_packed else (_SPLIT_HEAD, _SPLIT_ENTRY)
    return -(-(head + entry * queue_size) // ALIGNMENT) * ALIGNMENT


def region_bytes(num_queues: int, queue_size: int, is_packed: bool) -> int:
    """Of a whole region. Raises RequestError for numbers that no device has."""
    if not 1 <= num_queues <= MAX_VRINGS:
        raise RequestError(f"inflight region for {num_queues} rings, expected 1 to {MAX_VRINGS}")
    if not 1 <= queue_size <= MAX_VRING_SIZE:
        raise RequestError(
            f"inflight region for rings of {queue_size} entries, expected 1 to {MAX_VRING_SIZE}"
        )
    if not is_packed and queue_size & (queue_size - 1):
        raise RequestError(
            f"inflight region for split rings of {queue_size} entries, which is no power of two"
        )
    return num_queues * part_bytes(queue_size, is_packed)


def check_region(layout: Inflight, file_size: int, is_packed: bool) -> None:
    """Raise RequestError unless the file holds such a region whole (CVE-2021-3839: more rings than that).

    A format may be negotiated after it: C looks once more at what each ring needs when that starts.
    """
    needed = region_bytes(layout.num_queues, layout.queue_size, is_packed)
    size, offset = layout.mmap_size, layout.mmap_offset
    if size < needed:
        raise RequestError(
            f"inflight region of {size:#x} bytes, {layout.num_queues} rings of {layout.queue_size} entries "
            f"need {needed:#x}"
        )
    if offset % ALIGNMENT:
        raise RequestError(f"inflight region at offset {offset:#x}, which is not aligned to {ALIGNMENT}")
    if offset + size > file_size:
        raise RequestError(
            f"inflight region of {size:#x} bytes at offset {offset:#x} needs a file of {offset + size:#x} "
            f"bytes, this one has {file_size:#x}"
        )
