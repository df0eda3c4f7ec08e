"""Functions in place of ``lmcache``'s ``gcos_ops``: files and GPU memory, by one :class:`gcos.fileio.GdsFileIO`.

What fails raises a :class:`gcos.GcosError`.
"""

from __future__ import annotations

import os
import threading

from gcos import _gcos
from gcos.errors import InvalidArgument

_lock = threading.Lock()
_io: _gcos.FileIo | None = None


def initialize_gcos(config_path: str | os.PathLike[str] | None = None, *, device: int = 0) -> bool:
    """Opens the GPU and finds out whether cuFile works. True; may be called again, for another GPU or configuration.

    With ``config_path`` the configuration is checked, and ``kernel_path.use_cufile`` in it says whether cuFile is used.
    The other functions do this by themselves if nobody has.
    """
    global _io
    enable_gds = True
    if config_path is not None:
        config = _gcos.Config.load(config_path).to_dict()
        enable_gds = bool(config["kernel_path"]["use_cufile"])
    made = _gcos.FileIo(device, enable_gds, 8 << 20, False)
    with _lock:
        _io = made
    return True


def _ready() -> _gcos.FileIo:
    if _io is None:
        initialize_gcos()
    assert _io is not None
    return _io


def create_file(file_path: str | os.PathLike[str], size: int = 0) -> bool:
    """Makes a file for its owner alone, with room for ``size`` bytes. False if it is there, which is left as it is."""
    if size < 0:
        raise InvalidArgument(f"size: expected 0 or more bytes, got {size}")
    try:
        descriptor = os.open(file_path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
    except BaseException:
        os.unlink(file_path)
        raise
    finally:
        os.close(descriptor)
    return True


def gpu_file_write(
    file_path: str | os.PathLike[str], gpu_ptr: int, size: int, file_offset: int = 0, stream: int = 0
) -> int:
    """Writes ``size`` bytes of GPU memory at ``gpu_ptr`` to a file, after the work before it in the stream.

    Returns the number of bytes when they are written.
    """
    return _ready().write(os.fspath(file_path), gpu_ptr, size, file_offset, stream)[0]


def gpu_file_read(
    file_path: str | os.PathLike[str], gpu_ptr: int, size: int, file_offset: int = 0, stream: int = 0
) -> int:
    """Reads ``size`` bytes of a file to GPU memory at ``gpu_ptr``, after the work before it in the stream.

    Returns the number of bytes when they are there.
    """
    return _ready().read(os.fspath(file_path), gpu_ptr, size, file_offset, stream)[0]


__all__ = ["create_file", "gpu_file_read", "gpu_file_write", "initialize_gcos"]
