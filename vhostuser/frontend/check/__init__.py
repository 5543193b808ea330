"""`vhostuser check`: is a back-end, ours or anybody's, what front-ends need it to be?

- `model`: a check, its verdict, and how a check says what it saw
- `peer`, `stream`, `stepper`, `old_qemu`, `traffic`: what checks are made of
- the groups, one file each, are listed in `catalogue`
- `runner`: a connection for each check, and a look whether the back-end is still there after it
- `report`: the verdicts for people and as JSON

A check knows the back-end by its socket only. It fails on what the peer does, never on what it logs, so that
the same verdict means the same for every back-end.
"""
