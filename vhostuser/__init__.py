"""A vhost-user network back-end: message, vring, port.

The three nouns, the layers and where each lives are drawn in ``ARCHITECTURE.md`` beside this file. Only the
names in ``__all__`` are API; the driver side for other people's tests is `vhostuser.frontend`. Importing the
package loads nothing: no event loop, no C core, no wire codec; each name is loaded when it is first used.
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
    "ServeConfig": "vhostuser.config",
    "Server": "vhostuser.server.server",
    "EnvironmentLacksError": "vhostuser.errors",
    "PeerError": "vhostuser.errors",
    "UsageError": "vhostuser.errors",
    "VhostUserError": "vhostuser.errors",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'vhostuser' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
