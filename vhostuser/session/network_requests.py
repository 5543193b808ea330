"""Requests on the network device: what it announces, its config space, and its own way to the front-end."""

from __future__ import annotations

from vhostuser.errors import RequestError
from vhostuser.session import checks
from vhostuser.session.conversation import Conversation
from vhostuser.session.replies import RefusedWith
from vhostuser.wire.messages import U64, Config, Empty, FdBag, Rarp


class NetworkRequests:
    """One method per request; the table of requests names them."""

    def __init__(self, said: Conversation) -> None:
        self._said = said

    def send_rarp(self, payload: Rarp, fds: FdBag) -> None:
        checks.check_mac(payload.mac)
        self._said.device.send_rarp(payload.mac)

    def net_set_mtu(self, payload: U64, fds: FdBag) -> None:
        checks.check_mtu(payload.value)
        self._said.device.set_mtu(payload.value)

    def set_backend_req_fd(self, payload: Empty, fds: FdBag) -> None:
        self._said.device.set_backend_req_fd(fds.take())

    def get_config(self, payload: Config, fds: FdBag) -> Config:
        """Refused with the 12-byte form whose size is 0: rust-vmm takes that for an error."""
        try:
            checks.check_config_window(payload.offset, payload.size)
            content = self._said.device.get_config(payload.offset, payload.size)
        except RequestError as error:
            raise RefusedWith(error.reason, Config(payload.offset, 0, payload.flags, b"")) from error
        return Config(payload.offset, len(content), payload.flags, content)

    def set_config(self, payload: Config, fds: FdBag) -> None:
        checks.check_config_write(payload.offset, payload.size, payload.data, payload.flags)
        self._said.device.set_config(payload.offset, payload.data, payload.flags)
