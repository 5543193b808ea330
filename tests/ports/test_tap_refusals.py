"""The sentences about a tap that cannot be had, for the failures that no test can bring about here."""

from __future__ import annotations

import errno
import os

import pytest

from vhostuser.errors import EnvironmentLacksError
from vhostuser.ports import tap_refusals
from vhostuser.ports.interface import Interface


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOENT, "there is no /dev/net/tun: run 'modprobe tun', or give the container the device"),
        (errno.ENODEV, "there is no /dev/net/tun: run 'modprobe tun', or give the container the device"),
        (errno.EACCES, "/dev/net/tun may not be opened by user root: give the user read and write on it"),
        (errno.EMFILE, "/dev/net/tun cannot be opened once more (Too many open files): raise the limit"),
        (errno.EIO, "/dev/net/tun cannot be opened (Input/output error): see what"),
    ],
)
def test_the_tun_device(number: int, sentence: str) -> None:
    refusal = tap_refusals.no_device(failure(number))
    assert isinstance(refusal, EnvironmentLacksError)
    assert str(refusal).startswith(sentence)


def test_an_error_that_nobody_expected_is_told_as_it_is() -> None:
    interface = Interface("vm1")
    sentence = str(tap_refusals.not_attached(failure(errno.ENOMEM), interface, 1))
    assert sentence.startswith("tap vm1 cannot be opened (Cannot allocate memory)")
    interface.close()


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242424)
    assert "by user 4242424:" in str(tap_refusals.no_device(failure(errno.EACCES)))


def test_a_setting_that_failed() -> None:
    sentence = str(tap_refusals.not_set_up(failure(errno.EPERM), "vm1"))
    assert sentence.startswith(
        "tap vm1 cannot be set up (Operation not permitted): give this process CAP_NET_ADMIN"
    )
