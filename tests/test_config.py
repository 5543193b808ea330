"""What a server can be told, and the sentence for what it cannot."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from vhostuser.config import (
    CpuList,
    DeviceConfig,
    FileMode,
    MacAddress,
    ServeConfig,
    json_schema,
    load_toml,
    make_config,
    parse_device_option,
)
from vhostuser.errors import EnvironmentLacksError, UsageError
from vhostuser.wire.features import ProtocolFeature, VirtioFeature


def refused(text: str) -> str:
    """The sentence about a --device, without the text that it begins with."""
    with pytest.raises(UsageError) as failure:
        parse_device_option(text)
    sentence = str(failure.value)
    assert sentence.startswith(f"device '{text}': ")
    return sentence.removeprefix(f"device '{text}': ")


def write(folder: Path, text: str) -> str:
    path = folder / "vhostuser.toml"
    path.write_text(text)
    return str(path)


# One device


def test_every_word_of_a_device() -> None:
    device = parse_device_option(
        "name=vm1,socket-path=/run/vm1.sock,client=off,reconnect-ms=250,one-off=on,queues=4,mac=52:54:00:12:34:56,"
        "mtu=9000,disable-feature=host-uso,disable-feature=PROTOCOL_F_RARP,uso=yes,config-space=1,socket-mode=0660,"
        "socket-owner=qemu,socket-group=107,port=tap:ifname=vm1,persist=on"
    )
    assert device == DeviceConfig(
        name="vm1",
        socket_path="/run/vm1.sock",
        reconnect_ms=250,
        one_off=True,
        queues=4,
        mac=MacAddress.parse("52:54:00:12:34:56"),
        mtu=9000,
        disable_feature=("host-uso", "PROTOCOL_F_RARP"),
        uso=True,
        config_space=True,
        socket_mode=FileMode(0o660),
        socket_owner="qemu",
        socket_group="107",
        port="tap:ifname=vm1,persist=on",
    )
    assert device.disabled_features() == (VirtioFeature.HOST_USO, ProtocolFeature.RARP)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("socket-path=/run/vm1.sock,port=echo", "vm1"),
        ("socket-path=a/b c.socket,port=echo", "b_c"),
        ("socket-path=/,port=echo", "device"),
        ("fd=7,port=echo", "fd7"),
    ],
)
def test_a_device_without_a_name_is_called_after_its_socket(text: str, name: str) -> None:
    assert parse_device_option(text).name == name


def test_port_may_be_the_only_word_left() -> None:
    assert refused("port=echo") == "a device has either socket-path=PATH or fd=N for its front-end"


def test_a_mac_is_read_from_the_config_space() -> None:
    device = parse_device_option("fd=3,mac=52-54-00-12-34-aB,port=echo")
    assert device.config_space
    assert device.mac == bytes.fromhex("525400123 4ab".replace(" ", ""))
    assert str(device.mac) == "52:54:00:12:34:ab"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sokcet-path=/x,port=echo", "unknown option 'sokcet-path' (did you mean 'socket-path'?)"),
        ("socket_path=/x,port=echo", "unknown option 'socket_path' (did you mean 'socket-path'?)"),
        ("", "a device has either socket-path=PATH or fd=N for its front-end"),
        ("fd=3,socket-path=/x,port=echo", "a device has either socket-path=PATH or fd=N for its front-end"),
        ("socket-path=/x", "port= says where the packets go and is missing, as in port=tap:x"),
        ("socket-path=/x,port=", "port= says where the packets go and is missing, as in port=tap:x"),
        ("socket-path,port=echo", "'socket-path' needs a value, as in socket-path=VALUE"),
        ("socket-path=/x,queues=0,port=echo", "queues=0 is out of range: it may be 1 to 128"),
        ("socket-path=/x,queues=129,port=echo", "queues=129 is out of range: it may be 1 to 128"),
        ("socket-path=/x,queues=two,port=echo", "queues=two is not a number from 1 to 128"),
        ("socket-path=/x,mtu=67,port=echo", "mtu=67 is out of range: it may be 68 to 65535"),
        ("socket-path=/x,client=maybe,port=echo", "client=maybe is neither on nor off"),
        (
            "socket-path=/x,mac=52:54,port=echo",
            "mac=52:54: a MAC address is six hex numbers, as in 52:54:00:12:34:56",
        ),
        (
            "socket-path=/x,mac=01:00:5e:00:00:01,port=echo",
            "mac=01:00:5e:00:00:01: that is a group's address: the first number has to be even",
        ),
        (
            "socket-path=/x,mac=00:00:00:00:00:00,port=echo",
            "mac=00:00:00:00:00:00: the address of a device is not all zeros",
        ),
        (
            "socket-path=/x,socket-mode=0999,port=echo",
            'socket-mode=0999: a mode is three octal digits in quotes, as in "0660"',
        ),
        ("socket-path=/x,name=a b,port=echo", "name=a b: a name is made of letters, digits and _ . : @ + -"),
        ("fd=3,client=on,port=echo", "client=on connects to a socket-path, so it does not go with fd=3"),
        (
            "fd=3,socket-mode=0660,port=echo",
            "socket-mode=0660 is for a socket that is made here, not with client= or fd=",
        ),
        (
            "socket-path=/x,client=on,socket-group=kvm,port=echo",
            "socket-group=kvm is for a socket that is made here, not with client= or fd=",
        ),
        ("fd=3,disable-feature=csim,port=echo", "unknown feature 'csim'; did you mean csum?"),
        ("fd=3,fd=4,port=echo", "fd is given twice"),
        ("fd=3,port=ecko", "there is no port type 'ecko' (did you mean 'echo'?)"),
        ("fd=4,queues=2,port=tap:fd=3", "queues=2 is more than port tap:fd=3 has: 1"),
        (
            "fd=3,port=echo,queues=2",
            "there is no port type 'echo,queues=2': it may be echo, packet, sink, source, switch, tap; "
            "port= takes the rest, so put queues= before it",
        ),
    ],
)
def test_devices_that_are_refused(text: str, sentence: str) -> None:
    assert refused(text) == sentence


def test_a_device_made_in_python_is_checked_too() -> None:
    with pytest.raises(UsageError, match="queues=500 is out of range"):
        DeviceConfig(socket_path="/x", port="echo", queues=500)
    with pytest.raises(UsageError, match="one-off=maybe: expected true or false, got text"):
        DeviceConfig(socket_path="/x", port="echo", one_off="maybe")  # type: ignore[arg-type]


# A file


def test_a_file_has_the_same_words(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        log-format = "json"
        trace = "/var/log/vhostuser.trace"
        workers = 2
        cpus = "1,3-4"
        [[device]]
        socket-path = "/run/a.sock"
        port = "tap:a"
        queues = 2
        disable-feature = ["mrg-rxbuf"]
        socket-mode = "0600"
        [[device]]
        name = "b"
        fd = 5
        port = "sink"
        """,
    )
    values = load_toml(path)
    config = make_config(values["device"], values)
    assert config == ServeConfig(
        device=(
            parse_device_option(
                "socket-path=/run/a.sock,queues=2,disable-feature=mrg-rxbuf,socket-mode=600,port=tap:a"
            ),
            parse_device_option("name=b,fd=5,port=sink"),
        ),
        log_format="json",
        trace="/var/log/vhostuser.trace",
        workers=2,
        cpus=CpuList((1, 3, 4)),
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[devise]]", ": unknown option 'devise' (did you mean 'device'?)"),
        ("[device]\nport='echo'", ": a device is a table of its own that begins with [[device]]"),
        ("device = 3", ": a device is a table of its own that begins with [[device]]"),
        (
            "[[device]]\nfd = 3\nport = 'echo'\n[[device]]\nnam = 3",
            ", device 2: unknown option 'nam' (did you mean 'name'?)",
        ),
        ("[[device]]\nfd = '3'\nport = 'echo'", ", device 1: fd=3: expected a number, got text in quotes"),
        (
            "[[device]]\nfd = 3\nport = 'echo'\nqueues = 0",
            ", device 1: queues=0 is out of range: it may be 1 to 128",
        ),
        ("[[device]]\nfd = true\nport = 'echo'", ", device 1: fd=True: expected a number, got true or false"),
        ("[[device]]\nfd = 3\nport = 4", ", device 1: port=4: expected text in quotes, got a number"),
        (
            "[[device]]\nfd = 3\nport = 'echo'\ndisable-feature = 'mq'",
            ", device 1: disable-feature=mq: expected a list, got text in quotes",
        ),
        (
            "[[device]]\nsocket-path = 'x'\nport = 'echo'\nsocket-mode = 0o660",
            ', device 1: socket-mode=432: a mode is three octal digits in quotes, as in "0660"',
        ),
        ("x =", " is not TOML: Invalid value (at end of document)"),
        ("\udcff", " is not TOML: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "vhostuser.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError) as failure:
        load_toml(str(path))
    assert str(failure.value) == f"{path}{sentence}"


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(EnvironmentLacksError, match=r"file /none\.toml cannot be read \(No such file"):
        load_toml("/none.toml")


