"""A vhost-user network back-end: message, vring, port.

The three nouns, the layers and where each lives are drawn in ``ARCHITECTURE.md`` beside this file. Importing
the package loads nothing: no event loop, no C core, no wire codec. Only the names in ``__all__`` are API.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
