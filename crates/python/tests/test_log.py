"""The log of the library in Python's logging."""

from __future__ import annotations

import logging
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
