"""Taking a device's state away and bringing one in: one transfer at a time, and what came of the last.

What is transferred is `state_record`'s; the bytes are moved by a `StateChannel`, which the server has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vhostuser.errors import RequestError
from vhostuser.net.state_record import MAX_RECORD
from vhostuser.session.device import Pending
from vhostuser.wire.constants import TRANSFER_SAVE

Outcome = bytes | RequestError
"""What was read, nothing where it was written; or why that failed."""


class StateChannel(Protocol):
    """Moves the bytes of transfers. What a front-end gives for a channel may block, and its owner may never
    come to an end: that is over after a time, and costs nobody else anything.

    Both take the fd, also when they raise RequestError, and close it before ``then`` is called with the
    outcome where the device lives. Calling what they return instead abandons the transfer: ``then`` is not
    called any more.
    """

    def send(self, fd: int, content: bytes, then: Callable[[Outcome], None]) -> Callable[[], None]:
        """Writes all of it."""

    def receive(self, fd: int, most: int, then: Callable[[Outcome], None]) -> Callable[[], None]:
        """Reads to the end of file; RequestError is the outcome where there are more than ``most`` bytes."""


class StateTransfer:
    """``save`` makes the bytes of a state, ``load`` takes such bytes over or raises RequestError."""

    def __init__(
        self, channel: StateChannel, save: Callable[[], bytes], load: Callable[[bytes], None]
    ) -> None:
        self._channel = channel
        self._save = save
        self._load = load
        self._abandon: Callable[[], None] | None = None
        """Of the transfer that is going on."""
        self._outcome: Pending | None = None
        """Of the last transfer, over or not, until somebody asks."""

    def begin(self, direction: int, fd: int) -> None:
        """Takes the fd. Raises RequestError when it cannot begin."""
        self.abandon()
        outcome = Pending()

        def saved(result: Outcome) -> None:
            self._abandon = None
            outcome.resolve(result if isinstance(result, RequestError) else None)

        def loaded(result: Outcome) -> None:
            self._abandon = None
            if not isinstance(result, RequestError):
                try:
                    self._load(result)
                except RequestError as error:
                    result = error
            outcome.resolve(result if isinstance(result, RequestError) else None)

        if direction == TRANSFER_SAVE:
            self._abandon = self._channel.send(fd, self._save(), saved)
        else:
            self._abandon = self._channel.receive(fd, MAX_RECORD, loaded)
        self._outcome = outcome

    def check(self) -> Pending:
        """What comes of the last transfer, once. Raises RequestError when there was none."""
        outcome, self._outcome = self._outcome, None
        if outcome is None:
            raise RequestError("no state was transferred since this was last asked, or since the reset")
        return outcome

    def abandon(self) -> None:
        """Ends a transfer that is going on, and forgets the last."""
        if self._abandon is not None:
            self._abandon()
            self._abandon = None
        self._outcome = None
