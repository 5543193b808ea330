"""The back-end side of one connection: transport, stream, session and device put together.

One message at a time: the reader is unplugged while one is handled, its result is waited for, or its reply is
still to be sent, so a front-end that does not read its replies stops only itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Protocol

from vhostuser.datapath.reaper import reaper
from vhostuser.errors import FrontendError
from vhostuser.server.device_trace import DeviceTrace
from vhostuser.server.transport import Transport
from vhostuser.session.device import Device, Pending, Result
from vhostuser.session.session import Session
from vhostuser.wire.connection import Connection
from vhostuser.wire.messages import Message, Reply
from vhostuser.wire.requests import FRONTEND_REQUESTS

TURN_SECONDS = 0.0005
"""Then other sockets and the packets have theirs."""
MESSAGE_SECONDS = 5.0
"""From a message's first byte to its last."""
SILENCE_SECONDS = 30.0
"""From the connection to the first message."""
RESULT_SECONDS = 20.0
"""From a request to the result that its device promised; longer than any limit of the device's own."""
HANG_UP_SECONDS = 0.5
"""Between two looks whether a front-end that has us wait for pages of its memory is still there."""
LOOK_BACK_SECONDS = (1.0, 10.0)
"""After the last message: time to say why a ring does not run, and later why one that runs stays empty."""


class ConnectedDevice(Device, Protocol):
    """What a connection needs of its device beside what the session does."""

    def when_quiet(self, work: Callable[[], None]) -> None:
        """Does ``work``, which may change the device: at once, unless that would wait for the front-end."""

    def part(self, then: Callable[[], None]) -> None:
        """The front-end has gone: from now on nothing of the device waits for it. ``then``, which says the
        rest, is done at once or when nothing waits any more."""

    def idle_reasons(self) -> dict[int, str]:
        """By ring index, why it does nothing; empty when all is well."""

    def disconnect(self) -> None:
        """The front-end has gone and its session is closed: gives up all that it brought."""


