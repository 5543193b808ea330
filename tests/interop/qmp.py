"""QEMU's control protocol, as far as the tests use it: one blocking client."""

from __future__ import annotations

import json
import socket
from typing import Any


class QmpError(AssertionError):
    """QEMU refused a command."""


class Qmp:
    """One connection to the QMP socket of a running QEMU; it owns the connected socket that it is given."""

    def __init__(self, connection: socket.socket, timeout: float = 30) -> None:
        self._socket = connection
        self._socket.settimeout(timeout)
        self._lines = self._socket.makefile("r")
        self.events: list[dict[str, Any]] = []
        self._read()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> Any:
        """Send one command and return its answer; events that come first are kept in `events`."""
        message: dict[str, object] = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        while True:
            answer = self._read()
            if "error" in answer:
                raise QmpError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
            self.events.append(answer)

    def wait_event(self, name: str, device: object = None) -> dict[str, Any]:
        """The next event of a name, of one device if given; the events before it are dropped."""
        while True:
            event = self.events.pop(0) if self.events else self._read()
            if event.get("event") == name and device in (None, event["data"].get("device")):
                return event

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def _read(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise QmpError("QEMU closed the connection")
        answer: dict[str, Any] = json.loads(line)
        return answer
