"""What is submitted."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import fcntl
import gc
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MIB, document, path_of

import gcos


def opened(threads: int) -> gcos.Store:
    return gcos.Store.open(document("emulated:ram:64MiB"), threads=threads)


@dataclasses.dataclass
class Plug:
    """Keeps one thread of a store in a done callback until it is pulled."""

    pulled: threading.Event


def plug(store: gcos.Store) -> Plug:
    """A plug whose callback runs on the store's thread: the work is large enough not to end before."""
    for _ in range(50):
        held, pulled = threading.Event(), threading.Event()
        on_main = threading.Event()

        def hold(_: object, held: threading.Event = held, pulled: threading.Event = pulled) -> None:
            if threading.current_thread() is threading.main_thread():
                on_main.set()
                return
            held.set()
            pulled.wait(60)

        future = store.submit_put("plug", bytes(4 * MIB))
        future.add_done_callback(hold)
        if not on_main.is_set():
            assert held.wait(30)
            return Plug(pulled)
    raise AssertionError("every put ended before its callback was there")


def test_what_is_submitted_ends_in_its_future(store: gcos.Store) -> None:
    assert store.submit_put("key", b"data").result(30) is True
    assert store.submit_put("key", b"more", if_exists="keep").result(30) is False
    into = bytearray(4)
    assert store.submit_get_into("key", into).result(30) is True
    assert into == b"data"
    assert store.submit_get_into("nothing", into).result(30) is False
    part = bytearray(2)
    assert store.submit_get_into("key", part, offset=1).result(30) is True
    assert part == b"at"
    assert store.submit_put_many(["a", "b"], [b"1", b"2"]).result(30) == [True, True]
    one, two = bytearray(1), bytearray(1)
    assert store.submit_get_many(["a", "b", "c"], [one, two, bytearray(1)]).result(30) == [True, True, False]
    assert one + two == b"12"


def test_a_failure_is_raised_by_the_future(ram: gcos.Store) -> None:
    ram.put("key", b"data")
    future = ram.submit_get_into("key", bytearray(3))
    assert isinstance(future, concurrent.futures.Future) and isinstance(future, gcos.Future)
    with pytest.raises(gcos.WrongSize):
        future.result(30)
    assert isinstance(future.exception(30), gcos.WrongSize)
    hit, wrong = ram.submit_get_many(["key", "key"], [bytearray(4), bytearray(5)]).result(30)
    assert hit is True and isinstance(wrong, gcos.WrongSize)
    # What is wrong with the arguments is said at once.
    with pytest.raises(gcos.InvalidArgument):
        ram.submit_get_into("key", b"read-only")
    with pytest.raises(TypeError):
        ram.submit_put("key", 5)  # type: ignore[arg-type]


def test_futures_can_be_awaited() -> None:
    async def work(store: gcos.Store) -> None:
        assert await store.submit_put("key", b"data") is True
        done = await asyncio.gather(*(store.submit_put(f"{i}", bytes(1000)) for i in range(200)))
        assert done == [True] * 200
        into = bytearray(1000)
        assert await asyncio.wait_for(store.submit_get_into("7", into), 30) is True
        with pytest.raises(gcos.WrongSize):
            await store.submit_get_into("7", bytearray(5))

    with opened(4) as store:
        asyncio.run(work(store))


def test_what_has_not_begun_can_be_cancelled() -> None:
    with opened(1) as store:
        held = plug(store)
        waiting = store.submit_put("waiting", b"data")
        later = store.submit_put("later", b"data")
        assert waiting.cancel() is True
        held.pulled.set()
        assert later.result(30) is True
        assert waiting.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            waiting.result(0)
        assert not store.contains("waiting")
        assert later.cancel() is False


def test_callbacks_may_call_the_store_and_submit_to_it() -> None:
    with opened(2) as store:
        seen: list[bytes | None] = []
        over = threading.Event()

        def second(_: object) -> None:
            seen.append(store.get("second"))
            over.set()

        def first(_: object) -> None:
            store.put("direct", b"1")
            seen.append(store.get("direct"))
            store.submit_put("second", b"2").add_done_callback(second)

        for _ in range(20):
            over.clear()
            store.submit_put("key", b"data").add_done_callback(first)
            assert over.wait(30)
        assert seen == [b"1", b"2"] * 20


def test_a_callback_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with opened(1) as store:

        def wrong(_: object) -> None:
            raise RuntimeError("of the callback")

        for _ in range(5):
            store.submit_put("key", bytes(MIB)).add_done_callback(wrong)
        assert store.submit_put("after", b"data").result(30) is True


def test_a_callback_that_closes_the_store_is_told_that_it_would_wait_for_itself() -> None:
    with opened(1) as store:
        told: list[BaseException] = []
        over = threading.Event()

        def close(_: object) -> None:
            try:
                if threading.current_thread() is not threading.main_thread():
                    store.close(timeout=5)
            except BaseException as error:
                told.append(error)
            finally:
                over.set()

        future = store.submit_put("key", bytes(8 * MIB))
        future.add_done_callback(close)
        assert over.wait(30)
        if told:
            assert isinstance(told[0], gcos.InvalidArgument)
            assert "another thread" in str(told[0])


