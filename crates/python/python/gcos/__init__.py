"""LLM KV cache on raw NVMe drives.

    >>> import gcos
    >>> store = gcos.Store.open({"disk": {"number": 1, "paths": ["emulated:ram:64MiB"], "capacity_bytes": 64 << 20}})
    >>> store.put("layer 0", b"keys and values")
    True
    >>> store.get("layer 0")
    b'keys and values'
    >>> store.close()

:class:`Store` keeps objects; :mod:`gcos.fileio` and :mod:`gcos.ops` move bytes between files and GPUs.
"""

from __future__ import annotations

import atexit as _atexit

from gcos import _gcos
from gcos._future import Future
from gcos._gcos import (
    Buffer,
    Config,
    DeviceBuffer,
    KeyIterator,
    Memory,
    MetricsServer,
    Registration,
    Store,
    __version__,
    set_log_level,
)
from gcos._records import DriveInfo, IntervalStats, ObjectInfo, PoolInfo, RecoveryReport, Stats
from gcos.errors import (
    Busy,
    Closed,
    ConfigError,
    Forked,
    Full,
    GcosError,
    Gpu,
    Internal,
    InvalidArgument,
    Io,
    MissingDrive,
    NoSuchKey,
    NotAPool,
    OutOfMemory,
    Status,
    Timeout,
    Unsupported,
    WrongSize,
)

# Stores that nobody closed are closed in order before the interpreter goes: within this many seconds.
_atexit.register(_gcos.close_all, 30.0)

__all__ = [
    "Buffer",
    "Busy",
    "Closed",
    "Config",
    "ConfigError",
    "DeviceBuffer",
    "DriveInfo",
    "Forked",
    "Full",
    "Future",
    "GcosError",
    "Gpu",
    "Internal",
    "IntervalStats",
    "InvalidArgument",
    "Io",
    "KeyIterator",
    "Memory",
    "MetricsServer",
    "MissingDrive",
    "NoSuchKey",
    "NotAPool",
    "ObjectInfo",
    "OutOfMemory",
    "PoolInfo",
    "RecoveryReport",
    "Registration",
    "Stats",
    "Status",
    "Store",
    "Timeout",
    "Unsupported",
    "WrongSize",
    "__version__",
    "set_log_level",
]
