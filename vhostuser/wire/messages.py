"""One message in each direction, and the bag its fds travel in. The payloads are re-exported from here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from vhostuser.wire.constants import BackendRequest, Request
from vhostuser.wire.payloads import (
    U64,
    Config,
    Empty,
    Inflight,
    Iotlb,
    Log,
    Malformed,
    MemoryRegion,
    MemTable,
    Mmap,
    Opaque,
    Payload,
    Rarp,
    SharedObject,
    ShmemConfig,
    SingleRegion,
    TransferState,
    VringAddr,
    VringArea,
    VringFd,
    VringState,
)

__all__ = [
    "U64",
    "Config",
    "Empty",
    "FdBag",
    "Inflight",
    "Iotlb",
    "Log",
    "Malformed",
    "MemTable",
    "MemoryRegion",
    "Message",
    "Mmap",
    "Opaque",
    "Payload",
    "Rarp",
    "Reply",
    "SharedObject",
    "ShmemConfig",
    "SingleRegion",
    "TransferState",
    "VringAddr",
    "VringArea",
    "VringFd",
    "VringState",
    "request_name",
]


class FdBag:
    """The fds that came with one message, as numbers. It owns none of them and closes none.

    Who is going to own an fd takes it out. Whoever read the message from the socket closes what is left when
    handling is over, for good or ill; so an fd has exactly one owner at every moment.
    """

    __slots__ = ("_fds",)

    def __init__(self, fds: Iterable[int] = ()) -> None:
        self._fds = list(fds)

    def __len__(self) -> int:
        return len(self._fds)

    def __repr__(self) -> str:
        return f"FdBag({self._fds})"

    def add(self, fds: Iterable[int]) -> None:
        self._fds.extend(fds)

    def take(self) -> int:
        """The first fd; from now on it is the caller's to close. Raises IndexError when there is none."""
        return self._fds.pop(0)

    def take_all(self) -> list[int]:
        """Every fd in the order of arrival; from now on they are the caller's to close."""
        taken, self._fds = self._fds, []
        return taken

    def drain(self) -> list[int]:
        """What nobody took, to be closed: `take_all` under the name it has at the end of a message's life."""
        return self.take_all()


@dataclass(frozen=True, slots=True)
class Message:
    """A request as it was received. ``request`` is a member of its enum when the number is known."""

    request: Request | BackendRequest | int
    payload: Payload
    need_reply: bool = False
    fds: FdBag = field(default_factory=FdBag, compare=False)

    @property
    def name(self) -> str:
        return request_name(self.request)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. Its fds are the sender's until they are sent and closed there, then the receiver's."""

    request: Request | BackendRequest | int
    payload: Payload
    fds: tuple[int, ...] = ()


def request_name(request: int) -> str:
    """The specification's name, or ``request 77``."""
    return request.name if isinstance(request, Request | BackendRequest) else f"request {request}"
