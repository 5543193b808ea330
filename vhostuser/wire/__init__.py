"""Layer 1: bytes and file descriptors in, typed messages out, and back. No I/O, no state of a device.

``constants`` and ``features`` are the numbers of the specifications, ``payloads`` what a message carries,
``structs`` how that looks in bytes (the one file that knows construct), ``messages`` the message itself and
the bag of its fds, ``requests`` the table with one row per request, ``connection`` the stream in both
directions.

What a message *means*, and when it is allowed, is `vhostuser.session`'s.
"""

from __future__ import annotations
