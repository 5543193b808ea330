"""What C's numbers mean: why a ring is broken (`enum vu_error`), why a frame was dropped (`enum vu_drop`).

The enums in csrc/error.h are the source; the words come from there by their names, so a number that is
added without a word cannot stay unnoticed.
"""

from __future__ import annotations

from typing import Final

from vhostuser.datapath._datapath import ffi

_ERROR_PREFIX, _DROP_PREFIX = "VU_ERR_", "VU_DROP_"

ERROR_NAMES: Final[dict[int, str]] = {
    # cffi gives enum values as unsigned where it can; ours are negative, so it keeps the sign.
    number: name.removeprefix(_ERROR_PREFIX).lower().replace("_", " ")
    for number, name in ffi.typeof("enum vu_error").elements.items()
    if name.startswith(_ERROR_PREFIX)
}
"""Negative enum value -> words, such as -2 -> 'head'."""

DROP_NAMES: Final[tuple[str, ...]] = tuple(
    name.removeprefix(_DROP_PREFIX).lower() for _, name in sorted(ffi.typeof("enum vu_drop").elements.items())
)
"""Labels in the order of the counters, such as 'no_buffers'."""

_EXPLANATIONS: Final[dict[str, str]] = {
    "avail index": "avail->idx {0} is more than the ring's {2} entries ahead of {1}",
    "head": "avail->ring[{1}] names descriptor {0}, the table has {2}",
    "next": "chain {0}: next is {1}, outside its table",
    "chain length": "chain {0} has more than {1} descriptors: it loops",
    "address": "chain {0}: buffer at {1:#x} of {2} bytes is not wholly in the memory table",
    "indirect length": "chain {0}: indirect table at {1:#x} has {2} bytes",
    "indirect nested": "chain {0}: indirect descriptor inside an indirect table, entry {2}",
    "indirect next": "chain {0}: a descriptor is INDIRECT and has a NEXT",
    "indirect feature": "chain {0}: indirect table without VIRTIO_F_INDIRECT_DESC",
    "direction": "chain {0}: readable descriptor at {1:#x} of {2} bytes where only writable ones may be",
    "pieces": "chain {0} falls into more than {1} pieces",
    "ring address": "ring part {2} at user address {0:#x} of {1} bytes is not wholly in one memory region",
    "ring alignment": "ring part {2} at user address {0:#x} is not aligned to {1} bytes in the mapped file",
    "memory fault": "memory region of {2:#x} bytes at guest address {1:#x} is gone: the front-end truncated "
    "its file under us",
    "system": "the kernel refused: errno {0}",
    "base": "a packed ring of {2} entries cannot go on from slot {0} with lap bit {1} (base {3:#x}): "
    "that slot is beyond the ring, or used already",
    "log fault": "the dirty log is gone, at {0:#x}: the front-end truncated its file under us",
    "control": "chain {0} has {1} readable and {2} writable bytes: a command has at least 2, its ack is 1",
    "iotlb": "the IOMMU has no translation of I/O address {1:#x} for access {0} (1 read, 2 write, 3 both)",
    "ring scattered": "ring part {2} at I/O address {0:#x} of {1} bytes has its pages apart, and they cannot "
    "be mapped as one piece (errno {3}; 22: they are parts of huge pages, 12: too many)",
    "inflight": "the inflight region holds {0} at byte {2} of this ring's part, where at most {1} can be",
    "inflight size": "the inflight region of {0} bytes, for rings of {2} entries, has no room for this one: "
    "it has {3} entries, and its part would end at byte {1}",
    "inflight fault": "the inflight region is gone, at {0:#x}: the front-end truncated its file under us",
    "notify": "an fd of ring {0} blocks: the front-end cleared O_NONBLOCK behind our back",
}


def explain(error: int, values: tuple[int, int, int, int]) -> str:
    """One sentence for the log out of a negative vu_error and the four values that came with it."""
    name = ERROR_NAMES.get(error, f"error {error}")
    return _EXPLANATIONS.get(name, name).format(*values)
