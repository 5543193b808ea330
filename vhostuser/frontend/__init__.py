"""The driver side: a front-end with a virtio-net driver in user space.

What QEMU, Cloud Hypervisor or DPDK's virtio-user do towards a back-end, scriptable:

- `guest_memory`, `virtqueue`: memory that a guest would have; split rings in plain Python, with raw access
- `calls`, `dialogue`, `frontend`, `async_frontend`: one function for each request, blocking and awaited
- `orders`, `link`: the message orders of known front-ends; a device brought up, stopped, resumed
- `driver`: frames in and out in Python; `flood`: the same in C (`csrc/`) for load, latency and integrity
- `frames`, `world`, `stage`, `demo`: `vhostuser demo`

It shares `wire/`, `errors` and two C headers with the rest of the package, so that what it proves about a
back-end does not rest on that back-end's own code.
"""

from __future__ import annotations
