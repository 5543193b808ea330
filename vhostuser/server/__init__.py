"""The loop and the vhost-user sockets: where devices and ports meet, and asyncio is known.

`server` runs any number of `served_device`s; `endpoint` says where their front-ends come from, `backend` is
one connection, `transport` its socket. `runner` turns the packet worker on the loop, `helper` is the one
thread for what may block.
"""
