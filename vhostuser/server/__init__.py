"""The loop and the vhost-user sockets: the only package that knows asyncio. Devices and ports meet here."""
