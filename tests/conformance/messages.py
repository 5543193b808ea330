"""The front-end's 45 messages as the specification has them, written down once more.

Deliberately not made from `vhostuser.wire`: the two have to agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from tests.plain_frontend import VERSION_1, address, inflight, iotlb, single, state, table, u64


class Answer(Enum):
    OWN = auto()
    """Always, with a payload of its own."""
    ACK = auto()
    """A u64 if REPLY_ACK was negotiated and the message asks for it."""
    U64 = auto()
    """A u64 in any case."""


@dataclass(frozen=True)
class Row:
    number: int
    name: str
    answer: Answer
    body: bytes
    """A right one."""
    fds: int = 0
    served: bool = False
    """In this version, without any virtio feature acknowledged."""


_PAGE = 4096
_GIB4 = 1 << 32

ROWS = (
    Row(1, "GET_FEATURES", Answer.OWN, b"", served=True),
    Row(2, "SET_FEATURES", Answer.ACK, u64(VERSION_1 | 1 << 30), served=True),
    Row(3, "SET_OWNER", Answer.ACK, b"", served=True),
    Row(4, "RESET_OWNER", Answer.ACK, b"", served=True),
    Row(5, "SET_MEM_TABLE", Answer.ACK, table((0, _PAGE, 0x100000, 0)), fds=1, served=True),
    Row(6, "SET_LOG_BASE", Answer.OWN, u64(_PAGE) + u64(0), fds=1, served=True),
    Row(7, "SET_LOG_FD", Answer.ACK, b"", fds=1, served=True),
    Row(8, "SET_VRING_NUM", Answer.ACK, state(0, 256), served=True),
    Row(9, "SET_VRING_ADDR", Answer.ACK, address(0, 0x1000, 0x2000, 0x3000), served=True),
    Row(10, "SET_VRING_BASE", Answer.ACK, state(0, 0), served=True),
    Row(11, "GET_VRING_BASE", Answer.OWN, state(0, 0), served=True),
    Row(12, "SET_VRING_KICK", Answer.ACK, u64(0), fds=1, served=True),
    Row(13, "SET_VRING_CALL", Answer.ACK, u64(0), fds=1, served=True),
    Row(14, "SET_VRING_ERR", Answer.ACK, u64(0), fds=1, served=True),
    Row(15, "GET_PROTOCOL_FEATURES", Answer.OWN, b"", served=True),
    Row(16, "SET_PROTOCOL_FEATURES", Answer.ACK, u64(1 << 3), served=True),
    Row(17, "GET_QUEUE_NUM", Answer.OWN, b"", served=True),
    Row(18, "SET_VRING_ENABLE", Answer.ACK, state(0, 1), served=True),
    Row(19, "SEND_RARP", Answer.ACK, b"\x02\0\0\0\0\1\0\0", served=True),
    Row(20, "NET_SET_MTU", Answer.ACK, u64(1500), served=True),
    Row(21, "SET_BACKEND_REQ_FD", Answer.ACK, b"", fds=1, served=True),
    Row(22, "IOTLB_MSG", Answer.U64, iotlb(0, (1 << 64) - 1, 0, 0, 3)),
    Row(23, "SET_VRING_ENDIAN", Answer.ACK, state(0, 0), served=True),
    Row(24, "GET_CONFIG", Answer.OWN, bytes(12)),
    Row(25, "SET_CONFIG", Answer.ACK, bytes(12)),
    Row(26, "CREATE_CRYPTO_SESSION", Answer.OWN, bytes(64)),
    Row(27, "CLOSE_CRYPTO_SESSION", Answer.ACK, u64(0)),
    Row(28, "POSTCOPY_ADVISE", Answer.OWN, b""),
    Row(29, "POSTCOPY_LISTEN", Answer.ACK, b""),
    Row(30, "POSTCOPY_END", Answer.U64, b""),
    Row(31, "GET_INFLIGHT_FD", Answer.OWN, inflight(0, 0, 2, 128), served=True),
    Row(32, "SET_INFLIGHT_FD", Answer.ACK, inflight(2 * 2112, 0, 2, 128), fds=1, served=True),
    Row(33, "GPU_SET_SOCKET", Answer.ACK, b"", fds=1),
    Row(34, "RESET_DEVICE", Answer.ACK, b"", served=True),
    Row(35, "VRING_KICK", Answer.ACK, state(0, 0)),
    Row(36, "GET_MAX_MEM_SLOTS", Answer.OWN, b"", served=True),
    Row(37, "ADD_MEM_REG", Answer.ACK, single(_GIB4, _PAGE, 0x200000), fds=1, served=True),
    Row(38, "REM_MEM_REG", Answer.ACK, single(_GIB4, _PAGE, 0x200000), served=True),
    Row(39, "SET_STATUS", Answer.ACK, u64(1), served=True),
    Row(40, "GET_STATUS", Answer.OWN, b"", served=True),
    Row(41, "GET_SHARED_OBJECT", Answer.OWN, bytes(16)),
    Row(42, "SET_DEVICE_STATE_FD", Answer.U64, bytes(8), fds=1, served=True),
    Row(43, "CHECK_DEVICE_STATE", Answer.U64, b"", served=True),
    Row(44, "GET_SHMEM_CONFIG", Answer.OWN, b""),
    Row(45, "GET_VRING_BASE_SKIP_DRAIN", Answer.OWN, state(0, 0), served=True),
)

SERVED = tuple(row for row in ROWS if row.served)
NOT_SERVED = tuple(row for row in ROWS if not row.served)
FD_OF_A_RING = (12, 13, 14)
"""Kick, call and err: 0x100 in the payload says that no fd comes."""


def of(number: int) -> Row:
    return ROWS[number - 1]
