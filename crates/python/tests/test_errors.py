"""Exceptions."""

from __future__ import annotations

import copy
import pickle

import pytest

import gcos
from gcos import _gcos, errors


def classes() -> list[type[gcos.GcosError]]:
    found = [getattr(errors, name) for name in errors.__all__]
    return [one for one in found if isinstance(one, type) and issubclass(one, gcos.GcosError)]


def test_each_status_of_the_library_has_a_class_and_a_name() -> None:
    library = dict(_gcos.statuses())
    assert {int(status): status.name.lower() for status in gcos.Status} == library
    made = {code: errors.from_status(code, "text") for code in library if code}
    assert {int(error.status): type(error).__name__ for error in made.values()} == {
        code: "ConfigError" if name == "config" else "".join(part.capitalize() for part in name.split("_"))
        for code, name in library.items()
        if code
    }
    assert {type(error) for error in made.values()} == set(classes()) - {gcos.GcosError}


def test_a_status_that_is_newer_than_this_package_is_an_error_all_the_same() -> None:
    error = errors.from_status(-999, "text")
    assert type(error) is gcos.GcosError
    assert error.status is gcos.Status.INTERNAL and "-999" in str(error)


@pytest.mark.parametrize("cls", classes())
def test_an_exception_says_its_message_and_can_be_copied(cls: type[gcos.GcosError]) -> None:
    made = cls(gcos.Status.IO, "what to do") if cls is gcos.GcosError else cls("what to do")  # type: ignore[call-arg,arg-type]
    assert str(made) == made.message == "what to do"
    for again in (pickle.loads(pickle.dumps(made)), copy.copy(made)):
        assert type(again) is cls
        assert (again.status, again.message) == (made.status, made.message)
    assert cls.__doc__


def test_exceptions_are_also_what_python_calls_them() -> None:
    for cls, also in (
        (gcos.InvalidArgument, ValueError),
        (gcos.ConfigError, ValueError),
        (gcos.WrongSize, ValueError),
        (gcos.NoSuchKey, KeyError),
        (gcos.Io, OSError),
        (gcos.Timeout, TimeoutError),
        (gcos.OutOfMemory, MemoryError),
    ):
        with pytest.raises(also, match="text"):
            raise cls("text")
