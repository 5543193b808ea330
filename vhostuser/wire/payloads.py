"""What a message carries, as frozen values with the specification's field names. Bytes are `structs`' matter.

Addresses are plain integers here; `vhostuser.memory` tells guest and user addresses apart. Nothing is checked
beyond what the layout itself says: whether an index or a size makes sense is the session's question.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Empty:
    """No payload."""


@dataclass(frozen=True, slots=True)
class U64:
    """One number: feature bits, an acknowledgement, an MTU."""

    value: int


@dataclass(frozen=True, slots=True)
class VringState:
    index: int
    num: int
    """A size, a base, 0 or 1: the request says which."""


@dataclass(frozen=True, slots=True)
class VringAddr:
    """Where a ring lies, in user addresses; on the wire in this order: desc, *used*, avail."""

    index: int
    flags: int
    desc: int
    used: int
    avail: int
    log: int
    """Where writes to the used ring are logged, a guest address; means something with VRING_F_LOG only."""


@dataclass(frozen=True, slots=True)
class VringFd:
    """SET_VRING_KICK, CALL and ERR: a ring index in 8 bits, and whether an fd comes with the message."""

    index: int
    has_fd: bool = True


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    gpa: int
    size: int
    uva: int
    mmap_offset: int
    """Where the region starts in its file; not always a multiple of the file's page size."""


@dataclass(frozen=True, slots=True)
class MemTable:
    """One fd comes with each region, in the same order."""

    regions: tuple[MemoryRegion, ...]


@dataclass(frozen=True, slots=True)
class SingleRegion:
    region: MemoryRegion


@dataclass(frozen=True, slots=True)
class Log:
    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class Iotlb:
    iova: int
    size: int
    uva: int
    perm: int
    """0 none, 1 read, 2 write, 3 both."""
    type: int
    """An `IotlbType`, or whatever number came."""


@dataclass(frozen=True, slots=True)
class Config:
    """A window of the config space. ``size`` is what the field says, ``data`` what came: they may differ."""

    offset: int
    size: int
    flags: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Rarp:
    """SEND_RARP: the u64 holds the MAC in its first six bytes in memory, whatever the byte order."""

    mac: bytes


@dataclass(frozen=True, slots=True)
class VringArea:
    """VRING_HOST_NOTIFIER_MSG: the doorbell page of one ring."""

    index: int
    size: int
    offset: int
    has_fd: bool = True


@dataclass(frozen=True, slots=True)
class Inflight:
    mmap_size: int
    mmap_offset: int
    num_queues: int
    queue_size: int
    padded: bool = True
    """24 bytes with C's tail padding (every 64-bit peer), else 20; answered in the form received."""


@dataclass(frozen=True, slots=True)
class SharedObject:
    uuid: bytes


@dataclass(frozen=True, slots=True)
class TransferState:
    direction: int
    """0 save, 1 load."""
    phase: int


@dataclass(frozen=True, slots=True)
class Mmap:
    """SHMEM_MAP and SHMEM_UNMAP."""

    shmid: int
    fd_offset: int
    shm_offset: int
    length: int
    flags: int


@dataclass(frozen=True, slots=True)
class ShmemConfig:
    """Sizes of the shared memory regions by their id, 256 of them; 0 where there is none."""

    nregions: int
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Opaque:
    """Bytes of a request that is never served (crypto sessions): read to stay in step, then dropped."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Malformed:
    """What came instead of a payload; the message was read whole, so only this request is lost.

    Stands in a `Message` whose number is unknown, whose payload has the wrong size, or whose fds do not fit.
    """

    reason: str


Payload = (
    Empty
    | U64
    | VringState
    | VringAddr
    | VringFd
    | MemTable
    | SingleRegion
    | Log
    | Iotlb
    | Config
    | Rarp
    | VringArea
    | Inflight
    | SharedObject
    | TransferState
    | Mmap
    | ShmemConfig
    | Opaque
    | Malformed
)
