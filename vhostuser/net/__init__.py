"""The virtio-net device: what is offered, its config space, and which ring runs against which port queue."""
