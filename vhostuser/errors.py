"""Every exception of the package; the type says whose fault it is and so what ends.

::

    VhostUserError                 nothing more is known: our own bug                     status 5
    ├── FrontendError              the peer on the vhost-user socket did wrong            status 4
    │   ├── FramingError           the byte stream cannot be trusted: the connection ends
    │   └── RequestError           one request is refused: nacked, or the connection ends
    ├── GuestError                 a ring is broken until the front-end resets it         status 4
    ├── EnvironmentLacksError      a device, a right or a limit is missing                status 3
    ├── UsageError                 the command line or the configuration is wrong         status 2
    └── PeerError                  the peer cannot be reached or does not answer          status 4

Nothing that a front-end or a guest does ends the process. Texts name the request, the ring and the value, and
what to do where a person can do something.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "EnvironmentLacksError",
    "FramingError",
    "FrontendError",
    "GuestError",
    "PeerError",
    "RequestError",
    "UsageError",
    "VhostUserError",
]


class VhostUserError(Exception):
    """Base of every error that the package raises on purpose."""

    exit_status: ClassVar[int] = 5
    """What the process exits with when this error ends it."""


class FrontendError(VhostUserError):
    """The peer on the vhost-user socket broke the protocol; it costs that connection at most."""

    exit_status: ClassVar[int] = 4


class FramingError(FrontendError):
    """Where the next message starts is no longer known: the connection has to end."""


class RequestError(FrontendError):
    """One request is refused; the stream is still in step.

    ``reason`` says which value is wrong. ``where`` names the request and the ring: a device that refuses
    gives the reason alone, and the session, which knows the request, adds the rest with `within`.
    """

    def __init__(self, reason: str, *, where: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.where = where

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" if self.where else self.reason

    def within(self, where: str) -> RequestError:
        """Name the request, unless one is named already; returns itself, cause and traceback kept."""
        self.where = self.where or where
        return self


class GuestError(VhostUserError):
    """A guest broke the rules of one ring. The ring is broken until it is reset; its device goes on."""

    exit_status: ClassVar[int] = 4


class EnvironmentLacksError(VhostUserError):
    """The machine lacks something: the text says what, which value was asked for, and what to change."""

    exit_status: ClassVar[int] = 3


class UsageError(VhostUserError):
    """The command line or the configuration file asks for something that does not exist."""

    exit_status: ClassVar[int] = 2


class PeerError(VhostUserError):
    """The peer could not be reached, or went away while it was needed."""

    exit_status: ClassVar[int] = 4