class Backend:
    """One front-end. Made with a connected socket; ends by itself or by `close`, and says so to ``on_end``.

    ``on_end`` gets the reason, "" for a clean end. The device outlives it.
    """

    def __init__(
        self,
        transport: Transport,
        device: ConnectedDevice,
        log: logging.LoggerAdapter[logging.Logger],
        on_end: Callable[[str], None],
        trace: DeviceTrace | None = None,
    ) -> None:
        self._transport = transport
        self._device = device
        self._log = log
        self._on_end = on_end
        self._trace = trace
        self._connection = Connection()
        self._session = Session(device, self._on_decision)
        self._refusal: FrontendError | None = None
        self._unsent = b""
        self._pending: Pending | None = None
        self._unsent_fds: tuple[int, ...] = ()
        self._message: Message | None = None
        """Waits for the device to be quiet."""
        self._open = True
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.call_later(SILENCE_SECONDS, self._too_slow)
        self._look_back: asyncio.TimerHandle | None = None
        self._loop.add_reader(transport.fileno(), self._on_readable)
        log.info("front-end connected (%s)", transport.peer())
        if trace is not None:
            trace.begin(transport.peer())

    @property
    def is_ending(self) -> bool:
        """It was closed, but its device still waits."""
        return not self._open

    def is_gone(self) -> bool:
        """Whether the front-end has hung up; the loop may not have come to it yet."""
        return self._transport.is_hung_up()

    def close(self, reason: str = "", level: int = logging.INFO) -> None:
        """Ends the connection and gives up all that the front-end brought: now or, where the device waits for
        a page of it, right after that wait has been ended. Closing twice does nothing.

        The one log line about it has ``reason``, at ``level``.
        """
        if not self._open:
            return
        self._open = False
        self._deadline.cancel()
        if self._look_back is not None:
            self._look_back.cancel()
        # Both loops go deaf, and uvloop aborts, when an fd is closed before it is removed.
        self._loop.remove_reader(self._transport.fileno())
        self._loop.remove_writer(self._transport.fileno())
        reaper.close(self._connection.pending_fds())
        self._close_unsent_fds()
        if self._message is not None:
            reaper.close(self._message.fds.drain())
            self._message = None
        self._device.part(lambda: self._give_up(reason, level))

    def _give_up(self, reason: str, level: int) -> None:
        self._session.close()
        self._device.disconnect()
        if self._trace is not None:
            self._trace.end(reason)
        # Before the socket goes: whoever sees the end finds the reason in the log.
        self._log.log(level, "front-end disconnected%s", f": {reason}" if reason else "")
        self._transport.close()
        self._on_end(reason)

    def _on_readable(self) -> None:
        end = self._loop.time() + TURN_SECONDS
        with self._paying_for_errors(), contextlib.suppress(BlockingIOError):
            while self._read_message() and self._may_read():
                if self._loop.time() > end:
                    return

    def _may_read(self) -> bool:
        return self._open and not self._unsent and self._pending is None and self._message is None

    @contextlib.contextmanager
    def _paying_for_errors(self) -> Iterator[None]:
        """Whatever goes wrong inside costs this connection, and nothing else."""
        try:
            yield
        except FrontendError as error:
            self.close(str(error), logging.ERROR)
        except OSError as error:
            self.close(error.strerror or str(error))
        except Exception:
            self._log.exception("our own bug; only this front-end pays for it")
            self.close("internal error")

    def _read_message(self) -> bool:
        """Reads on; True when a message was completed and handled."""
        was_between = self._connection.is_between_messages
        while wanted := self._connection.bytes_wanted:
            chunk, fds = self._transport.read(wanted)
            if not chunk:
                reaper.close(fds)
                clean = self._connection.is_between_messages
                self.close("" if clean else "it went away in the middle of a message")
                return False
            if was_between:
                self._deadline.cancel()
                self._deadline = self._loop.call_later(MESSAGE_SECONDS, self._too_slow)
                was_between = False
            self._connection.receive(chunk, fds)
        message = self._connection.next_message()
        assert message is not None
        self._deadline.cancel()
        row = FRONTEND_REQUESTS.get(message.request)
        if row is not None and row.is_question:
            self._handle(message)
        else:
            self._handle_when_quiet(message)
        return True

    def _handle_when_quiet(self, message: Message) -> None:
        """In postcopy the device may be waiting for a page, which the front-end sends when it sees fit: the
        message waits as long, but not we. There is no time limit, for the front-end knows what it has us wait
        for: QEMU's guest is in the same wait, and it may take a network's repair."""
        is_waiting = False

        def go_on() -> None:
            if self._message is not message:
                return
            self._message = None
            if not is_waiting:
                self._handle(message)
                return
            self._deadline.cancel()
            self._loop.add_reader(self._transport.fileno(), self._on_readable)
            with self._paying_for_errors():
                self._handle(message)

        self._message = message
        self._device.when_quiet(go_on)
        if self._message is message:
            is_waiting = True
            self._loop.remove_reader(self._transport.fileno())
            self._look_for_hang_up()

    def _look_for_hang_up(self) -> None:
        if self.is_gone():
            self.close("it went away while memory of its was waited for")
        else:
            self._deadline = self._loop.call_later(HANG_UP_SECONDS, self._look_for_hang_up)

    def _handle(self, message: Message) -> None:
        self._refusal = None
        if self._trace is not None:
            self._trace.ask(message)
        try:
            outcome = self._session.handle(message)
        finally:
            reaper.close(message.fds.drain())
        if isinstance(outcome, Pending):
            self._wait_for(outcome, message.name)
        else:
            self._conclude(outcome)

    def _wait_for(self, pending: Pending, name: str) -> None:
        self._pending = pending
        self._loop.remove_reader(self._transport.fileno())
        self._deadline = self._loop.call_later(RESULT_SECONDS, self._no_result, name)
        pending.then(lambda result: self._on_result(pending, result))

    def _on_result(self, pending: Pending, result: Result) -> None:
        if pending is not self._pending or not self._open:
            return
        self._pending = None
        self._deadline.cancel()
        self._loop.add_reader(self._transport.fileno(), self._on_readable)
        with self._paying_for_errors():
            self._conclude(self._session.complete(pending, result))

    def _no_result(self, name: str) -> None:
        self.close(f"there is no result of {name} after {RESULT_SECONDS:g} s", logging.ERROR)

    def _conclude(self, reply: Reply | None) -> None:
        # Not so if the session raised: what ends the connection is said once, there.
        if self._refusal is not None:
            self._log.warning("refused: %s", self._refusal)
        if reply is not None:
            self._send(reply)
        self._watch_rings()

    def _send(self, reply: Reply) -> None:
        """Takes the reply's fds: they are closed when they have gone out, or with the connection."""
        self._unsent_fds = reply.fds
        self._unsent = self._connection.encode(reply)
        if not self._send_rest():
            self._loop.remove_reader(self._transport.fileno())
            self._loop.add_writer(self._transport.fileno(), self._on_writable)

    def _send_rest(self) -> bool:
        """Sends what the socket takes, the fds with the first byte; True when nothing is left."""
        try:
            sent = self._transport.send(self._unsent, self._unsent_fds)
        except BlockingIOError:
            return False
        self._close_unsent_fds()
        self._unsent = self._unsent[sent:]
        return not self._unsent

    def _close_unsent_fds(self) -> None:
        fds, self._unsent_fds = self._unsent_fds, ()
        reaper.close(fds)

    def _on_writable(self) -> None:
        try:
            done = self._send_rest()
        except OSError as error:
            self.close(error.strerror or str(error))
            return
        if done:
            self._loop.remove_writer(self._transport.fileno())
            self._loop.add_reader(self._transport.fileno(), self._on_readable)

    def _too_slow(self) -> None:
        self.close("it stopped in the middle of a message, or never sent one")

    def _on_decision(self, message: Message, error: FrontendError | None, reply: Reply | None) -> None:
        self._refusal = error
        if error is None:
            self._log.debug("%s %s", message.name, message.payload)
        if self._trace is not None:
            self._trace.decide(message, error, reply, self._session.ring_states())

    def _watch_rings(self) -> None:
        """Looks once more when the front-end has been quiet: rings that wait then wait for something."""
        if self._look_back is not None:
            self._look_back.cancel()
        self._look_back = self._loop.call_later(LOOK_BACK_SECONDS[0], self._look_at_rings, 0, {})

    def _look_at_rings(self, look: int, reported: dict[int, str]) -> None:
        self._device.when_quiet(lambda: self._report_idle_rings(look, reported))

    def _report_idle_rings(self, look: int, reported: dict[int, str]) -> None:
        reasons = self._device.idle_reasons()
        for index, reason in reasons.items():
            if reported.get(index) != reason:
                self._log.warning("ring %d does nothing: %s", index, reason)
        if look + 1 < len(LOOK_BACK_SECONDS):
            wait = LOOK_BACK_SECONDS[look + 1]
            self._look_back = self._loop.call_later(wait, self._look_at_rings, look + 1, reasons)
