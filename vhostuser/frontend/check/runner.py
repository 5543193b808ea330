"""Runs checks: each on connections of its own, within its time, and with a look at the back-end after it.

Not here: what the checks are, nor how verdicts are shown.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from vhostuser.errors import EnvironmentLacksError, FramingError, PeerError
from vhostuser.frontend.check import traffic
from vhostuser.frontend.check.model import (
    Check,
    CheckFailedError,
    NotApplicableError,
    Outcome,
    Result,
)
from vhostuser.frontend.check.peer import Offer, Peer, connect
from vhostuser.frontend.check.stream import Stream, number
from vhostuser.frontend.peer_process import listener_pid
from vhostuser.frontend.timeouts import Deadline, scaled
from vhostuser.wire.constants import Request
from vhostuser.wire.features import ProtocolFeature, VirtioFeature

DEFAULT_TIMEOUT = 10.0
_LOOK_AGAIN = 0.05
_PER_WAIT = 5
"""A single reply or frame may take this part of a check's time."""


class Expect(Enum):
    """What becomes of the frames that are sent."""

    FIND_OUT = "find out"
    """Whatever became of one that was sent before the first check."""
    NONE = "none"
    """Anything: nothing is expected back."""
    ECHO = "echo"
    """They come back as they were."""


@dataclass(frozen=True, slots=True)
class Sight:
    """The back-end as a look at it found it."""

    trouble: str = ""
    """Why it is of no use; empty when it answers."""
    gone: bool = False
    """Nobody listens."""
    pid: int = 0


def look(path: Path | str, patience: float) -> Sight:
    """Connect and ask for the features, again and again until there is an answer or the time is over.

    Again, for a back-end that takes one front-end at a time may not have noticed yet that the last one went,
    and one that ended may be started anew by whoever looks after it.
    """
    deadline = Deadline(patience)
    while True:
        sight = _look_once(path, patience)
        if not sight.trouble or not deadline.left:
            return sight
        time.sleep(_LOOK_AGAIN)


def _look_once(path: Path | str, patience: float) -> Sight:
    try:
        sock = connect(path, patience)
    except PeerError as error:
        return Sight(str(error), gone=True)
    with contextlib.closing(Stream(sock, patience)) as stream:
        pid = listener_pid(sock)
        try:
            number(stream.ask(Request.GET_FEATURES))
        except (PeerError, CheckFailedError) as error:
            return Sight(f"it answers no GET_FEATURES ({error})", pid=pid)
        return Sight(pid=pid)


def survey(path: Path | str, expected: Expect = Expect.FIND_OUT, patience: float = 2.0) -> Offer:
    """What the back-end offers, and whether frames come back.

    EnvironmentLacksError when nothing can be connected, PeerError when it does not say what it offers.
    """
    sight = look(path, patience)
    if sight.gone:
        raise EnvironmentLacksError(f"{sight.trouble}: start the back-end and have it listen there")
    if sight.trouble:
        raise PeerError(f"{path}: {sight.trouble}")
    with Peer(path, Offer(), patience) as peer:
        stream = peer.stream()
        try:
            virtio = VirtioFeature(number(stream.ask(Request.GET_FEATURES)))
            protocol = ProtocolFeature(0)
            if VirtioFeature.PROTOCOL_FEATURES in virtio:
                protocol = ProtocolFeature(number(stream.ask(Request.GET_PROTOCOL_FEATURES)))
        except CheckFailedError as error:
            raise PeerError(f"{path}: {error}") from error
    offer = Offer(virtio, protocol, expected is Expect.ECHO, sight.pid)
    if expected is Expect.FIND_OUT:
        offer = replace(offer, echoes=_echoes(path, replace(offer, echoes=True), patience))
    return offer


def _echoes(path: Path | str, offer: Offer, patience: float) -> bool:
    try:
        with Peer(path, offer, patience) as peer, peer.driver() as driver:
            traffic.settle(peer, driver)
            traffic.pass_frames(peer, driver, 1)
    except (PeerError, CheckFailedError, FramingError, TimeoutError):
        return False
    return True


class Runner:
    """Runs checks against the back-end at `path`, one after the other."""

    def __init__(
        self,
        path: Path | str,
        offer: Offer,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        restart_within: float = 0.0,
    ) -> None:
        """`restart_within` is how long to wait for somebody to start a back-end that ended again."""
        self.path = path
        self.offer = offer
        self.timeout = timeout
        self.restart_within = restart_within
        self.patience = timeout / _PER_WAIT
        self._pid = offer.pid

    def run(self, checks: Iterable[Check]) -> Iterator[Result]:
        """A result for each check, as it is known; broken off for all that come after the back-end's end."""
        gone = ""
        for check in checks:
            if gone:
                yield Result(check, Outcome.BROKEN_OFF, seen=f"never begun: {gone}")
                continue
            if why := check.lacking(self.offer):
                yield Result(check, Outcome.NOT_APPLICABLE, seen=why)
                continue
            started = time.monotonic()
            result = self._bounded(check)
            sight = look(self.path, self.patience)
            result = replace(self._judged(result, sight), seconds=time.monotonic() - started)
            if sight.trouble and self.restart_within:
                sight = look(self.path, self.restart_within)
            gone = sight.trouble
            self._pid = sight.pid or self._pid
            yield result

    def _judged(self, result: Result, sight: Sight) -> Result:
        """A check after which the back-end is gone has failed, whatever else it saw."""
        if sight.gone:
            end = f"the back-end ended: {sight.trouble}"
        elif sight.trouble:
            end = f"the back-end takes no other front-end any more: {sight.trouble}"
        elif sight.pid != self._pid:
            end = f"the back-end ended: process {self._pid} is now {sight.pid}"
        else:
            return result
        return replace(
            result,
            outcome=Outcome.FAILED,
            expected=result.expected or result.check.must,
            seen=f"{end}; before that: {result.seen}" if result.seen else end,
            ended=True,
        )

    def _bounded(self, check: Check) -> Result:
        """On a thread of its own, whose connections are ended when the time is over.

        A check that does not even come back then is left behind: the thread is a daemon.
        """
        found: Future[Result] = Future()
        peer = Peer(self.path, self.offer, self.patience)

        def work() -> None:
            try:
                found.set_result(_verdict(check, peer))
            except BaseException as error:  # a bug of ours: shown by whoever runs the checks
                found.set_exception(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(scaled(self.timeout))
        late = thread.is_alive()
        if late:
            peer.abort()
            thread.join(scaled(2 * self.patience))
        if not thread.is_alive():
            peer.close()
        if late:
            return Result(check, Outcome.BROKEN_OFF, seen=f"not finished within {scaled(self.timeout):g} s")
        return found.result()


def _verdict(check: Check, peer: Peer) -> Result:
    try:
        check.body(peer)
    except CheckFailedError as error:
        return Result(check, Outcome.FAILED, error.expected, error.seen)
    except NotApplicableError as error:
        return Result(check, Outcome.NOT_APPLICABLE, seen=str(error))
    except (PeerError, FramingError, TimeoutError, ConnectionError) as error:
        return Result(check, Outcome.FAILED, check.must, str(error))
    return Result(check, Outcome.PASSED)
