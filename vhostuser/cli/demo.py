"""`vhostuser demo`: what was typed, handed to `vhostuser.frontend.demo`."""

from __future__ import annotations

import sys

import click


@click.command("demo")
@click.option(
    "--seconds",
    type=click.FloatRange(0.05, 3600),
    default=1.0,
    show_default=True,
    help="How long each measurement takes; there are up to six.",
)
@click.option(
    "--port",
    type=click.Choice(["auto", "tap", "echo"]),
    default="auto",
    show_default=True,
    help="Port of the server: a tap in a network namespace of its own, or echo.",
)
def demo(seconds: float, port: str) -> None:
    """Start a server, send packets through it with the built-in driver, and show what went through.

    Needs neither QEMU nor a guest. As root, or where user namespaces are allowed, the server has a tap and
    the packets meet the kernel's network stack; elsewhere they are echoed. Nothing is left behind.
    """
    from vhostuser.frontend import demo as logic

    sys.exit(logic.run(click.echo, seconds=seconds, port=port))
