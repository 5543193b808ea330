"""From the words of a command line to a configuration."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

from vhostuser.cli.main import vhostuser
from vhostuser.config import DeviceConfig, ServeConfig, parse_device_option


class FakeServer(ModuleType):
    """Stands in for `vhostuser.server.server`: keeps what it is told to run."""

    def __init__(self) -> None:
        super().__init__("vhostuser.server.server")
        self.ran: list[ServeConfig] = []
        self.status = 0

    def run(self, config: ServeConfig) -> int:
        self.ran.append(config)
        return self.status


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    fake = FakeServer()
    monkeypatch.setitem(sys.modules, "vhostuser.server.server", fake)
    monkeypatch.setattr("vhostuser.cli.logs.set_up", lambda level, form: None)
    return fake


def serve(line: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(vhostuser, ["serve", *line.split()])


def configured(server: FakeServer, line: str, **environment: str) -> ServeConfig:
    result = serve(line, **environment)
    assert result.exit_code == 0, result.output
    return server.ran[-1]


def test_one_device(server: FakeServer) -> None:
    line = (
        "-s /run/vm1.sock --port tap:ifname=vm1,persist=on --queues 4 --mac 52:54:00:12:34:56 --mtu 9000 -1 "
        "--uso --disable-feature mq --disable-feature host-ecn --socket-mode 0660 --socket-owner qemu "
        "--socket-group kvm --reconnect-ms 5 --config-space"
    )
    assert configured(server, line).device == (
        parse_device_option(
            "socket-path=/run/vm1.sock,queues=4,mac=52:54:00:12:34:56,mtu=9000,one-off=on,uso=on,disable-feature=mq,"
            "disable-feature=host-ecn,socket-mode=0660,socket-owner=qemu,socket-group=kvm,reconnect-ms=5,"
            "config-space=on,port=tap:ifname=vm1,persist=on"
        ),
    )


def test_the_shortest_lines(server: FakeServer) -> None:
    assert configured(server, "-F 0 --port echo") == ServeConfig(device=(DeviceConfig(fd=0, port="echo"),))
    (device,) = configured(server, "--client --socket /x --port sink").device
    assert (device.client, device.socket_path) == (True, "/x")


def test_several_devices_and_what_they_share(server: FakeServer) -> None:
    config = configured(
        server,
        "--device socket-path=/a,port=tap:a --device fd=3,port=tap:ifname=b,up=off "
        "--workers 3 --cpus 0,2-3 --poll adaptive --loop asyncio --log-level debug --log-format json "
        "--trace /var/log/t",
    )
    assert [device.port for device in config.device] == ["tap:a", "tap:ifname=b,up=off"]
    assert (config.loop, config.log_level, config.log_format) == ("asyncio", "debug", "json")
    assert (config.workers, config.cpus, config.poll) == (3, (0, 2, 3), "adaptive")
    assert config.trace == "/var/log/t"


def test_options_win_over_the_file(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "v.toml"
    path.write_text('log-level = "error"\nloop = "asyncio"\n[[device]]\nfd = 3\nport = "echo"\n')
    config = configured(server, f"--config {path} --log-level warning --device fd=4,port=sink")
    assert [device.fd for device in config.device] == [3, 4]
    assert (config.loop, config.log_level) == ("asyncio", "warning")


def test_options_from_the_environment(server: FakeServer) -> None:
    config = configured(
        server,
        "--port echo",
        VHOSTUSER_SOCKET_PATH="/x",
        VHOSTUSER_CLIENT="1",
        VHOSTUSER_DISABLE_FEATURE="mq csum",
    )
    (device,) = config.device
    assert (device.socket_path, device.client, device.disable_feature) == ("/x", True, ("mq", "csum"))


@pytest.mark.parametrize("status", [0, 3, 4])
def test_the_server_says_how_it_ended(server: FakeServer, status: int) -> None:
    server.status = status
    assert serve("--fd 3 --port echo").exit_code == status


@pytest.mark.parametrize(
    ("line", "status", "sentence"),
    [
        ("", 2, "nothing to serve: give --socket-path PATH and --port PORT, or --device, or --config"),
        ("--port echo", 2, "a device has either socket-path=PATH or fd=N for its front-end"),
        ("-s /x", 2, "port= says where the packets go and is missing, as in port=tap:x"),
        ("-s /x --port echo --queues x", 2, "queues=x is not a number from 1 to 128"),
        (
            "-s /x --port echo --device fd=3,port=echo",
            2,
            "--socket-path is for a server of one device: put it as a word",
        ),
        ("-s /x --port echo --workers 1025", 2, "workers=1025 is out of range: it may be 0 to 1024"),
        ("-s /x --port echo --cpus 0", 2, "cpus= is for worker threads: give workers=N"),
        ("-s /x --port echo --workers 1 --cpus 1-", 2, "cpus=1-: a list of CPUs has numbers"),
        ("-s /x --port echo --poll busy", 2, "poll=busy is for worker threads: give workers=N"),
        ("-s /x --port echo --postcopy", 2, "postcopy=on has threads wait for memory: give workers=N"),
        ("-s /x --port echo --workers x", 2, "workers=x is not a number from 0 to 1024"),
        ("-s /x --port echo --loop trio", 2, "loop=trio is unknown"),
        ("-s /x --port echo --log-level inof", 2, "log-level=inof is unknown (did you mean 'info'?)"),
        ("-s /x --port echo --trace=", 2, "trace=: "),
        ("-s /x --port echo --mtu=", 2, "mtu= is not a number from 68 to 65535"),
        ("-s /x --port tap:averyveryverylongname", 3, "the interface name 'averyveryverylongname' has 21"),
        ("--config /none.toml", 3, "the configuration file /none.toml cannot be read"),
    ],
)
def test_lines_that_are_refused(server: FakeServer, line: str, status: int, sentence: str) -> None:
    result = serve(line)
    assert (result.exit_code, server.ran) == (status, [])
    assert result.output.startswith(f"vhostuser: {sentence}")
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("option", ["--control /x", "extra"])
def test_what_this_version_does_not_have(server: FakeServer, option: str) -> None:
    result = serve(f"-s /x --port echo {option}")
    assert (result.exit_code, server.ran) == (2, [])
