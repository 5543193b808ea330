"""Guest memory through the eyes of a big-endian guest: the words that a legacy driver of its kind shares."""

from __future__ import annotations

from typing import Protocol

from vhostuser.frontend.guest_memory import GuestMemory


class Words(Protocol):
    """Aligned loads and stores at guest addresses, in the byte order of the guest's rings."""

    def load_u16(self, gpa: int) -> int: ...
    def load_u32(self, gpa: int) -> int: ...
    def load_u64(self, gpa: int) -> int: ...
    def store_u16(self, gpa: int, value: int) -> None: ...
    def store_u32(self, gpa: int, value: int) -> None: ...
    def store_u64(self, gpa: int, value: int) -> None: ...


class BigEndianWords:
    """The words of ``memory``, whose own are little-endian, turned around; each is one access still."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory

    def load_u16(self, gpa: int) -> int:
        return _turned(self._memory.load_u16(gpa), 2)

    def load_u32(self, gpa: int) -> int:
        return _turned(self._memory.load_u32(gpa), 4)

    def load_u64(self, gpa: int) -> int:
        return _turned(self._memory.load_u64(gpa), 8)

    def store_u16(self, gpa: int, value: int) -> None:
        self._memory.store_u16(gpa, _turned(value, 2))

    def store_u32(self, gpa: int, value: int) -> None:
        self._memory.store_u32(gpa, _turned(value, 4))

    def store_u64(self, gpa: int, value: int) -> None:
        self._memory.store_u64(gpa, _turned(value, 8))


def _turned(value: int, size: int) -> int:
    return int.from_bytes(value.to_bytes(size, "big"), "little")
