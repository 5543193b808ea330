"""Layer 2: the geometry of guest memory. Numbers in, numbers out: nothing is mapped here.

``regions`` is the memory table: what a front-end may ask for, where an address lies, how a region is mapped.
"""

from __future__ import annotations
