"""Files of anybody and GPU memory, without a pool: a path, an address, a size, an offset, a stream.

cuFile (GPUDirect Storage) moves the bytes where it works; else they go through pinned host memory, each transfer for
itself.
"""

from __future__ import annotations

import enum
import logging
import os
from typing import Any

from gcos import _gcos
from gcos.errors import GcosError, InvalidArgument

_log = logging.getLogger("gcos.fileio")


class StorageMode(enum.Enum):
    """How bytes go between a file and GPU memory."""

    #: The drive writes into the GPU's memory and reads from it.
    GDS_DIRECT = "gds_direct"
    #: cuFile moves them with the processor.
    COMPATIBILITY = "compatibility"
    #: They go through pinned host memory, without cuFile.
    STAGING = "staging"


class GdsFileIO:
    """Moves bytes between files and the memory of one GPU. It may be used by many threads at a time.

    ``enable_gds=False`` leaves cuFile out. ``device`` is the number of the GPU, ``staging_bytes`` the pinned host memory
    of each transfer that goes without cuFile; with ``durable`` a write survives a loss of power when it returns.
    """

    def __init__(
        self,
        enable_gds: bool = True,
        *,
        device: int = 0,
        staging_bytes: int = 8 << 20,
        durable: bool = False,
    ) -> None:
        self._io = _gcos.FileIo(device, enable_gds, staging_bytes, durable)
        #: Why the last transfer of this object failed, or None.
        self.last_error: GcosError | None = None

    def get_storage_mode(self) -> StorageMode:
        """How bytes go where nothing speaks against it."""
        return StorageMode(self._io.mode())

    def get_reason(self) -> str:
        """Why cuFile is not used; empty where it is."""
        return self._io.reason()

    def write_to_file_gds(
        self,
        file_path: str | os.PathLike[str],
        gpu_ptr: int,
        size: int,
        file_offset: int = 0,
        stream: int = 0,
        cpu_buffer: Any = None,
    ) -> bool:
        """Writes ``size`` bytes of GPU memory at ``gpu_ptr`` to the file, which is made if it is not there.

        The write begins when the work before it in ``stream`` has ended; it has ended when this returns. False if it
        failed: the reason is logged and in ``last_error``. Arguments that make no sense raise
        :class:`gcos.InvalidArgument`. ``cpu_buffer`` is taken for the sake of callers that bring one: transfers without
        cuFile have pinned memory of their own.
        """
        return self._told("written", self._io.write, file_path, (gpu_ptr, size, file_offset, stream))

    def read_file_to_gds(
        self,
        file_path: str | os.PathLike[str],
        gpu_ptr: int,
        size: int,
        file_offset: int = 0,
        stream: int = 0,
        cpu_buffer: Any = None,
    ) -> bool:
        """Reads ``size`` bytes of the file to GPU memory at ``gpu_ptr``. As :meth:`write_to_file_gds` else."""
        return self._told("read", self._io.read, file_path, (gpu_ptr, size, file_offset, stream))

    def _told(self, verb: str, call: Any, path: str | os.PathLike[str], rest: tuple[int, ...]) -> bool:
        try:
            _, mode, fallback = call(os.fspath(path), *rest)
        except InvalidArgument:
            raise
        except GcosError as error:
            self.last_error = error
            _log.warning("%s could not be %s: %s", path, verb, error)
            return False
        self.last_error = None
        if fallback:
            _log.debug("%s was %s by way of %s: %s", path, verb, mode, fallback)
        return True


__all__ = ["GdsFileIO", "StorageMode"]
