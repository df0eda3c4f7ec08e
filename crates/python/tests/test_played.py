"""Memory of a GPU, which host threads play: its addresses are those of the host, so that what lies there can be seen."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator

import pytest
from conftest import MIB, document

import gcos
from gcos import _gcos


@pytest.fixture
def played() -> Iterator[gcos.Store]:
    """A store with two GPUs."""
    with gcos.Store.open(document("emulated:ram:64MiB")) as store:
        _gcos.play_gpu(store, 0)
        _gcos.play_gpu(store, 1)
        yield store


@pytest.fixture
def other() -> Iterator[gcos.Store]:
    """Another store with the same GPUs: its memory is foreign to the first."""
    with gcos.Store.open(document("emulated:ram:64MiB")) as store:
        _gcos.play_gpu(store, 0)
        _gcos.play_gpu(store, 1)
        yield store


def fill(buffer: gcos.DeviceBuffer, data: bytes, offset: int = 0) -> None:
    ctypes.memmove(buffer.data_ptr() + offset, data, len(data))


def content(buffer: gcos.DeviceBuffer, length: int | None = None, offset: int = 0) -> bytes:
    return ctypes.string_at(buffer.data_ptr() + offset, buffer.nbytes if length is None else length)


def part(buffer: gcos.DeviceBuffer, offset: int, length: int) -> gcos.Memory:
    return gcos.Memory(buffer.data_ptr() + offset, length, buffer, buffer.device)


DATA = bytes(i * 11 % 253 for i in range(MIB))


def test_two_items_of_a_get_share_no_memory_of_a_gpu(played: gcos.Store) -> None:
    played.put_many(["a", "b", "c"], [DATA[:5000]] * 3)
    buffer, second = played.device_buffer("cuda:0", MIB), played.device_buffer("cuda:1", MIB)
    bufs = [part(buffer, 0, 5000), part(buffer, 4999, 5000), part(second, 0, 5000)]
    first, shared, third = played.get_many(["a", "b", "c"], bufs)
    assert first is True and third is True and content(buffer, 5000) == DATA[:5000]
    assert isinstance(shared, gcos.InvalidArgument) and "overlaps" in str(shared)


def test_memory_of_a_gpu_goes_in_and_out(played: gcos.Store, other: gcos.Store) -> None:
    for store in (played, other):
        # The store's own memory of a GPU, and that of another.
        buffer = store.device_buffer("cuda:0", MIB)
        assert (buffer.nbytes, buffer.device, len(buffer)) == (MIB, "cuda:0", MIB)
        for length in (1, 511, 4096, 65536 + 5, MIB):
            fill(buffer, DATA[:length])
            assert played.put(f"{length}", part(buffer, 0, length)) is True
            assert played.put(f"{length}", part(buffer, 0, length), if_exists="keep") is False
            assert played.get(f"{length}") == DATA[:length]
            fill(buffer, bytes(length))
            assert played.get_into(f"{length}", part(buffer, 0, length)) is True
            assert content(buffer, length) == DATA[:length]
        assert played.get_into("nothing", buffer) is False
        with pytest.raises(gcos.WrongSize):
            played.get_into("511", buffer)
    stats = played.stats()
    assert stats.device_gets > 0 and stats.device_puts > 0


def test_part_of_an_object_comes_to_a_gpu(played: gcos.Store) -> None:
    played.put("key", DATA)
    buffer = played.device_buffer("cuda", MIB)
    for offset, length in ((0, 4096), (65536, 65536), (12345, 54321), (MIB - 1, 1)):
        fill(buffer, bytes(MIB))
        assert played.get_into("key", part(buffer, 0, length), offset=offset) is True
        assert content(buffer, length) == DATA[offset : offset + length]
        assert content(buffer, 1, length % MIB) == b"\0"
    assert played.get_into("nothing", part(buffer, 0, 10), offset=0) is False
    with pytest.raises(gcos.WrongSize):
        played.get_into("key", part(buffer, 0, 11), offset=MIB - 10)


def test_pages_of_a_gpu_are_one_object(played: gcos.Store) -> None:
    buffer = played.device_buffer("cuda:0", MIB)
    fill(buffer, DATA)
    offsets = (0, 7 * 65536, 3 * 65536)
    assert played.put("pages", [part(buffer, offset, 65536) for offset in offsets])
    assert played.get("pages") == b"".join(DATA[offset : offset + 65536] for offset in offsets)
    fill(buffer, bytes(MIB))
    assert played.get_into("pages", [part(buffer, offset, 65536) for offset in offsets])
    for offset in offsets:
        assert content(buffer, 65536, offset) == DATA[offset : offset + 65536]
    assert content(buffer, 65536, 65536) == bytes(65536)


def test_the_host_and_two_gpus_go_together_in_a_batch(played: gcos.Store) -> None:
    zero, one = played.device_buffer("cuda:0", 100_000), played.device_buffer("cuda:1", 50_000)
    fill(zero, b"0" * 100_000)
    fill(one, b"1" * 50_000)
    bad = gcos.Memory(4096, 10, device="cuda:0")
    mixed = [part(zero, 0, 10), part(one, 0, 10)]
    results = played.put_many(["0", "host", "1", "bad", "mixed"], [zero, b"host", one, bad, mixed])
    assert results[:3] == [True, True, True]
    assert isinstance(results[3], gcos.InvalidArgument) and "expected" in str(results[3])
    assert isinstance(results[4], gcos.InvalidArgument) and "different devices" in str(results[4])
    fill(zero, bytes(100_000))
    fill(one, bytes(50_000))
    host = bytearray(4)
    keys = ["1", "nothing", "host", "0", "0"]
    empty, short = played.device_buffer("cuda:1", 1), played.device_buffer("cuda:0", 5)
    results = played.get_many(keys, [one, empty, host, zero, short])
    assert results[:4] == [True, False, True, True]
    assert isinstance(results[4], gcos.WrongSize)
    assert host == b"host"
    assert content(zero) == b"0" * 100_000 and content(one) == b"1" * 50_000


def test_memory_that_is_not_of_the_gpu_is_refused(played: gcos.Store) -> None:
    host = ctypes.create_string_buffer(4096)
    one = played.device_buffer("cuda:1", 4096)
    for wrong in (
        gcos.Memory(ctypes.addressof(host), 4096, host, "cuda:0"),
        gcos.Memory(one.data_ptr(), 4096, one, "cuda:0"),
        gcos.Memory(one.data_ptr(), 1 << 40, one, "cuda:1"),
    ):
        with pytest.raises(gcos.InvalidArgument, match="expected"):
            played.put("key", wrong)
        with pytest.raises(gcos.InvalidArgument, match="expected"):
            played.get_into("key", wrong)
    with pytest.raises(gcos.InvalidArgument, match="stream"):
        played.put("key", one, stream=12345)
    for wrong_stream in (-1, 2**64):
        with pytest.raises(gcos.InvalidArgument, match="stream"):
            played.put("key", one, stream=wrong_stream)
    with pytest.raises(TypeError, match="stream"):
        played.put("key", one, stream="0")  # type: ignore[arg-type]


def test_what_is_submitted_holds_memory_of_a_gpu(played: gcos.Store) -> None:
    futures = []
    for number in range(20):
        buffer = played.device_buffer("cuda:0", 100_000)
        fill(buffer, bytes([number]) * 100_000)
        futures.append(played.submit_put(f"{number}", buffer))
        del buffer
        gc.collect()
    assert all(future.result(60) for future in futures)
    for number in range(20):
        assert played.get(f"{number}") == bytes([number]) * 100_000
    into = [played.device_buffer("cuda:0", 100_000) for _ in range(20)]
    done = played.submit_get_many([f"{number}" for number in range(20)], into).result(60)
    assert done == [True] * 20
    for number in range(20):
        assert content(into[number]) == bytes([number]) * 100_000


def test_a_buffer_of_a_gpu_describes_itself(played: gcos.Store) -> None:
    buffer = played.device_buffer("cuda:1", 8192)
    described = buffer.__cuda_array_interface__
    assert described["data"] == (buffer.data_ptr(), False)
    assert (described["shape"], described["typestr"], described["version"]) == ((8192,), "|u1", 3)
    assert buffer.__dlpack_device__() == (2, 1)

    class Exporter:
        """Nothing but DLPack, so that no other way is taken."""

        def __dlpack__(self, *, stream: int | None = None) -> object:
            assert stream == 1
            return buffer.__dlpack__(stream=stream)

        def __dlpack_device__(self) -> tuple[int, int]:
            return buffer.__dlpack_device__()

    fill(buffer, DATA[:8192])
    assert played.put("key", Exporter())  # type: ignore[arg-type]
    assert played.get("key") == DATA[:8192]
    with pytest.raises(gcos.InvalidArgument):
        played.device_buffer("cuda:0", 0)
    with pytest.raises(gcos.InvalidArgument, match="cuda:N"):
        played.device_buffer("gpu", 10)
