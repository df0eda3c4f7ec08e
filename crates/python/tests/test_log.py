"""The log of the library in Python's logging."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import document

import gcos


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    yield
    gcos.set_log_level("warning")


def lines(caplog: pytest.LogCaptureFixture, wanted: str) -> list[logging.LogRecord]:
    """Records with these words, once there are some: they come by way of another thread."""
    end = time.monotonic() + 5
    while True:
        found = [record for record in caplog.records if wanted in record.getMessage()]
        if found or time.monotonic() > end:
            return found
        time.sleep(0.01)


def test_a_drive_that_is_left_out_is_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = document("emulated:ram:64MiB")
    config["disk"] |= {"number": 2, "paths": [str(folder / "one"), str(folder / "two")]}
    gcos.set_log_level("off")
    gcos.Store.open(config, create=True).close()
    (folder / "two").unlink()
    gcos.set_log_level("warning")
    with gcos.Store.open(config) as store:
        assert [drive.health for drive in store.drives()] == ["online", "missing"]
    (record,) = lines(caplog, "left out")
    assert record.levelno == logging.WARNING
    assert record.name.startswith("gcos.")
    assert str(folder / "two") in record.getMessage()


def test_the_level_is_chosen(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    gcos.set_log_level("info")
    gcos.Store.open(document(str(folder / "one")), create=True).close()
    assert lines(caplog, "")
    gcos.set_log_level("off")
    time.sleep(0.1)
    caplog.clear()
    gcos.Store.open(document(str(folder / "one"))).close()
    time.sleep(0.1)
    assert caplog.records == []
    with pytest.raises(gcos.InvalidArgument, match="trace"):
        gcos.set_log_level("loud")  # type: ignore[arg-type]


def test_the_last_lines_come_before_the_end(run: Callable[..., object], folder: Path) -> None:
    done = run(
        """
        import logging, sys, gcos
        logging.basicConfig(level=1, format="%(name)s %(message)s", stream=sys.stdout)
        gcos.set_log_level("debug")
        store = gcos.Store.open({"disk": {"number": 1, "paths": ["emulated:ram:64MiB"], "capacity_bytes": 64 << 20}})
        """
    )
    assert done.returncode == 0 and done.stderr == ""  # type: ignore[attr-defined]
    assert "gcos." in done.stdout  # type: ignore[attr-defined]


def came_and_left_out(texts: list[tuple[str, str, str]]) -> tuple[int, int]:
    said = [text.split()[0] for name, level, text in texts if (name, level) == ("gcos.log", "WARNING")]
    return len(texts) - len(said), sum(map(int, said))


def test_lines_that_a_slow_handler_cannot_take_are_counted_and_said(folder: Path) -> None:
    go_on = threading.Event()
    texts: list[tuple[str, str, str]] = []

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            go_on.wait(60)
            texts.append((record.name, record.levelname, record.getMessage()))

    config = document("emulated:ram:64MiB")
    config["disk"] |= {"number": 64, "paths": ["emulated:ram:64MiB", *(str(folder / str(i)) for i in range(63))]}
    logger, handler = logging.getLogger("gcos"), Slow()
    logger.addHandler(handler)
    try:
        # Each has 63 drives left out, and a first one that is no pool. Nobody waits for the handler.
        for _ in range(30):
            with pytest.raises(gcos.NotAPool):
                gcos.Store.open(config)
        assert texts == []
        go_on.set()
        end = time.monotonic() + 30
        while (count := came_and_left_out(texts))[0] + count[1] < 30 * 63 and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        go_on.set()
        logger.removeHandler(handler)
    came, left_out = count
    assert came >= 1024 and left_out > 0 and came + left_out == 30 * 63


def test_a_child_has_the_log_from_a_thread_of_its_own(run: Callable[..., object]) -> None:
    done = run(
        """
        import logging, os, sys, threading, gcos
        inside, go_on = threading.Event(), threading.Event()
        class Handler(logging.Handler):
            def emit(self, record):
                if os.getpid() == parent:
                    inside.set()
                    go_on.wait(60)
                os.write(1, f"{os.getpid()} {record.getMessage()}\\n".encode())
        def use():
            gcos.Store.open({"disk": {"number": 1, "paths": ["emulated:ram:64MiB"], "capacity_bytes": 64 << 20}}).close()
        parent = os.getpid()
        logging.basicConfig(level=1, handlers=[Handler()])
        gcos.set_log_level("info")
        use()
        # In the middle of a line.
        inside.wait(60)
        child = os.fork()
        if child == 0:
            use()
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        go_on.set()
        os.write(1, f"{parent} {child} these\\n".encode())
        """
    )
    assert done.returncode == 0 and done.stderr == ""  # type: ignore[attr-defined]
    lines = done.stdout.splitlines()  # type: ignore[attr-defined]
    (these,) = [line.split()[:2] for line in lines if line.endswith("these")]
    for process in these:
        assert sum(line.startswith(f"{process} ") and "drive opened" in line for line in lines) == 1, lines
