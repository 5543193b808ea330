"""Rings, packets and every shared mapping: all C of the product (`csrc/`), and thin Python faces over it.

A face converts: Python values in, return codes to exceptions out. What a ring or a frame means is decided in
C; which device, port and file descriptors there are is decided in `vhostuser.net`. Guest memory is never
touched from Python: a truncated file would kill the process.
"""
