"""What one device says in the trace: reads the clocks, remembers what a line needs from before."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from vhostuser.errors import FrontendError
from vhostuser.session.states import RingState
from vhostuser.stats import trace
from vhostuser.wire.messages import Message, Reply


class DeviceTrace:
    """One for each device, over all its front-ends. ``write`` takes a line and must not wait."""

    def __init__(self, device: str, write: Callable[[str], None]) -> None:
        self._device = device
        self._write = write
        self._states: dict[int, RingState] = {}
        self._at = self._began = self._fds = 0

    def begin(self, peer: str) -> None:
        self._write(trace.begin_line(time.time_ns(), self._device, peer))

    def ask(self, message: Message) -> None:
        """A message is there and is going to be handled; what its fds are is lost by then."""
        self._at, self._began, self._fds = time.time_ns(), time.perf_counter_ns(), len(message.fds)

    def decide(
        self,
        message: Message,
        refusal: FrontendError | None,
        reply: Reply | None,
        states: Mapping[int, RingState],
    ) -> None:
        """What became of it, and of the rings."""
        took = time.perf_counter_ns() - self._began
        direction = trace.Direction.FRONT_END
        self._write(
            trace.message_line(
                self._at, self._device, direction, message, self._fds, reply, refusal, took_ns=took
            )
        )
        self._rings(states)

    def report(self, text: str) -> None:
        self._write(trace.report_line(time.time_ns(), self._device, text))

    def end(self, reason: str) -> None:
        self._rings({})
        self._write(trace.end_line(time.time_ns(), self._device, reason))

    def _rings(self, states: Mapping[int, RingState]) -> None:
        if states == self._states:
            return
        for line in trace.ring_lines(time.time_ns(), self._device, self._states, states):
            self._write(line)
        self._states = dict(states)
