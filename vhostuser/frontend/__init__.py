"""The driver side: a front-end with a virtio-net driver in user space.

What QEMU, Cloud Hypervisor or DPDK's virtio-user do towards a back-end, scriptable::

    from vhostuser.frontend import VirtioNetDriver

    with VirtioNetDriver.connect("/run/vm1.sock") as nic:
        nic.send(frame)
        answer = nic.recv().frame

The names in ``__all__`` are API, for tests of this back-end and of any other; each is loaded when it is first
used. They come from:

- `guest_memory`, `iova_memory`, `iommu`: memory that a guest would have, bare or behind an IOMMU
- `virtqueue`, `packed_virtqueue`: split and packed rings in plain Python, with raw access
- `calls`, `dialogue`, `frontend`, `async_frontend`: one function for each request, blocking and awaited
- `orders`, `link`: the message orders of known front-ends; a device brought up, stopped, resumed
- `driver`: frames in and out in Python; `flood`: the same in C (`csrc/`) for load, latency and integrity
- `control`: commands on a control queue
- `net_header`: the header before each frame

Not API: `frames`, `world`, `stage`, `demo`, which are `vhostuser demo`; `check`, which is `vhostuser check`.

It shares `wire/`, `errors`, `abi` and two C headers with the rest of the package, so that what it proves
about a back-end does not rest on that back-end's own code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vhostuser.frontend.async_frontend import AsyncFrontend
    from vhostuser.frontend.control import ControlQueue, RxMode
    from vhostuser.frontend.driver import Received, VirtioNetDriver
    from vhostuser.frontend.flood import Flood, Latency, Load, Report
    from vhostuser.frontend.frontend import Frontend
    from vhostuser.frontend.guest_memory import GuestMemory, Region
    from vhostuser.frontend.iommu import Answers, Iommu
    from vhostuser.frontend.iova_memory import IovaMemory
    from vhostuser.frontend.net_header import NetHeader
    from vhostuser.frontend.orders import Order
    from vhostuser.frontend.packed_virtqueue import PackedVirtqueue
    from vhostuser.frontend.virtqueue import SplitVirtqueue

__all__ = [
    "Answers",
    "AsyncFrontend",
    "ControlQueue",
    "Flood",
    "Frontend",
    "GuestMemory",
    "Iommu",
    "IovaMemory",
    "Latency",
    "Load",
    "NetHeader",
    "Order",
    "PackedVirtqueue",
    "Received",
    "Region",
    "Report",
    "RxMode",
    "SplitVirtqueue",
    "VirtioNetDriver",
]

_HOMES = {
    "Answers": "iommu",
    "AsyncFrontend": "async_frontend",
    "ControlQueue": "control",
    "Flood": "flood",
    "Frontend": "frontend",
    "GuestMemory": "guest_memory",
    "Iommu": "iommu",
    "IovaMemory": "iova_memory",
    "Latency": "flood",
    "Load": "flood",
    "NetHeader": "net_header",
    "Order": "orders",
    "PackedVirtqueue": "packed_virtqueue",
    "Received": "driver",
    "Region": "guest_memory",
    "Report": "flood",
    "RxMode": "control",
    "SplitVirtqueue": "virtqueue",
    "VirtioNetDriver": "driver",
}
"""Name -> the module of this package that it is loaded from."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'vhostuser.frontend' has no attribute '{name}'")
    from importlib import import_module

    globals()[name] = found = getattr(import_module(f"vhostuser.frontend.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
