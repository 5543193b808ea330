"""Numbers of the vhost-user specification: request codes, header flags, limits. Nothing is decided here."""

from __future__ import annotations

from enum import IntEnum

HEADER_SIZE = 12
"""u32 request, u32 flags, u32 payload size; native byte order."""

VERSION = 0x1
VERSION_MASK = 0x3
FLAG_REPLY = 0x4
FLAG_NEED_REPLY = 0x8
REQUEST_FLAGS = VERSION | FLAG_NEED_REPLY
"""Every bit that a request may carry."""
REPLY_FLAGS = VERSION | FLAG_REPLY
"""A reply carries exactly these: QEMU and DPDK virtio-user compare for equality."""

MAX_PAYLOAD = 4096
"""Largest payload that is read: where rust-vmm caps a whole message. Regular ones are far smaller."""
MAX_REGIONS = 32
"""Regions that one SET_MEM_TABLE brings: the specification draws 8, rust-vmm's front-end sends up to 32."""
MAX_MEM_SLOTS = 509
"""Regions that a table may have once ADD_MEM_REG has added to it, as with rust-vmm: the answer to
GET_MAX_MEM_SLOTS, never less than before. QEMU refuses to plug more memory than that."""
MAX_FDS = 253
"""SCM_MAX_FD: what the kernel lets one message carry. A control buffer of this size never truncates."""
MAX_FDS_TO_FRONTEND = 8
"""Fds of one message from back-end to front-end."""
MAX_VRINGS = 256
"""Kick, call and err messages have 8 bits for the ring index."""
MAX_VRING_SIZE = 32768
CONFIG_SPACE_SIZE = 256
"""The window of GET_CONFIG and SET_CONFIG."""
SHMEM_REGIONS = 256
UUID_SIZE = 16

VRING_INDEX_MASK = 0xFF
VRING_NOFD = 0x100
"""In the u64 of kick, call and err: no fd comes with this message."""
VRING_F_LOG = 0x1
"""In the flags of SET_VRING_ADDR: writes to the used ring are logged."""
STATUS_FEATURES_OK = 0x8
"""Of the device status (virtio 1.2, 2.1), the one bit that a back-end has a say in."""

CONFIG_WRITABLE = 0
"""SET_CONFIG by the driver: read-only fields stay."""
CONFIG_MIGRATION = 1
"""SET_CONFIG on the destination of a live migration: every field is set."""

TRANSFER_SAVE = 0
TRANSFER_LOAD = 1
"""Directions of SET_DEVICE_STATE_FD: to the front-end, from it."""
TRANSFER_PHASE_STOPPED = 0
"""Its one phase: while every ring is stopped."""
DEVICE_STATE_ACCEPTED = 0x100
DEVICE_STATE_REFUSED = 0x101
"""Its answers: an error in bits 0-7, and bit 8 for "no fd comes back"."""


class Request(IntEnum):
    """Front-end to back-end."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    GET_SHARED_OBJECT = 41
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43
    GET_SHMEM_CONFIG = 44
    GET_VRING_BASE_SKIP_DRAIN = 45


class BackendRequest(IntEnum):
    """Back-end to front-end, on the socket that SET_BACKEND_REQ_FD brought."""

    IOTLB_MSG = 1
    CONFIG_CHANGE_MSG = 2
    VRING_HOST_NOTIFIER_MSG = 3
    VRING_CALL = 4
    VRING_ERR = 5
    SHARED_OBJECT_ADD = 6
    SHARED_OBJECT_REMOVE = 7
    SHARED_OBJECT_LOOKUP = 8
    SHMEM_MAP = 9
    SHMEM_UNMAP = 10


class IotlbType(IntEnum):
    """``type`` of an IOTLB message."""

    MISS = 1
    UPDATE = 2
    INVALIDATE = 3
    ACCESS_FAIL = 4
