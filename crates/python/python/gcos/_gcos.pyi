"""What `gcos` is made of. Use `gcos` itself."""

import os
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias, final

from typing_extensions import Buffer as _HasBuffer
from typing_extensions import CapsuleType

from gcos._future import Future
from gcos._records import DriveInfo, IntervalStats, ObjectInfo, PoolInfo, RecoveryReport, Stats
from gcos.errors import GcosError

__all__ = [
    "Buffer",
    "Config",
    "DeviceBuffer",
    "FileIo",
    "KeyIterator",
    "Memory",
    "MetricsServer",
    "Registration",
    "Store",
    "__version__",
    "close_all",
    "play_gpu",
    "set_log_level",
    "statuses",
]

class _Tensor(Protocol):
    def data_ptr(self) -> int: ...
    def is_contiguous(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...

class _Exporter(Protocol):
    def __dlpack__(self) -> CapsuleType: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

class _Stream(Protocol):
    @property
    def cuda_stream(self) -> int: ...

_Key: TypeAlias = bytes | str
_Memory: TypeAlias = _HasBuffer | _Tensor | _Exporter | Memory | Buffer | DeviceBuffer
_Memories: TypeAlias = _Memory | list[_Memory] | tuple[_Memory, ...]
_Durability: TypeAlias = Literal["sync", "relaxed"]
_IfExists: TypeAlias = Literal["replace", "keep"]
_LogLevel: TypeAlias = Literal["off", "error", "warning", "info", "debug", "trace"]
_Config: TypeAlias = Config | dict[str, Any] | str | os.PathLike[str]

__version__: str

def statuses() -> list[tuple[int, str]]: ...
def close_all(timeout: float) -> int: ...
def play_gpu(store: Store, device: int) -> None: ...
def set_log_level(level: _LogLevel) -> None: ...
@final
class Config:
    @staticmethod
    def load(path: str | os.PathLike[str] | None = None) -> Config: ...
    @staticmethod
    def parse(text: str) -> Config: ...
    @staticmethod
    def from_dict(document: dict[str, Any]) -> Config: ...
    def to_dict(self) -> dict[str, Any]: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class Memory:
    def __new__(
        cls, ptr: int, nbytes: int, owner: object = None, device: object = None
    ) -> Memory: ...
    @property
    def ptr(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def device(self) -> str | None: ...

@final
class Buffer:
    def data_ptr(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __dlpack__(
        self,
        *,
        stream: Any = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
        **_options: Any,
    ) -> CapsuleType: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

@final
class DeviceBuffer:
    def data_ptr(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...
    def __len__(self) -> int: ...
    def __dlpack__(
        self,
        *,
        stream: Any = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
        **_options: Any,
    ) -> CapsuleType: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

@final
class Registration:
    def close(self) -> None: ...
    @property
    def ptr(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def __enter__(self) -> Registration: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None: ...

@final
class MetricsServer:
    @property
    def address(self) -> str: ...
    def close(self) -> None: ...
    def __enter__(self) -> MetricsServer: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None: ...

@final
class KeyIterator:
    def __iter__(self) -> KeyIterator: ...
    def __next__(self) -> tuple[bytes, int]: ...

@final
class FileIo:
    def __new__(
        cls, device: int, enable_gds: bool, staging_bytes: int, durable: bool
    ) -> FileIo: ...
    def mode(self) -> str: ...
    def reason(self) -> str: ...
    def write(
        self,
        path: str | os.PathLike[str],
        address: int,
        size: int,
        offset: int,
        stream: int,
    ) -> tuple[int, str, str | None]: ...
    def read(
        self,
        path: str | os.PathLike[str],
        address: int,
        size: int,
        offset: int,
        stream: int,
    ) -> tuple[int, str, str | None]: ...

@final
class Store:
    @staticmethod
    def open(
        config: _Config | None = None, *, create: bool = False, threads: int = 4
    ) -> Store: ...
    def put(
        self,
        key: _Key,
        data: _Memories,
        *,
        durability: _Durability = "sync",
        if_exists: _IfExists = "replace",
        ttl: float | None = None,
        stream: int | _Stream | None = None,
    ) -> bool: ...
    def get(self, key: _Key) -> bytes | None: ...
    def get_into(
        self,
        key: _Key,
        buf: _Memories,
        *,
        offset: int | None = None,
        stream: int | _Stream | None = None,
    ) -> bool: ...
    def put_many(
        self,
        keys: Iterable[_Key],
        bufs: Iterable[_Memories],
        *,
        durability: _Durability = "sync",
        if_exists: _IfExists = "replace",
        ttl: float | None = None,
        stream: int | _Stream | None = None,
    ) -> list[bool | GcosError]: ...
    def get_many(
        self,
        keys: Iterable[_Key],
        bufs: Iterable[_Memories],
        *,
        stream: int | _Stream | None = None,
    ) -> list[bool | GcosError]: ...
    def submit_put(
        self,
        key: _Key,
        data: _Memories,
        *,
        durability: _Durability = "sync",
        if_exists: _IfExists = "replace",
        ttl: float | None = None,
        stream: int | _Stream | None = None,
    ) -> Future[bool]: ...
    def submit_get_into(
        self,
        key: _Key,
        buf: _Memories,
        *,
        offset: int | None = None,
        stream: int | _Stream | None = None,
    ) -> Future[bool]: ...
    def submit_put_many(
        self,
        keys: Iterable[_Key],
        bufs: Iterable[_Memories],
        *,
        durability: _Durability = "sync",
        if_exists: _IfExists = "replace",
        ttl: float | None = None,
        stream: int | _Stream | None = None,
    ) -> Future[list[bool | GcosError]]: ...
    def submit_get_many(
        self,
        keys: Iterable[_Key],
        bufs: Iterable[_Memories],
        *,
        stream: int | _Stream | None = None,
    ) -> Future[list[bool | GcosError]]: ...
    def register(self, buf: _Memory) -> Registration: ...
    def buffer(self, nbytes: int) -> Buffer: ...
    def device_buffer(self, device: object, nbytes: int) -> DeviceBuffer: ...
    def contains(self, key: _Key) -> bool: ...
    def __contains__(self, key: _Key, /) -> bool: ...
    def prefix(self, keys: Sequence[_Key]) -> int: ...
    def info(self, key: _Key) -> ObjectInfo | None: ...
    def pin(self, key: _Key) -> bool: ...
    def unpin(self, key: _Key) -> bool: ...
    def touch(self, key: _Key) -> bool: ...
    def remove(self, key: _Key) -> bool: ...
    def keys(self, prefix: _Key | None = None, *, after: _Key | None = None) -> KeyIterator: ...
    def stats(self) -> Stats: ...
    def interval_stats(self) -> IntervalStats: ...
    def metrics_text(self) -> str: ...
    def serve_metrics(self, address: str = "127.0.0.1:0") -> MetricsServer: ...
    def drives(self) -> list[DriveInfo]: ...
    @property
    def pool(self) -> PoolInfo: ...
    @property
    def recovery(self) -> RecoveryReport: ...
    @property
    def closed(self) -> bool: ...
    def flush(self) -> None: ...
    def checkpoint(self) -> None: ...
    def close(self, *, timeout: float = 60.0) -> None: ...
    def __enter__(self) -> Store: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None: ...
