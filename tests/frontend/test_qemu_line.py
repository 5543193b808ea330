from __future__ import annotations

import os
from pathlib import Path

import pytest

from vhostuser.frontend.qemu_line import guest_line, has_kvm, qemu_version


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)", (7, 2)),
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)", (10, 0)),
        ("something else", (10, 0)),
    ],
)
def test_version_is_that_of_the_program_in_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, version: tuple[int, int]
) -> None:
    program = tmp_path / "qemu-system-x86_64"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    assert qemu_version() == version


def test_one_that_is_not_installed_is_taken_for_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    assert qemu_version() >= (9, 2)


@pytest.mark.parametrize(
    ("version", "reconnect"),
    [
        ((7, 2), "reconnect=1"),
        ((9, 1), "reconnect=1"),
        ((9, 2), "reconnect-ms=1000"),
        ((10, 0), "reconnect-ms=1000"),
    ],
)
def test_time_to_reconnect_is_in_the_unit_of_that_version(version: tuple[int, int], reconnect: str) -> None:
    assert f"path=/tmp/x.sock,{reconnect} " in guest_line("/tmp/x.sock", version, kvm=True)


def test_old_qemu_without_kvm_gets_no_msi_x() -> None:
    assert "vectors=0" in guest_line("/x", (7, 2), kvm=False)
    assert "vectors" not in guest_line("/x", (7, 2), kvm=True)
    assert "vectors" not in guest_line("/x", (8, 0), kvm=False)


def test_kvm_is_there_only_if_it_can_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(path)

    monkeypatch.setattr(os, "open", lambda path, flags: os.dup(0))
    assert has_kvm()
    monkeypatch.setattr(os, "open", refuse)
    assert not has_kvm()
