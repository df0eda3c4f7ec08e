"""Processes: forks, ends, owners."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from conftest import document, path_of

import gcos

Run = Callable[..., "CompletedProcess[str]"]

OPEN = """
import json, os, sys, threading, time
import gcos
store = gcos.Store.open(json.loads(sys.argv[1]), create=True)
"""


def clean(done: CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("kind", ["ram", "file"])
def test_a_child_is_refused_and_the_parent_goes_on(kind: str, folder: Path, run: Run) -> None:
    program = OPEN + """
buffer, walk = store.buffer(4096), store.keys()
registration = store.register(bytearray(20000))
store.put("key", b"data")
pending = [store.submit_put(f"{i}", bytes(10000)) for i in range(50)]
child = os.fork()
if child == 0:
    refused = 0
    for call in (
        lambda: store.put("key", b"child"),
        lambda: store.get("key"),
        lambda: store.submit_put("key", b"child"),
        lambda: store.contains("key"),
        lambda: store.stats(),
        lambda: store.flush(),
        lambda: store.keys(),
        lambda: next(walk),
        lambda: store.buffer(4096),
        lambda: store.register(bytearray(8192)),
        lambda: registration.close(),
        lambda: store.close(),
    ):
        try:
            call()
        except gcos.Forked as error:
            assert "spawn" in str(error)
            refused += 1
    assert store.closed
    # Everything is let go of in the child, and its interpreter ends in order.
    del store, buffer, registration, walk, pending, call
    own = gcos.Store.open({"disk": {"number": 1, "paths": ["emulated:ram:64MiB"], "capacity_bytes": 64 << 20}})
    own.put("own", b"of the child")
    assert own.get("own") == b"of the child"
    sys.exit(refused)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 12
assert all(future.result(30) for future in pending)
assert store.get("key") == b"data"
store.put("after", b"data")
store.close()
"""
    config = document(path_of(kind, folder))
    clean(run(program, json.dumps(config)))
    if kind == "file":
        with gcos.Store.open(config) as store:
            assert store.recovery.clean
            assert store.get("after") == b"data"


def test_an_interpreter_that_ends_closes_what_is_open(folder: Path, run: Run) -> None:
    program = OPEN + """
kept = [store.submit_put(f"{i}", bytearray(100_000)) for i in range(100)]
store.put("relaxed", b"data", durability="relaxed")
threading.Thread(target=lambda: time.sleep(0.1)).start()
# No close, and I/O in flight.
"""
    config = document(path_of("file", folder))
    clean(run(program, json.dumps(config)))
    with gcos.Store.open(config) as store:
        assert store.recovery.clean
        assert store.recovery.objects == 101


def test_an_interpreter_ends_in_order_in_the_middle_of_work(folder: Path, run: Run) -> None:
    program = OPEN + """
def work(number):
    turn = 0
    into = bytearray(10_000)
    while True:
        try:
            store.submit_put(f"{number} {turn % 50}", bytes(10_000)).add_done_callback(lambda f: f.exception())
            store.put(f"{number}", bytes(10_000))
            store.get_into(f"{number}", into)
        except gcos.Closed:
            return
        turn += 1

for number in range(6):
    threading.Thread(target=work, args=(number,), daemon=True).start()
time.sleep(float(sys.argv[2]))
print("end")
"""
    config = document(path_of("file", folder))
    for pause in (0, 0.05, 0.3):
        assert clean(run(program, json.dumps(config), pause)) == "end\n"
        with gcos.Store.open(config) as store:
            assert store.recovery.clean


def test_a_store_that_nobody_holds_is_closed_in_order(folder: Path) -> None:
    config = document(path_of("file", folder))
    store = gcos.Store.open(config, create=True)
    store.put("key", b"data", durability="relaxed")
    del store
    with gcos.Store.open(config) as store:
        assert store.recovery.clean
        assert store.get("key") == b"data"


def test_what_was_acknowledged_survives_a_process_that_is_killed(folder: Path, run: Run) -> None:
    program = OPEN + """
import signal
for number in range(200):
    store.put(f"{number}", f"value {number}".encode() * 100)
    print(number, flush=True)
    if number == 150:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    config = document(path_of("file", folder))
    done = run(program, json.dumps(config))
    assert done.returncode == -signal.SIGKILL
    acknowledged = [int(line) for line in done.stdout.split()]
    assert acknowledged == list(range(151))
    with gcos.Store.open(config) as store:
        assert not store.recovery.clean
        for number in acknowledged:
            assert store.get(f"{number}") == f"value {number}".encode() * 100


def test_another_process_is_told_that_the_pool_is_in_use(folder: Path, run: Run) -> None:
    config = document(path_of("file", folder))
    with gcos.Store.open(config, create=True):
        done = run(
            """
            import json, sys, gcos
            try:
                gcos.Store.open(json.loads(sys.argv[1]))
            except gcos.Busy as error:
                print("busy")
            """,
            json.dumps(config),
        )
        assert clean(done) == "busy\n"


def test_a_process_that_was_spawned_has_a_store_of_its_own(folder: Path, run: Run) -> None:
    (folder / "spawned.py").write_text(
        """
import multiprocessing, sys
import gcos

def work(path):
    config = {"disk": {"number": 1, "paths": [path], "capacity_bytes": 64 << 20}}
    with gcos.Store.open(config, create=True) as store:
        store.put("key", path)
        return store.get("key")

if __name__ == "__main__":
    here = gcos.Store.open({"disk": {"number": 1, "paths": ["emulated:ram:64MiB"], "capacity_bytes": 64 << 20}})
    paths = [f"{sys.argv[1]}/{i}" for i in range(2)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        try:
            pool.map(work, paths)
        except TypeError as error:
            # An exception of the child comes here whole.
            assert "buffer" in str(error), error
            print("told")
"""
    )
    import subprocess

    done = subprocess.run(
        [sys.executable, str(folder / "spawned.py"), str(folder)], capture_output=True, text=True, timeout=60
    )
    assert clean(done) == "told\n"


def test_an_interrupt_from_the_keyboard_comes_through(folder: Path, run: Run) -> None:
    program = OPEN + """
import _thread
threading.Timer(0.2, _thread.interrupt_main).start()
try:
    while True:
        store.put("key", bytes(100_000))
except KeyboardInterrupt:
    print("interrupted")
"""
    assert clean(run(program, json.dumps(document("emulated:ram:64MiB")))) == "interrupted\n"
