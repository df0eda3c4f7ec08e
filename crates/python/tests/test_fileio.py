"""Files and GPU memory: what can be said without a GPU. The rest is in gpu_test.py."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

import gcos
from gcos import _gcos, fileio, ops


def test_a_file_is_made_once_for_its_owner_alone(folder: Path) -> None:
    path = folder / "file"
    assert ops.create_file(path, 10_000) is True
    assert (path.stat().st_size, stat.S_IMODE(path.stat().st_mode)) == (10_000, 0o600)
    path.write_bytes(b"content")
    assert ops.create_file(path, 10_000) is False
    assert path.read_bytes() == b"content"
    assert ops.create_file(folder / "empty") is True
    with pytest.raises(gcos.InvalidArgument, match="0 or more"):
        ops.create_file(folder / "negative", -1)
    with pytest.raises(OSError):
        ops.create_file(folder / "vast", 1 << 60)
    assert not (folder / "vast").exists()


def test_without_that_gpu_it_is_said_that_there_is_none(folder: Path) -> None:
    for call in (
        lambda: fileio.GdsFileIO(device=77),
        lambda: fileio.GdsFileIO(enable_gds=False, device=77),
        lambda: ops.initialize_gcos(device=77),
    ):
        with pytest.raises(gcos.Gpu):
            call()
    with pytest.raises(gcos.ConfigError):
        ops.initialize_gcos(folder / "nothing")


def test_the_modes_are_those_of_the_library() -> None:
    assert [mode.value for mode in fileio.StorageMode] == ["gds_direct", "compatibility", "staging"]


class Played:
    """In place of the library: a transfer that ends as it was told."""

    def __init__(self, end: BaseException | None) -> None:
        self.end = end
        self.calls: list[tuple[object, ...]] = []

    def write(self, *arguments: object) -> tuple[int, str, str | None]:
        self.calls.append(arguments)
        if self.end:
            raise self.end
        return (4096, "staging", "because")

    read = write


def test_a_transfer_that_fails_is_false_and_one_without_sense_is_raised() -> None:
    io = fileio.GdsFileIO.__new__(fileio.GdsFileIO)
    io.last_error = None
    played = Played(None)
    io._io = played  # type: ignore[assignment]
    for call in (io.write_to_file_gds, io.read_file_to_gds):
        assert call("path", 4096, 10, file_offset=5, stream=7, cpu_buffer=object()) is True
        assert call("path", 4096, 10) is True
    assert played.calls[0] == ("path", 4096, 10, 5, 7)
    assert played.calls[1] == ("path", 4096, 10, 0, 0)
    played.end = gcos.Io("of the drive")
    assert io.write_to_file_gds("path", 4096, 10) is False
    assert io.last_error is played.end
    played.end = None
    assert io.read_file_to_gds("path", 4096, 10) is True
    assert io.last_error is None
    played.end = gcos.InvalidArgument("of the caller")
    with pytest.raises(gcos.InvalidArgument):
        io.read_file_to_gds("path", 4096, 10)


def test_functions_say_what_types_they_want() -> None:
    for wrong in ((None, True, 1, False), (0, "yes", 1, False), (0, True, "many", False)):
        with pytest.raises(TypeError):
            _gcos.FileIo(*wrong)  # type: ignore[arg-type]
    with pytest.raises(gcos.InvalidArgument, match="device: expected"):
        _gcos.FileIo(-1, True, 1, False)