# A server


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"postcopy": True}, "postcopy=on has threads wait for memory: give workers=N with N from 1 on, too"),
        ({"workers": 1025}, "workers=1025 is out of range: it may be 0 to 1024"),
        ({"workers": -1}, "workers=-1 is out of range: it may be 0 to 1024"),
        ({"cpus": "0"}, "cpus= is for worker threads: give workers=N with N from 1 on, too"),
        *(
            (
                {"workers": 1, "cpus": word},
                f"cpus={word}: a list of CPUs has numbers and ranges with commas between them, as in 0,2-5",
            )
            for word in ("", "1,", "-1", "x", 0, "1 2", "1--2", "\u0661")
        ),
        ({"workers": 1, "cpus": "3-2"}, "cpus=3-2: 3-2 is no range of CPUs from 0 to 1023"),
        ({"workers": 1, "cpus": "1024"}, "cpus=1024: 1024 is no range of CPUs from 0 to 1023"),
        ({"workers": 1, "cpus": "0-2,2"}, "cpus=0-2,2: a CPU is named twice"),
        ({"poll": "adaptive"}, "poll=adaptive is for worker threads: give workers=N with N from 1 on, too"),
        ({"poll": "busy"}, "poll=busy is for worker threads: give workers=N with N from 1 on, too"),
        ({"poll": "sleep"}, "poll=sleep is unknown: it may be event or adaptive or busy"),
        ({"loop": "uvlop"}, "loop=uvlop is unknown (did you mean 'uvloop'?)"),
        ({"log-level": "x"}, "log-level=x is unknown: it may be debug or info or warning or error"),
        ({"log-format": 3}, "log-format=3 is unknown: it may be text or json"),
    ],
)
def test_servers_that_are_refused(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError) as failure:
        make_config([DeviceConfig(fd=3, port="echo")], values)
    assert str(failure.value) == sentence


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ("name=a,fd=3,port=echo", "name=a,fd=4,port=echo", "two devices have name=a"),
        ("name=a,fd=3,port=echo", "name=b,fd=3,port=echo", "two devices have fd=3"),
        (
            "name=a,socket-path=/x,port=echo",
            "name=b,socket-path=/x,port=echo",
            "two devices have socket-path=/x",
        ),
    ],
)
def test_each_device_has_its_own(first: str, second: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^{sentence}: each needs its own$"):
        make_config([parse_device_option(first), parse_device_option(second)], {})


def test_a_server_without_a_device() -> None:
    with pytest.raises(UsageError, match="there is no device"):
        ServeConfig()


def test_the_schema_is_of_the_words_that_a_file_has() -> None:
    schema = json_schema()
    device = schema["$defs"]["DeviceConfig"]
    assert set(device["properties"]) == {field.encode_name for field in msgspec.structs.fields(DeviceConfig)}
    assert device["additionalProperties"] is False
    assert schema["$defs"]["ServeConfig"]["properties"]["loop"]["enum"] == ["asyncio", "uvloop"]
    assert device["properties"]["mtu"]["anyOf"][0]["maximum"] == 65535
    assert msgspec.json.encode(schema)
