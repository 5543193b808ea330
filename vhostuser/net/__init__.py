"""The virtio-net device: what is offered, its config space, and which ring runs against which port queue.

`device` implements the Protocol of `vhostuser.session.device` over the C core; `port_link` keeps its port
where it wants it. What a message means is the session's, which port there is the server's.
"""
