"""Exceptions: one class for each status of the library, all of them subclasses of :class:`GcosError`."""

from __future__ import annotations

import enum
from typing import ClassVar


class Status(enum.IntEnum):
    """How a call ended. Numbers and names are stable, and the same as in the C interface."""

    OK = 0
    INVALID_ARGUMENT = -1
    CONFIG = -2
    NOT_A_POOL = -3
    BUSY = -4
    MISSING_DRIVE = -5
    NO_SUCH_KEY = -6
    FULL = -7
    WRONG_SIZE = -8
    IO = -9
    TIMEOUT = -10
    CLOSED = -11
    OUT_OF_MEMORY = -12
    GPU = -13
    UNSUPPORTED = -14
    FORKED = -15
    INTERNAL = -16


class GcosError(Exception):
    """Something that GCOS could not do. ``status`` says what kind of failure it is, ``message`` what to do."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return self.message


class _Of(GcosError):
    """A failure of one status, which its class knows."""

    _status: ClassVar[Status] = Status.INTERNAL

    def __init__(self, message: str) -> None:
        super().__init__(self._status, message)
        # What the class is called with when it is copied or unpickled.
        self.args = (message,)


class InvalidArgument(_Of, ValueError):
    """An argument is out of its range, or does not go with the others. Nothing was done."""

    _status = Status.INVALID_ARGUMENT


class ConfigError(_Of, ValueError):
    """The configuration cannot be read, or says what cannot be."""

    _status = Status.CONFIG


class NotAPool(_Of):
    """A drive holds no pool, one that cannot be opened, or something else that would be lost."""

    _status = Status.NOT_A_POOL


class Busy(_Of):
    """The pool, a drive or memory is in use by somebody else."""

    _status = Status.BUSY


class MissingDrive(_Of):
    """A drive that the pool needs is not there, or does not answer."""

    _status = Status.MISSING_DRIVE


class NoSuchKey(_Of, KeyError):
    """A miss where a miss is an error. Calls of :class:`gcos.Store` return False or None instead."""

    _status = Status.NO_SUCH_KEY


class Full(_Of):
    """There is no room, and nothing may be evicted."""

    _status = Status.FULL


class WrongSize(_Of, ValueError):
    """The memory does not have the length of the object."""

    _status = Status.WRONG_SIZE


class Io(_Of, OSError):
    """A drive, a file or the system failed."""

    _status = Status.IO


class Timeout(_Of, TimeoutError):
    """It did not end in time."""

    _status = Status.TIMEOUT


class Closed(_Of):
    """The store has been closed."""

    _status = Status.CLOSED


class OutOfMemory(_Of, MemoryError):
    """There is no memory left, or no addresses that drives reach."""

    _status = Status.OUT_OF_MEMORY


class Gpu(_Of):
    """A GPU or its driver failed, or there is none."""

    _status = Status.GPU


class Unsupported(_Of):
    """It cannot be had here."""

    _status = Status.UNSUPPORTED


class Forked(_Of):
    """The store was opened by the parent of this process: open it again here."""

    _status = Status.FORKED


class Internal(_Of):
    """A fault of the library. The store may be used on, or closed."""

    _status = Status.INTERNAL


_CLASSES: dict[int, type[_Of]] = {
    int(cls._status): cls
    for cls in (
        InvalidArgument,
        ConfigError,
        NotAPool,
        Busy,
        MissingDrive,
        NoSuchKey,
        Full,
        WrongSize,
        Io,
        Timeout,
        Closed,
        OutOfMemory,
        Gpu,
        Unsupported,
        Forked,
        Internal,
    )
}


def from_status(code: int, message: str) -> GcosError:
    """The exception for a status, as the library makes it."""
    cls = _CLASSES.get(code)
    if cls is None:
        return GcosError(Status.INTERNAL, f"unknown status {code}: {message}")
    return cls(message)


__all__ = [
    "Busy",
    "Closed",
    "ConfigError",
    "Forked",
    "Full",
    "GcosError",
    "Gpu",
    "Internal",
    "InvalidArgument",
    "Io",
    "MissingDrive",
    "NoSuchKey",
    "NotAPool",
    "OutOfMemory",
    "Status",
    "Timeout",
    "Unsupported",
    "WrongSize",
    "from_status",
]
