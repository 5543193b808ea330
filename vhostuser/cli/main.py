"""The two programs: `vhostuser` with its commands, and `vhostuser-net`, which is `vhostuser serve`."""

from __future__ import annotations

from typing import NoReturn

import click

from vhostuser import __version__
from vhostuser.cli.program import Lazy, LazyGroup

_COMMANDS = {
    "serve": Lazy("vhostuser.cli.serve", "serve", "Serve virtio-net devices to front-ends until stopped."),
    "demo": Lazy(
        "vhostuser.cli.demo", "demo", "Send packets through a server, without a guest; takes seconds."
    ),
    "check": Lazy("vhostuser.cli.check", "check", "Test a vhost-user network back-end, ours or any other."),
    "bench": Lazy("vhostuser.cli.bench", "bench", "Measure a back-end, ours or any other."),
    "features": Lazy(
        "vhostuser.cli.features", "features", "List what is offered and which requests are served."
    ),
}


@click.group(
    "vhostuser",
    cls=LazyGroup,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "VHOSTUSER"},
)
@click.version_option(__version__, prog_name="vhostuser", message="%(prog)s %(version)s")
def vhostuser() -> None:
    """A vhost-user network back-end: fast NICs for QEMU, Cloud Hypervisor and DPDK guests.

    Exit status: 0 fine, 2 usage, 3 the environment lacks something, 4 the peer failed, 5 a bug of ours.
    """


def main() -> NoReturn:
    """The program `vhostuser`."""
    vhostuser.main(prog_name="vhostuser")
    raise AssertionError("a program ends with its exit status")


def main_net() -> NoReturn:
    """The program `vhostuser-net`: the name that the conventions for back-end programs want."""
    _COMMANDS["serve"].load().main(prog_name="vhostuser-net")
    raise AssertionError("a program ends with its exit status")
