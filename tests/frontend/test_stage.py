"""What the demo plays on, and what it falls back to."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhostuser.errors import EnvironmentLacksError, PeerError
from vhostuser.frontend import stage
from vhostuser.frontend.frontend import Frontend


def refuse(path: Path) -> None:
    raise EnvironmentLacksError("no namespaces on Sundays")


def test_tap_is_the_first_choice() -> None:
    with stage.set_up() as made:
        assert made.world is not None
        assert made.world.counts()["echoed"] == 0
        with Frontend.connect(made.path) as frontend:
            assert frontend.get_features()
    assert not made.path.parent.exists()


def test_echo_takes_its_place_and_the_reason_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "World", refuse)
    with stage.set_up() as made:
        assert made.world is None
        assert made.lacking == "no namespaces on Sundays"
        with Frontend.connect(made.path) as frontend:
            assert frontend.get_features()
    assert not made.path.parent.exists()


def test_tap_that_is_asked_for_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "World", refuse)
    with pytest.raises(EnvironmentLacksError, match="Sundays"), stage.set_up("tap"):
        pass


def test_echo_that_is_asked_for_needs_no_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "World", refuse)
    with stage.set_up("echo") as made:
        assert made.lacking == ""


def test_folder_goes_when_the_block_fails() -> None:
    folders: list[Path] = []

    def fail() -> None:
        with stage.set_up("echo") as made:
            folders.append(made.path.parent)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not folders[0].exists()


def test_world_that_lacks_something_passes_its_words_on(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLacksError):
        stage.World(tmp_path / "missing" / "w.sock")


def test_world_whose_process_dies_is_noticed(tmp_path: Path) -> None:
    world = stage.World(tmp_path / "w.sock")
    world._process.kill()
    world._process.wait()
    with pytest.raises((PeerError, BrokenPipeError)):
        world.counts()
    world.close()
