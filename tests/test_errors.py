from __future__ import annotations

import inspect

import pytest

from vhostuser import errors


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.UsageError, 2),
        (errors.EnvironmentLacksError, 3),
        (errors.FrontendError, 4),
        (errors.FramingError, 4),
        (errors.RequestError, 4),
        (errors.GuestError, 4),
        (errors.PeerError, 4),
        (errors.VhostUserError, 5),
    ],
)
def test_exit_status_follows_whose_fault_it_is(error: type[errors.VhostUserError], status: int) -> None:
    assert error.exit_status == status


def test_every_error_is_exported_and_drawn_in_the_tree() -> None:
    defined = {name for name, member in vars(errors).items() if inspect.isclass(member)} - {"ClassVar"}
    assert set(errors.__all__) == defined
    assert errors.__doc__ is not None
    assert all(name in errors.__doc__ for name in defined)


def test_a_message_that_is_refused_is_the_front_ends_fault() -> None:
    assert issubclass(errors.RequestError, errors.FrontendError)
    assert issubclass(errors.FramingError, errors.FrontendError)
    assert not issubclass(errors.GuestError, errors.FrontendError)


def test_request_error_without_a_request_is_its_reason() -> None:
    assert str(errors.RequestError("size 3 is not a power of two")) == "size 3 is not a power of two"


def test_within_names_the_request_and_keeps_the_cause() -> None:
    refusal = errors.RequestError("size 3 is not a power of two")
    refusal.__cause__ = OSError("why")

    named = refusal.within("SET_VRING_NUM ring 4")

    assert named is refusal
    assert str(named) == "SET_VRING_NUM ring 4: size 3 is not a power of two"
    assert isinstance(named.__cause__, OSError)


def test_within_does_not_rename() -> None:
    refusal = errors.RequestError("no", where="SET_MEM_TABLE").within("SET_OWNER")
    assert str(refusal) == "SET_MEM_TABLE: no"
