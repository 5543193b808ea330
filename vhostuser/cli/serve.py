"""`vhostuser serve`: from what was typed to a `ServeConfig`; `server.run` does the rest."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from vhostuser import __version__
from vhostuser.cli.program import Program
from vhostuser.errors import UsageError

if TYPE_CHECKING:
    from vhostuser.config import DeviceConfig, ServeConfig

_SHARED = ("workers", "cpus", "poll", "postcopy", "loop", "log-level", "log-format", "trace")
"""Options of the whole server; the others are words of one device."""


@click.command(
    "serve",
    cls=Program,
    # The same variables for `vhostuser serve` and `vhostuser-net`: VHOSTUSER_SOCKET_PATH and so on.
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "VHOSTUSER"},
)
@click.option(
    "--socket-path", "--socket", "-s", "socket_path", metavar="PATH", help="Unix socket of the front-end."
)
@click.option("--fd", "-F", metavar="N", help="Inherited socket instead, listening or connected.")
@click.option("--client", is_flag=True, help="Connect to the socket, and again whenever it is lost.")
@click.option("--reconnect-ms", metavar="MS", help="Time between two attempts to connect.  [default: 1000]")
@click.option("--one-off", "-1", is_flag=True, help="End when the first front-end has gone.")
@click.option(
    "--port",
    metavar="PORT",
    help="Where packets go: tap:NAME, tap:fd=N, packet:IFNAME, switch:NAME[,vlan=N], echo, sink, "
    "source[:size=N].",
)
@click.option("--queues", metavar="N", help="Queue pairs of the port.  [default: 1]")
@click.option("--mac", metavar="MAC", help="Address of the device; implies --config-space.")
@click.option("--mtu", metavar="N", help="MTU to offer, and to set on the port.")
@click.option("--disable-feature", metavar="NAME", multiple=True, help="Feature not to offer. Repeatable.")
@click.option("--uso", is_flag=True, help="Offer UDP segmentation; tap and packet then need Linux 6.2.")
@click.option("--config-space", is_flag=True, help="Offer the device's config space; QEMU has its own.")
@click.option("--socket-mode", metavar="MODE", help="Permissions of the socket, such as 0660.")
@click.option("--socket-owner", metavar="USER", help="User that owns the socket.")
@click.option("--socket-group", metavar="GROUP", help="Group that owns the socket.")
@click.option("--device", metavar="KEY=VALUE,...", multiple=True, help="One device, port= last. Repeatable.")
@click.option("--config", metavar="FILE", help="TOML file with the same words, a [[device]] table each.")
@click.option("--workers", metavar="N", help="Threads that run the rings; 0, the event loop.  [default: 0]")
@click.option("--cpus", metavar="LIST", help="Their CPUs, one each in turn, such as 2,4-7.")
@click.option("--poll", metavar="HOW", help="How they wait: event, adaptive or busy.  [default: event]")
@click.option("--postcopy", is_flag=True, help="Offer postcopy migration, in place of memory slots.")
@click.option("--loop", metavar="NAME", help="uvloop or asyncio.  [default: uvloop]")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.  [default: info]")
@click.option("--log-format", metavar="FORMAT", help="text or json.  [default: text]")
@click.option("--trace", metavar="FILE", help="Append a line of JSON for each control message; - is stdout.")
@click.version_option(__version__, prog_name="vhostuser", message="%(prog)s %(version)s")
def serve(**typed: Any) -> None:
    """Serve virtio-net devices to front-ends until SIGTERM.

    \b
    vhostuser serve --socket-path /run/vm1.sock --port tap:vm1
    vhostuser serve --device socket-path=/run/a.sock,port=tap:a --device socket-path=/run/b.sock,port=echo
    vhostuser serve --config /etc/vhostuser.toml

    Every option can be given in the environment too: --socket-path as VHOSTUSER_SOCKET_PATH.
    """
    from vhostuser.cli import logs

    config = make_serve_config(typed)
    logs.set_up(config.log_level, config.log_format)
    from vhostuser.server.server import run

    sys.exit(run(config))


def make_serve_config(typed: dict[str, Any]) -> ServeConfig:
    """The configuration that options, `--device`s and a file make together; options win over the file."""
    from vhostuser import config
    from vhostuser.options import parse_number

    values = config.load_toml(typed["config"]) if typed["config"] else {}
    for key in _SHARED:
        word = typed[key.replace("-", "_")]
        if word is not None and word is not False:
            values[key] = parse_number(key, word, 0, config.MAX_WORKERS) if key == "workers" else word
    return config.make_config(_devices(typed, values.get("device", ())), values)


def _devices(typed: dict[str, Any], in_file: tuple[DeviceConfig, ...]) -> list[DeviceConfig]:
    from vhostuser.config import make_device_of_words, parse_device_option

    words = list(_words_of_one_device(typed))
    others = [*in_file, *(parse_device_option(text) for text in typed["device"])]
    if words and others:
        source = "--device" if typed["device"] else "--config"
        raise UsageError(f"--{words[0][0]} is for a server of one device: put it as a word into {source}")
    if not words and not others:
        raise UsageError(
            "nothing to serve: give --socket-path PATH and --port PORT, or --device, or --config"
        )
    return others or [make_device_of_words(words)]


def _words_of_one_device(typed: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The options that describe a device, as the words that `--device` would have."""
    for name, value in typed.items():
        key = name.replace("_", "-")
        if key in ("device", "config", *_SHARED):
            continue
        if value is True:
            yield key, "on"
        elif isinstance(value, tuple):
            yield from ((key, word) for word in value)
        elif value is not None and value is not False:
            yield key, value
