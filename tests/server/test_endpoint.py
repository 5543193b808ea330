from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest

from tests.server.conftest import until
from vhostuser.config import DeviceConfig
from vhostuser.errors import EnvironmentLacksError
from vhostuser.server.endpoint import endpoint_for

LOG = logging.LoggerAdapter(logging.getLogger("vhostuser"), {})


def config(path: Path, **words: object) -> DeviceConfig:
    return DeviceConfig(name="a", socket_path=str(path), port="sink", **words)  # type: ignore[arg-type]


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return sock


def refuse(sock: socket.socket) -> None:
    raise AssertionError("nobody connects in this test")


async def test_listening_endpoint_hands_out_connections_and_removes_its_socket(folder: Path) -> None:
    path, got = folder / "a.sock", list[socket.socket]()
    endpoint = endpoint_for(config(path), got.append, LOG)
    endpoint.open()

    with connect(path):
        await until(lambda: len(got) == 1)
    got[0].close()
    assert endpoint.front_end_gone()
    with connect(path):
        await until(lambda: len(got) == 2)
    got[1].close()
    endpoint.close()

    assert not path.exists()


async def test_regression_socket_file_is_there_only_when_front_ends_may_come(folder: Path) -> None:
    """It was made before anybody listened, and who came in between was refused."""
    path, got = folder / "a.sock", list[socket.socket]()
    endpoint = endpoint_for(config(path), got.append, LOG)

    with connect(path):
        assert got == []
        endpoint.open()
        await until(lambda: len(got) == 1)
    got[0].close()
    endpoint.close()


async def test_socket_gets_the_rights_that_were_asked_for(folder: Path) -> None:
    path = folder / "a.sock"
    wanted = config(path, socket_mode="0640", socket_owner=str(os.geteuid()), socket_group=str(os.getegid()))
    endpoint = endpoint_for(wanted, refuse, LOG)
    endpoint.open()

    assert path.stat().st_mode & 0o777 == 0o640
    endpoint.close()


@pytest.mark.parametrize(
    ("key", "value"), [("socket_owner", "no-such-user"), ("socket_group", "no-such-group")]
)
async def test_unknown_owner_is_named(folder: Path, key: str, value: str) -> None:
    with pytest.raises(EnvironmentLacksError, match=value):
        endpoint_for(config(folder / "a.sock", **{key: value}), refuse, LOG)
    assert os.listdir(folder) == [], "no socket that nobody serves"


async def test_stale_socket_is_replaced(folder: Path) -> None:
    path = folder / "a.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    endpoint = endpoint_for(config(path), refuse, LOG)
    endpoint.open()

    endpoint.close()


async def test_socket_that_is_served_names_the_process(folder: Path) -> None:
    path = folder / "a.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(1)
        with pytest.raises(EnvironmentLacksError, match=f"served by process {os.getpid()}"):
            endpoint_for(config(path), refuse, LOG)

    assert path.exists()


async def test_file_that_is_no_socket_is_left_alone(folder: Path) -> None:
    path = folder / "a.sock"
    path.write_text("precious")

    with pytest.raises(EnvironmentLacksError, match="is not a socket"):
        endpoint_for(config(path), refuse, LOG)
    assert path.read_text() == "precious"


async def test_missing_directory_is_named(folder: Path) -> None:
    with pytest.raises(EnvironmentLacksError, match=f"directory {folder}/none .* does not exist"):
        endpoint_for(config(folder / "none" / "a.sock"), refuse, LOG)


@pytest.mark.parametrize(("length", "fits"), [(107, True), (108, False)])
async def test_path_has_at_most_107_bytes(folder: Path, length: int, fits: bool) -> None:
    path = folder / ("x" * (length - len(str(folder)) - 1))
    if fits:
        endpoint = endpoint_for(config(path), refuse, LOG)
        endpoint.open()
        endpoint.close()
    else:
        with pytest.raises(EnvironmentLacksError, match=r"108 bytes.*shorter directory"):
            endpoint_for(config(path), refuse, LOG)


async def test_connecting_endpoint_waits_for_its_peer_and_comes_again(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path, got = folder / "a.sock", list[socket.socket]()
    endpoint = endpoint_for(config(path, client=True, reconnect_ms=5), got.append, LOG)
    endpoint.open()
    await until(lambda: "waiting for a front-end" in caplog.text)

    with socket.socket(socket.AF_UNIX) as peer:
        peer.bind(str(path))
        peer.listen(4)
        await until(lambda: len(got) == 1)
        got[0].close()
        assert endpoint.front_end_gone()
        await until(lambda: len(got) == 2)
    got[1].close()
    endpoint.close()
    assert caplog.text.count("waiting for a front-end") == 1


async def test_inherited_connected_socket_is_used_once(folder: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    got: list[socket.socket] = []
    endpoint = endpoint_for(DeviceConfig(name="a", fd=ours.detach(), port="sink"), got.append, LOG)

    endpoint.open()

    assert len(got) == 1
    assert not endpoint.front_end_gone()
    endpoint.close()
    got[0].close()
    theirs.close()


async def test_inherited_listening_socket_accepts(folder: Path) -> None:
    path, got = folder / "a.sock", list[socket.socket]()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(1)
    endpoint = endpoint_for(DeviceConfig(name="a", fd=listening.detach(), port="sink"), got.append, LOG)
    endpoint.open()

    with connect(path):
        await until(lambda: len(got) == 1)
    got[0].close()
    assert endpoint.front_end_gone()
    endpoint.close()
    assert path.exists(), "whoever made the socket removes it"


async def test_inherited_fd_of_another_kind_is_refused(folder: Path) -> None:
    pipe = os.pipe()
    with pytest.raises(EnvironmentLacksError, match="is not a socket that was passed"):
        endpoint_for(DeviceConfig(name="a", fd=pipe[0], port="sink"), refuse, LOG)
    with (
        socket.socket(socket.AF_INET) as inet,
        pytest.raises(EnvironmentLacksError, match="not a unix stream socket"),
    ):
        endpoint_for(DeviceConfig(name="a", fd=inet.fileno(), port="sink"), refuse, LOG)
    for fd in pipe:
        os.close(fd)


async def test_directory_that_may_not_be_written_says_who_may_not(folder: Path) -> None:
    os.chmod(folder, 0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(EnvironmentLacksError, match=r"no permission to make socket .* write to"):
            endpoint_for(config(folder / "a.sock"), refuse, LOG)
    finally:
        os.seteuid(user)
        os.chmod(folder, 0o755)
