"""The driver side: a front-end with a virtio-net driver in user space.

What QEMU, Cloud Hypervisor or DPDK's virtio-user do towards a back-end, scriptable: guest memory, plain
Python virtqueues, the messages, a driver that sends and receives frames, and a driver in C for load.

It shares `wire/`, `errors` and two C headers with the rest of the package, so that what it proves about a
back-end does not rest on that back-end's own code.
"""
