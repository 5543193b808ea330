"""Where a device's packets go: one file for each kind of port, `base` for what they have in common."""
