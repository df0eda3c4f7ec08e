"""Memory of callers and of the store."""

from __future__ import annotations

import array
import ctypes
import gc
import mmap
import sys
import weakref

import pytest
from conftest import MIB

import gcos

PAGE = 4096


def test_everything_with_the_buffer_protocol_will_do(store: gcos.Store) -> None:
    data = bytes(range(240))
    sources = [data, bytearray(data), memoryview(data), array.array("Q", data), (ctypes.c_char * 240)(*data)]
    for number, source in enumerate(sources):
        store.put(f"{number}", source)
        assert store.get(f"{number}") == data
    sinks = [bytearray(240), array.array("d", bytes(240)), (ctypes.c_uint32 * 60)(), mmap.mmap(-1, 240)]
    for sink in sinks:
        assert store.get_into("0", sink) is True
        assert bytes(memoryview(sink).cast("B")) == data
    part = memoryview(bytearray(300))[10:250]
    assert store.get_into("0", part) is True
    assert part == data


def test_memory_that_cannot_be_used_is_refused_with_what_is_expected(ram: gcos.Store) -> None:
    ram.put("key", bytes(8))
    for readonly in (bytes(8), memoryview(bytearray(8)).toreadonly()):
        with pytest.raises(gcos.InvalidArgument, match="read-only.*bytearray"):
            ram.get_into("key", readonly)
    with pytest.raises(gcos.InvalidArgument, match="contiguous"):
        ram.put("key", memoryview(bytes(16))[::2])
    for empty in (b"", bytearray(), memoryview(b"")):
        with pytest.raises(gcos.InvalidArgument, match="at least 1"):
            ram.put("key", empty)
    for wrong in (5, "text", object(), None, 1.5, {}, type):
        with pytest.raises(TypeError, match="buffer protocol"):
            ram.put("key", wrong)  # type: ignore[arg-type]
    with pytest.raises(gcos.InvalidArgument, match="not 0"):
        gcos.Memory(0, 8)
    with pytest.raises(gcos.InvalidArgument, match="not 0"):
        gcos.Memory(4096, 0)
    for device in ("cuda:x", "tpu", "cuda:-1", "cuda1"):
        with pytest.raises(gcos.InvalidArgument, match="cuda:N"):
            gcos.Memory(4096, 8, device=device)
    with pytest.raises(gcos.InvalidArgument, match="different devices"):
        ram.put("key", [b"host", gcos.Memory(4096, 8, device="cuda")])
    assert ram.get("key") == bytes(8)


class Tensor:
    """What a tensor of torch looks like from outside."""

    class Device:
        def __init__(self, kind: str, index: int | None) -> None:
            self.type = kind
            self.index = index

    def __init__(self, address: int, nbytes: int, kind: str = "cpu", index: int | None = None) -> None:
        self.address = address
        self.nbytes = nbytes
        self.device = self.Device(kind, index)

    def data_ptr(self) -> int:
        return self.address

    def is_contiguous(self) -> bool:
        return True


def test_a_tensor_that_was_freed_is_refused(ram: gcos.Store) -> None:
    with pytest.raises(gcos.InvalidArgument, match="freed"):
        ram.put("key", Tensor(0, 8))
    with pytest.raises(gcos.InvalidArgument, match="at least 1"):
        ram.put("key", Tensor(0, 0))
    with pytest.raises(gcos.InvalidArgument, match="freed"):
        ram.put("key", Tensor(2**64 - 4, 8))
    with pytest.raises(gcos.InvalidArgument, match='"xpu"'):
        ram.put("key", Tensor(4096, 8, "xpu"))


def test_memory_is_named_by_its_address(ram: gcos.Store) -> None:
    held = (ctypes.c_char * 100)(*b"x" * 100)
    memory = gcos.Memory(ctypes.addressof(held), 100, owner=held)
    assert (memory.ptr, memory.nbytes, memory.device) == (ctypes.addressof(held), 100, None)
    ram.put("key", memory)
    assert ram.get("key") == b"x" * 100
    into = (ctypes.c_char * 100)()
    assert ram.get_into("key", gcos.Memory(ctypes.addressof(into), 100, into))
    assert into.raw == b"x" * 100


def test_an_owner_lives_as_long_as_its_memory() -> None:
    class Owner:
        pass

    owner = Owner()
    alive = weakref.ref(owner)
    memory = gcos.Memory(4096, 10, owner)
    del owner
    gc.collect()
    assert alive() is not None
    del memory
    gc.collect()
    assert alive() is None


