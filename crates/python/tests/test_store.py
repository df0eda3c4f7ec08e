"""Objects: put, get, and what is told about them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from conftest import MIB, document, path_of

import gcos


def test_a_get_returns_the_bytes_of_the_put(store: gcos.Store) -> None:
    for length in (1, 511, 512, 4096, 65536, 65537, 3 * MIB + 5):
        data = bytes(i * 7 % 251 for i in range(1000)) * (length // 1000 + 1)
        data = data[:length]
        assert store.put(f"key {length}", data) is True
        assert store.get(f"key {length}") == data


def test_what_is_not_there_is_a_miss_and_no_error(store: gcos.Store) -> None:
    into = bytearray(b"untouched")
    assert store.get("nothing") is None
    assert store.get_into("nothing", into) is False
    assert store.info("nothing") is None
    assert not store.contains("nothing")
    assert "nothing" not in store
    assert store.pin("nothing") is False
    assert store.unpin("nothing") is False
    assert store.touch("nothing") is False
    assert store.remove("nothing") is False
    assert store.get_many(["nothing"], [into]) == [False]


def test_keys_are_bytes_or_text_of_up_to_1024_bytes(ram: gcos.Store) -> None:
    ram.put(b"", b"of the empty key")
    assert ram.get("") == b"of the empty key"
    ram.put("grün", b"green")
    assert ram.get("grün".encode()) == b"green"
    ram.put(b"\xff" * 1024, b"longest")
    assert ram.get(b"\xff" * 1024) == b"longest"
    for too_long in (b"x" * 1025, "ü" * 513):
        with pytest.raises(gcos.InvalidArgument, match="at most 1024 bytes"):
            ram.put(too_long, b"data")
        with pytest.raises(gcos.InvalidArgument):
            ram.contains(too_long)
    with pytest.raises(TypeError, match="bytes or str"):
        ram.put(5, b"data")  # type: ignore[arg-type]
    with pytest.raises(gcos.InvalidArgument, match="UTF-8"):
        ram.put("\ud800", b"data")


def test_an_existing_key_is_replaced_or_kept(store: gcos.Store) -> None:
    assert store.put("key", b"first") is True
    assert store.put("key", b"second", if_exists="keep") is False
    assert store.get("key") == b"first"
    assert store.put("key", b"third, longer") is True
    assert store.get("key") == b"third, longer"


def test_an_object_with_a_lifetime_is_a_miss_afterwards(ram: gcos.Store) -> None:
    ram.put("short", b"data", ttl=1)
    ram.put("long", b"data", ttl=3600.5)
    info = ram.info("long")
    assert info is not None and info.expires_at is not None
    assert 3500 < info.expires_at - time.time() < 3700
    assert ram.get("short") == b"data"
    end = time.monotonic() + 10
    while ram.contains("short") and time.monotonic() < end:
        time.sleep(0.05)
    assert ram.get("short") is None
    assert ram.get("long") == b"data"
    for wrong in (0, -1, float("nan"), float("inf"), 10**400):
        with pytest.raises(gcos.InvalidArgument, match="ttl"):
            ram.put("wrong", b"data", ttl=wrong)


def test_a_get_wants_memory_of_exactly_the_length(store: gcos.Store) -> None:
    store.put("key", b"0123456789")
    for length in (1, 9, 11):
        with pytest.raises(gcos.WrongSize, match="10 bytes"):
            store.get_into("key", bytearray(length))
    into = bytearray(10)
    assert store.get_into("key", into) is True
    assert into == b"0123456789"


def test_part_of_an_object_is_read_from_an_offset(store: gcos.Store) -> None:
    data = bytes(range(256)) * 1024
    store.put("key", data)
    for offset, length in ((0, 10), (1, 1), (65530, 20), (200_000, 4096), (len(data) - 3, 3)):
        into = bytearray(length)
        assert store.get_into("key", into, offset=offset) is True
        assert into == data[offset : offset + length]
    with pytest.raises(gcos.WrongSize):
        store.get_into("key", bytearray(4), offset=len(data) - 3)
    for wrong in (-1, 2**32, 10**30):
        with pytest.raises(gcos.InvalidArgument, match="offset: expected 0 to 4294967295"):
            store.get_into("key", bytearray(4), offset=wrong)
    with pytest.raises(TypeError, match="offset"):
        store.get_into("key", bytearray(4), offset="1")  # type: ignore[arg-type]


def test_many_are_stored_and_read_at_once(store: gcos.Store) -> None:
    keys = [f"block {i}" for i in range(100)]
    data = [bytes([i]) * (1 + i * 321) for i in range(100)]
    assert store.put_many(keys, data) == [True] * 100
    assert store.put_many(keys, data, if_exists="keep") == [False] * 100
    into = [bytearray(len(one)) for one in data]
    assert store.get_many(keys, into) == [True] * 100
    assert into == data
    assert store.put_many([], []) == []
    assert store.get_many([], []) == []


def test_each_of_many_has_a_result_of_its_own(ram: gcos.Store) -> None:
    ram.put_many(["a", "b"], [b"aaa", b"bbb"])
    into = [bytearray(3), bytearray(5), bytearray(3), bytearray(3)]
    hit, wrong, miss, again = ram.get_many(["a", "b", "c", "a"], into)
    assert hit is True and miss is False and again is True
    assert isinstance(wrong, gcos.WrongSize)
    assert into[0] == into[3] == b"aaa"
    shared = bytearray(3)
    first, second = ram.get_many(["a", "b"], [shared, shared])
    assert first is True
    assert isinstance(second, gcos.InvalidArgument)
    assert shared == b"aaa"
    # The second is refused, and hides nothing from the third.
    ram.put_many(["whole", "part"], [b"w" * 100, b"p" * 10])
    whole = memoryview(bytearray(100))
    parts = ram.get_many(["whole", "part", "part"], [whole, whole[20:30], whole[50:60]])
    assert parts[0] is True
    assert all(isinstance(part, gcos.InvalidArgument) for part in parts[1:])
    assert whole == b"w" * 100
    with pytest.raises(gcos.InvalidArgument, match="2 keys and 1 buffers"):
        ram.put_many(["a", "b"], [b"x"])


def test_segments_of_an_object_lie_one_behind_the_other(store: gcos.Store) -> None:
    assert store.put("key", [b"one", bytearray(b"two"), memoryview(b"three")]) is True
    assert store.get("key") == b"onetwothree"
    assert store.put_many(["many"], [(b"12", b"34")]) == [True]
    parts = [bytearray(4), bytearray(7)]
    assert store.get_into("key", parts) is True
    assert parts == [b"onet", b"wothree"]
    assert store.get_many(["many"], [[bytearray(1), bytearray(3)]]) == [True]
    with pytest.raises(gcos.InvalidArgument, match="at least one segment"):
        store.put("key", [])
    part = [bytearray(2), bytearray(2)]
    assert store.get_into("key", part, offset=3) is True
    assert part == [b"tw", b"ot"]


def test_the_prefix_is_the_hits_without_a_gap(ram: gcos.Store) -> None:
    ram.put_many(["0", "1", "3"], [b"x"] * 3)
    assert ram.prefix(["0", "1", "2", "3"]) == 2
    assert ram.prefix(["2"]) == 0
    assert ram.prefix([]) == 0
    assert ram.prefix([b"3", "0"]) == 2
    with pytest.raises(TypeError, match="list of keys"):
        ram.prefix("0123")  # type: ignore[arg-type]


def test_keys_are_listed_in_order_by_prefix_and_behind_a_key(store: gcos.Store) -> None:
    names = sorted(f"b{i:03}".encode() for i in range(200))
    store.put_many(names, [bytes(i + 1) for i in range(200)])
    store.put("a", b"x")
    store.put("c", b"x")
    assert list(store.keys("b")) == [(name, i + 1) for i, name in enumerate(names)]
    assert [name for name, _ in store.keys()] == [b"a", *names, b"c"]
    assert [name for name, _ in store.keys(b"b", after=names[197])] == names[198:]
    assert [name for name, _ in store.keys(after=b"b199")] == [b"c"]


def test_an_iterator_is_for_one_thread_at_a_time(ram: gcos.Store) -> None:
    ram.put_many([f"{i}" for i in range(2000)], [b"x"] * 2000)
    seen: list[bytes] = []
    refused: list[str] = []

    def work(walk: gcos.KeyIterator) -> None:
        while True:
            try:
                seen.append(next(walk)[0])
            except gcos.InvalidArgument as error:
                refused.append(str(error))
            except StopIteration:
                return

    for _ in range(10):
        seen.clear()
        walk = ram.keys()
        threads = [threading.Thread(target=work, args=(walk,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(seen) == len(set(seen)) == 2000
    assert all("another thread" in one for one in refused)


def test_information_of_an_object(ram: gcos.Store) -> None:
    ram.put("key", bytes(12345))
    info = ram.info("key")
    assert info is not None
    assert (info.len, info.expires_at, info.pins, info.drives) == (12345, None, 0, [0])
    assert ram.pin("key") and ram.pin("key")
    pinned = ram.info("key")
    assert pinned is not None and pinned.pins == 2
    assert ram.unpin("key") and ram.unpin("key") and not ram.unpin("key")
    assert ram.touch("key")
    ram.put("key", b"new")
    newer = ram.info("key")
    assert newer is not None and newer.generation > info.generation


def test_a_removed_object_is_gone(store: gcos.Store) -> None:
    store.put("key", b"data")
    assert store.remove("key") is True
    assert store.get("key") is None
    assert store.remove("key") is False


def test_a_pool_that_is_full_evicts_what_was_not_used_and_keeps_what_is_pinned(ram: gcos.Store) -> None:
    ram.put("pinned", bytes(MIB))
    ram.pin("pinned")
    for number in range(100):
        ram.put(f"{number}", bytes(MIB))
    assert ram.contains("pinned")
    assert not ram.contains("0")
    assert ram.contains("99")
    assert ram.stats().evicted > 0
    with pytest.raises(gcos.Full, match="no room"):
        ram.put("too large", bytes(80 * MIB))


def test_statistics_and_descriptions(ram: gcos.Store) -> None:
    ram.put("key", bytes(5000))
    ram.get("key")
    ram.get("nothing")
    stats = ram.stats()
    assert (stats.objects, stats.puts, stats.hits, stats.misses) == (1, 1, 1, 1)
    assert stats.put_bytes == stats.get_bytes == 5000
    assert stats.to_dict()["payload_bytes"] == 5000
    assert ram.pool.drives == 1
    assert len(ram.pool.pool_uuid) == 36
    (drive,) = ram.drives()
    assert (drive.index, drive.health) == (0, "online")
    assert ram.recovery.clean is True
    assert "emulated:ram" in repr(ram)


@pytest.mark.parametrize("kind", ["image", "file"])
def test_what_was_stored_is_there_after_a_close_and_an_open(kind: str, folder: Path) -> None:
    config = document(path_of(kind, folder))
    with pytest.raises(gcos.MissingDrive):
        gcos.Store.open(config)
    with gcos.Store.open(config, create=True) as store:
        store.put("key", b"data")
        store.put("relaxed", b"data", durability="relaxed")
    with gcos.Store.open(config, create=True) as store:
        assert store.recovery.clean is True
        assert store.recovery.objects == 2
        assert store.get("key") == b"data"
        assert store.get("relaxed") == b"data"
    way = {"image": "NVMe driver", "file": "io_uring"}[kind]
    with gcos.Store.open(config) as store:
        assert store.drives()[0].way in (way, "POSIX")


@pytest.mark.parametrize("force", ["io_uring", "posix"])
def test_a_plain_file_goes_the_way_that_is_forced(force: str, folder: Path) -> None:
    config = document(path_of("file", folder), kernel_path={"force": force})
    with gcos.Store.open(config, create=True) as store:
        (drive,) = store.drives()
        assert drive.way.lower() == force
        store.put("key", bytes(100_000))
        assert store.get("key") == bytes(100_000)


def test_a_store_that_is_closed_refuses_all_calls(folder: Path) -> None:
    store = gcos.Store.open(document("emulated:ram:64MiB"))
    buffer = store.buffer(4096)
    walk = store.keys()
    assert store.closed is False
    store.close()
    assert store.closed is True
    store.close()
    calls = [
        lambda: store.put("key", b"data"),
        lambda: store.get("key"),
        lambda: store.get_into("key", bytearray(1)),
        lambda: store.put_many(["key"], [b"data"]),
        lambda: store.get_many(["key"], [bytearray(1)]),
        lambda: store.submit_put("key", b"data"),
        lambda: store.submit_get_into("key", bytearray(1)),
        lambda: store.contains("key"),
        lambda: store.prefix(["key"]),
        lambda: store.info("key"),
        lambda: store.pin("key"),
        lambda: store.unpin("key"),
        lambda: store.touch("key"),
        lambda: store.remove("key"),
        lambda: store.keys(),
        lambda: next(walk),
        lambda: store.stats(),
        lambda: store.interval_stats(),
        lambda: store.metrics_text(),
        lambda: store.serve_metrics(),
        lambda: store.drives(),
        lambda: store.pool,
        lambda: store.recovery,
        lambda: store.flush(),
        lambda: store.checkpoint(),
        lambda: store.buffer(4096),
        lambda: store.register(bytearray(8192)),
        lambda: store.device_buffer("cuda:0", 4096),
    ]
    for call in calls:
        with pytest.raises(gcos.Closed):
            call()
    assert "closed" in repr(store)
    # The memory outlives the store.
    memoryview(buffer)[:4] = b"data"
    assert bytes(memoryview(buffer)[:4]) == b"data"


def test_a_pool_has_one_owner(folder: Path) -> None:
    config = document(path_of("file", folder))
    with gcos.Store.open(config, create=True):
        with pytest.raises(gcos.Busy):
            gcos.Store.open(config)
    gcos.Store.open(config).close()


def test_what_is_no_pool_is_never_formatted(folder: Path) -> None:
    path = folder / "precious"
    path.write_bytes(b"precious" * (64 * MIB // 8))
    for create in (False, True):
        with pytest.raises(gcos.NotAPool):
            gcos.Store.open(document(str(path)), create=create)
    assert path.read_bytes() == b"precious" * (64 * MIB // 8)
