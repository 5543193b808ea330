"""`python -m vhostuser` is the program `vhostuser`."""

from __future__ import annotations

from vhostuser.cli.main import main

if __name__ == "__main__":
    main()