def test_buffers_of_the_store_move_without_a_copy(store: gcos.Store) -> None:
    source, sink = store.buffer(MIB), store.buffer(MIB)
    memoryview(source)[:] = bytes(range(256)) * (MIB // 256)
    before = store.stats().staged_bytes
    store.put("key", source)
    assert store.get_into("key", sink) is True
    assert store.get_into("key", memoryview(sink)[PAGE : PAGE + 65536], offset=65536)
    assert store.stats().staged_bytes == before
    assert memoryview(sink)[: 2 * PAGE] == bytes(range(256)) * 32
    assert source.data_ptr() % PAGE == 0
    assert (len(source), source.nbytes) == (MIB, MIB)
    store.put("part", [memoryview(source)[:PAGE], memoryview(source)[8 * PAGE : 9 * PAGE]])
    assert store.stats().staged_bytes == before


def test_a_buffer_lives_as_long_as_a_view_of_it(store: gcos.Store) -> None:
    view = memoryview(store.buffer(PAGE))
    gc.collect()
    view[:] = b"v" * PAGE
    store.put("key", view)
    assert store.get("key") == b"v" * PAGE
    with pytest.raises(gcos.InvalidArgument):
        store.buffer(0)


def test_registered_memory_moves_without_a_copy(store: gcos.Store) -> None:
    memory = mmap.mmap(-1, 4 * MIB)
    memory[:] = b"m" * (4 * MIB)
    with store.register(memory) as registration:
        assert registration.nbytes == 4 * MIB
        before = store.stats().staged_bytes
        store.put_many(["a", "b"], [memoryview(memory)[:MIB], memoryview(memory)[MIB : 3 * MIB]])
        assert store.get_into("a", memoryview(memory)[3 * MIB :])
        assert store.stats().staged_bytes == before
        with pytest.raises(gcos.InvalidArgument, match="overlap"):
            store.register(memory)
    registration.close()
    assert "closed" in repr(registration)
    before = store.stats().staged_bytes
    store.put("c", memoryview(memory)[:MIB])
    assert store.stats().staged_bytes == before + MIB
    store.register(memory).close()


def test_only_whole_pages_are_registered(ram: gcos.Store) -> None:
    memory = mmap.mmap(-1, 4 * PAGE)
    inner = memoryview(memory)[100 : 4 * PAGE - 100]
    with ram.register(inner) as registration:
        assert registration.nbytes == 2 * PAGE
        assert registration.ptr % PAGE == 0
        # What reaches over the pages is copied.
        assert ram.put("key", inner)
        assert ram.get("key") == bytes(4 * PAGE - 200)
    with pytest.raises(gcos.InvalidArgument, match="whole page"):
        ram.register(bytearray(100))
    with pytest.raises(gcos.InvalidArgument, match="read-only"):
        ram.register(bytes(10 * PAGE))
    with pytest.raises(gcos.InvalidArgument, match="device_buffer"):
        ram.register(gcos.Memory(PAGE, PAGE, device="cuda:0"))


def test_a_registration_keeps_its_memory_until_it_is_closed(ram: gcos.Store) -> None:
    memory = bytearray(8 * PAGE)
    registration = ram.register(memory)
    with pytest.raises(BufferError):
        memory.extend(b"more")
    registration.close()
    ram.put("key", b"data")
    memory.extend(b"more")
    forgotten = ram.register(memory)
    del forgotten
    gc.collect()
    memory.extend(b"more")


def test_memory_is_held_while_it_is_in_use_and_no_longer(ram: gcos.Store) -> None:
    memory = bytearray(MIB)
    futures = [ram.submit_put(f"{i}", memory) for i in range(20)]
    for future in futures:
        assert future.result() is True
    memory.extend(b"more")
    references = sys.getrefcount(memory)
    for _ in range(100):
        ram.put("key", memory)
        ram.submit_get_into("key", memory).result()
        with pytest.raises(gcos.WrongSize):
            ram.submit_get_into("0", memory).result()
    assert sys.getrefcount(memory) == references


def test_memory_that_nobody_else_holds_stays_until_the_end(ram: gcos.Store) -> None:
    futures = []
    for number in range(50):
        futures.append(ram.submit_put(f"{number}", bytearray([number]) * 100_000))
        gc.collect()
    assert all(future.result() for future in futures)
    for number in range(50):
        assert ram.get(f"{number}") == bytes([number]) * 100_000


def test_dlpack_gives_no_copies_and_no_other_device(ram: gcos.Store) -> None:
    buffer = ram.buffer(4096)
    with pytest.raises(BufferError, match="not copies"):
        buffer.__dlpack__(copy=True)
    with pytest.raises(BufferError, match="was asked for"):
        buffer.__dlpack__(dl_device=(2, 0))
    assert buffer.__dlpack__(copy=False, dl_device=(1, 0), max_version=(1, 0)) is not None


def test_dlpack_of_a_buffer_is_taken_back(ram: gcos.Store) -> None:
    class Exporter:
        """Nothing but DLPack, so that no other way is taken."""

        def __init__(self, buffer: gcos.Buffer) -> None:
            self.buffer = buffer

        def __dlpack__(self, **options: object) -> object:
            return self.buffer.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.buffer.__dlpack_device__()

    buffer = ram.buffer(3 * PAGE)
    memoryview(buffer)[:] = b"d" * (3 * PAGE)
    references = sys.getrefcount(buffer)
    before = ram.stats().staged_bytes
    assert ram.put("key", Exporter(buffer))  # type: ignore[arg-type]
    assert ram.stats().staged_bytes == before
    assert ram.get("key") == b"d" * (3 * PAGE)
    assert sys.getrefcount(buffer) == references
    # A capsule that nobody takes.
    capsule = buffer.__dlpack__()
    assert sys.getrefcount(buffer) == references + 1
    del capsule
    assert sys.getrefcount(buffer) == references

    class Liar:
        def __dlpack__(self) -> object:
            return 5

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    with pytest.raises(TypeError, match="DLPack capsule"):
        ram.put("key", Liar())  # type: ignore[arg-type]


def test_without_a_gpu_its_memory_is_an_error_that_says_so(ram: gcos.Store) -> None:
    with pytest.raises((gcos.Gpu, gcos.InvalidArgument)) as caught:
        ram.put("key", gcos.Memory(PAGE, PAGE, device="cuda:77"))
    assert "libcuda" in str(caught.value) or "77" in str(caught.value)
    with pytest.raises(gcos.Gpu):
        ram.device_buffer("cuda:77", PAGE)
    good, bad = ram.put_many(["a", "b"], [b"host", gcos.Memory(PAGE, PAGE, device="cuda:77")])
    assert good is True
    assert isinstance(bad, gcos.Gpu)
