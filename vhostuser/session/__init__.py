"""Layer 3: what a message means and when it is allowed. No I/O, no clock, no guest memory.

``states`` has the states of a ring and every step between them, ``device`` the Protocol that a device
implements, ``checks`` what is legal in an argument, ``replies`` what is answered, ``session`` one front-end's
conversation with one device, ``channel`` the few messages that go the other way.
"""

from __future__ import annotations
