"""A vhost-user network back-end: message, vring, port.

The three nouns, the layers and where each lives are drawn in ``ARCHITECTURE.md`` beside this file. Only the
names in ``__all__`` are API::

    async with Server([DeviceConfig(socket_path="/run/vm1.sock", port="echo")]) as server:
        await server.wait_finished()

- `Server` serves devices on the running event loop, `DeviceConfig` describes one in the words of
  `vhostuser serve`; `ServeConfig` is a whole configuration file
- every error is a `VhostUserError` with an ``exit_status``: a wrong configuration is a `UsageError`, a
  machine that lacks something an `EnvironmentLacksError`, a peer that fails a `PeerError`

The driver's side, for tests of any back-end, is `vhostuser.frontend`. Importing the package loads nothing: no
event loop, no C core, no wire codec; each name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vhostuser.config import DeviceConfig, ServeConfig
    from vhostuser.errors import EnvironmentLacksError, PeerError, UsageError, VhostUserError
    from vhostuser.server.server import Server

__all__ = [
    "DeviceConfig",
    "EnvironmentLacksError",
    "PeerError",
    "ServeConfig",
    "Server",
    "UsageError",
    "VhostUserError",
    "__version__",
]

__version__ = "0.1.0"

_HOMES = {
    "DeviceConfig": "vhostuser.config",
    "EnvironmentLacksError": "vhostuser.errors",
    "PeerError": "vhostuser.errors",
    "ServeConfig": "vhostuser.config",
    "Server": "vhostuser.server.server",
    "UsageError": "vhostuser.errors",
    "VhostUserError": "vhostuser.errors",
}
"""Name -> the module that it is loaded from."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'vhostuser' has no attribute '{name}'")
    from importlib import import_module

    globals()[name] = found = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
