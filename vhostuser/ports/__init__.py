"""Where a device's packets go: one file for each kind of port, `base` for what they have in common.

A port opens, sets and closes; its frames are moved by C, which is told how by `vhostuser.datapath.port_ops`.
Another distribution adds a kind of its own through the entry-point group `vhostuser.ports`.
"""