def test_a_close_ends_what_was_submitted() -> None:
    store = opened(2)
    futures = [store.submit_put(f"{i}", bytes(100_000)) for i in range(200)]
    store.close()
    assert all(future.result(0) is True for future in futures)
    with pytest.raises(gcos.Closed):
        store.submit_put("late", b"data")


def test_a_close_has_a_deadline_and_may_be_called_again() -> None:
    store = opened(1)
    held = plug(store)
    waiting = store.submit_put("waiting", b"data")
    begun = time.monotonic()
    with pytest.raises(gcos.Timeout, match="call close"):
        store.close(timeout=0.2)
    assert 0.2 <= time.monotonic() - begun < 10
    assert waiting.cancelled()
    assert store.closed
    with pytest.raises(gcos.Closed):
        store.put("key", b"data")
    held.pulled.set()
    store.close(timeout=30)
    store.close()
    for wrong in (-1.0, float("nan")):
        with pytest.raises(gcos.InvalidArgument, match="timeout"):
            store.close(timeout=wrong)


def test_whoever_closes_second_returns_when_it_is_closed(folder: Path) -> None:
    path = Path(path_of("file", folder))
    one_at_a_time = threading.Lock()
    failures: list[str] = []

    def lock() -> None:
        """Fails while the pool is open."""
        with one_at_a_time, path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(store: gcos.Store, together: threading.Barrier) -> None:
        together.wait()
        try:
            store.close()
            lock()
        except BaseException as error:
            failures.append(repr(error))

    for _ in range(5):
        store = gcos.Store.open(document(str(path)), create=True, threads=2)
        with pytest.raises(BlockingIOError):
            lock()
        for number in range(50):
            store.submit_put(f"{number}", bytes(50_000))
        together = threading.Barrier(4)
        threads = [threading.Thread(target=close, args=(store, together)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []


def test_other_threads_run_while_drives_work() -> None:
    """With a switch interval without end a thread runs only when another lets it."""
    calls: list[tuple[str, Callable[[gcos.Store], object]]] = [
        ("put", lambda store: store.put("key", data)),
        ("get", lambda store: store.get("key")),
        ("get_into", lambda store: store.get_into("key", into)),
        ("put_many", lambda store: store.put_many(["a", "b"], [data[: MIB * 4]] * 2)),
        ("get_many", lambda store: store.get_many(["key"], [into])),
        ("flush", lambda store: store.checkpoint()),
    ]
    data, into = bytes(16 * MIB), bytearray(16 * MIB)
    interval = sys.getswitchinterval()
    with opened(1) as store:
        for name, call in calls:
            go, seen = threading.Lock(), []
            go.acquire()

            def other(go: threading.Lock = go, seen: list[str] = seen) -> None:
                go.acquire()
                seen.append("ran")

            thread = threading.Thread(target=other)
            thread.start()
            sys.setswitchinterval(1000)
            try:
                go.release()
                call(store)
                ran = list(seen)
            finally:
                sys.setswitchinterval(interval)
            thread.join()
            assert ran == ["ran"], name


def test_many_threads_share_a_store(store: gcos.Store) -> None:
    failures: list[str] = []

    def work(number: int) -> None:
        try:
            into = bytearray(5000)
            for turn in range(40):
                key, data = f"{number} {turn % 7}", bytes([number, turn]) * 2500
                if turn % 2:
                    store.put(key, data)
                else:
                    store.submit_put(key, data).result(60)
                assert store.get(key) == data
                assert store.get_into(key, into)
                assert into == data
                if turn % 5 == 0:
                    assert store.remove(key)
        except BaseException as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []


def test_futures_nobody_holds_come_to_their_end(ram: gcos.Store) -> None:
    for number in range(100):
        ram.submit_put(f"{number}", bytes(1000))
    end = time.monotonic() + 30
    while ram.stats().objects < 100 and time.monotonic() < end:
        time.sleep(0.01)
    assert ram.stats().objects == 100


def test_a_store_that_a_callback_holds_last_is_closed_in_order(folder: Path) -> None:
    config = document(path_of("file", folder))
    store = gcos.Store.open(config, create=True, threads=1)
    held = plug(store)
    holder = [store]

    def last(_: object) -> None:
        holder.clear()
        gc.collect()

    store.submit_put("key", b"data", durability="relaxed").add_done_callback(last)
    del store
    held.pulled.set()
    end = time.monotonic() + 60
    while True:
        try:
            store = gcos.Store.open(config)
            break
        except gcos.Busy:
            assert time.monotonic() < end
    with store:
        assert store.recovery.clean
        assert store.get("key") == b"data"
