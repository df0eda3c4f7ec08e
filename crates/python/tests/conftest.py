"""What the tests have in common: pools over memory, an image file and a plain file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gcos

MIB = 1 << 20
KINDS = ("ram", "image", "file")

# Shells ignore it in what they run in the background, and programs would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def document(path: str, mib: int = 64, **sections: Any) -> dict[str, Any]:
    """The configuration of a pool over one drive."""
    return {
        "disk": {"number": 1, "paths": [path], "capacity_bytes": mib * MIB},
        # Small chunks, so that small pools have several.
        "zone_chunk_size_kb": {"data": 1024},
        **sections,
    }


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder on a file system that takes direct I/O: not on tmpfs, where /tmp may be."""
    base = os.environ.get("GCOS_TEST_DIR") or Path(__file__).parents[3] / "target"
    Path(base).mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix="python-tests-", dir=base))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def path_of(kind: str, folder: Path, mib: int = 64) -> str:
    """An entry of ``disk.paths``."""
    return {
        "ram": f"emulated:ram:{mib}MiB",
        "image": f"emulated:{folder / 'drive.img'}",
        "file": str(folder / "drive.pool"),
    }[kind]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, folder: Path) -> Iterator[gcos.Store]:
    """An open store of each kind."""
    opened = gcos.Store.open(document(path_of(request.param, folder)), create=True)
    yield opened
    opened.close()


@pytest.fixture
def ram() -> Iterator[gcos.Store]:
    """An open store over memory."""
    opened = gcos.Store.open(document("emulated:ram:64MiB"))
    yield opened
    opened.close()


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a piece of Python in a process of its own."""

    def run(program: str, *arguments: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-X", "faulthandler", "-W", "ignore::DeprecationWarning", "-c"]
        command += [textwrap.dedent(program), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)

    return run
