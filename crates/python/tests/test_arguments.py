"""Random arguments for every public function: nothing but exceptions that callers can expect, and no crash.

GCOS_ARGUMENTS_SEED makes another run, GCOS_ARGUMENTS_CALLS a longer one.
"""

from __future__ import annotations

import array
import inspect
import itertools
import json
import mmap
import os
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import MIB, document

import gcos
from gcos import _gcos, fileio, ops

EXPECTED = (gcos.GcosError, TypeError, ValueError)
CALLS = int(os.environ.get("GCOS_ARGUMENTS_CALLS", "30000"))
# What would end the run, leave the folder, or reach memory that no random address should.
LEFT_OUT = {"close_all"}


class Strange:
    """An object whose protocols do not do what they promise."""

    def __init__(self, generator: random.Random) -> None:
        self.generator = generator

    def data_ptr(self) -> Any:
        return self.generator.choice([0, -1, "address", None, 2**64])

    def is_contiguous(self) -> Any:
        return self.generator.choice([True, False, None, "yes"])

    @property
    def device(self) -> Any:
        return self.generator.choice([None, "cpu", self, 5])

    @property
    def type(self) -> Any:
        return self.generator.choice(["cpu", "cuda", "tpu", None])

    @property
    def index(self) -> Any:
        return self.generator.choice([None, 0, 99, -1, "0"])

    @property
    def nbytes(self) -> Any:
        return self.generator.choice([0, 1, -1, None, 2**63, 2**64])

    @property
    def cuda_stream(self) -> Any:
        return self.generator.choice([0, -1, None, 2**64])

    def __len__(self) -> int:
        return int(self.generator.choice([0, 3]))

    def __iter__(self) -> Any:
        raise RuntimeError("of the caller")

    def __str__(self) -> str:
        return str(self.generator.choice(["cuda:99", "cpu", ""]))


class Liar:
    """DLPack that is none."""

    def __dlpack_device__(self) -> Any:
        return random.choice([(1, 0), (2, 99), (99, 0), None, (1,)])

    def __dlpack__(self, **_: Any) -> Any:
        return random.choice([None, 5, b"dltensor"])


class Arguments:
    """Values of all kinds."""

    def __init__(self, seed: int, store: gcos.Store, folder: Path) -> None:
        self.random = random.Random(seed)
        self.store = store
        self.folder = folder

    def key(self) -> Any:
        some = self.random
        return some.choice(
            [
                f"{some.randrange(20)}",
                f"{some.randrange(20)}".encode(),
                "",
                b"",
                "ü" * some.randrange(600),
                some.randbytes(some.randrange(1200)),
                "\ud800",
            ]
        )

    def buffer(self) -> Any:
        some = self.random
        size = some.choice([0, 1, 2, 100, 4096, 5000, 65536, 300_000])
        makers: list[Callable[[], Any]] = [
            lambda: some.randbytes(size),
            lambda: bytearray(size),
            lambda: memoryview(bytearray(size))[some.randrange(3) :: some.choice([1, 1, 2, -1])],
            lambda: memoryview(bytes(size)),
            lambda: array.array("d", bytes(size // 8 * 8)),
            lambda: mmap.mmap(-1, size or 1),
            lambda: self.store.buffer(size or 1),
            lambda: memoryview(self.store.buffer(size + 1))[:size],
            lambda: gcos.Memory(4096, size or 1, device="cuda:99"),
            lambda: Strange(some),
            lambda: Liar(),
            lambda: [self.buffer() for _ in range(some.randrange(4))],
            lambda: tuple(self.buffer() for _ in range(some.randrange(3))),
        ]
        return some.choice(makers)()

    def number(self) -> Any:
        some = self.random
        numbers = [0, 1, -1, 2, 7, 4096, 65536, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30]
        return some.choice([*numbers, 0.0, 0.5, -1.5, float("nan"), float("inf"), True])

    def anything(self) -> Any:
        some = self.random
        makers: list[Callable[[], Any]] = [
            self.key,
            self.buffer,
            self.number,
            lambda: None,
            lambda: object(),
            lambda: {"disk": {"number": some.randrange(3), "paths": [self.key()]}},
            lambda: {},
            lambda: self.folder / "nothing",
            lambda: str(self.folder),
            lambda: some.choice(["sync", "relaxed", "keep", "replace", "cuda:99", "127.0.0.1:0"]),
            lambda: [self.anything() for _ in range(some.randrange(4))],
            lambda: Strange(some),
            lambda: (one for one in (1, 2)),
            lambda: int,
        ]
        return some.choice(makers)()

    def of(self, name: str) -> Any:
        """A value for a parameter, most of the time of its kind."""
        some = self.random
        if some.random() < 0.15:
            return self.anything()
        kinds: dict[str, Callable[[], Any]] = {
            "key": self.key,
            "data": self.buffer,
            "buf": self.buffer,
            "bufs": lambda: [self.buffer() for _ in range(some.randrange(4))],
            "keys": lambda: [self.key() for _ in range(some.randrange(4))],
            "durability": lambda: some.choice(["sync", "relaxed", "no"]),
            "if_exists": lambda: some.choice(["replace", "keep", "no"]),
            "ttl": self.number,
            "offset": self.number,
            "stream": lambda: some.choice([None, 0, 1, -1, Strange(some)]),
            "nbytes": lambda: some.choice([0, 1, 4096, 2**20, -1, 2**63, 2**62]),
            "device": lambda: some.choice(["cuda:99", "cuda", "cpu", None, 99]),
            "prefix": self.key,
            "after": self.key,
            "address": lambda: some.choice(["127.0.0.1:0", "nonsense", 4096, 99]),
            "file_path": lambda: self.folder / f"{some.randrange(5)}",
            "size": lambda: some.choice([0, 1, 4096, -1]),
            "document": lambda: document(some.choice(["emulated:ram:64MiB", "", self.key()])),
            "text": lambda: some.choice(["{", "[]", json.dumps(document("emulated:ram:64MiB"))]),
        }
        return kinds.get(name, self.anything)()

    def of_call(self, function: Callable[..., Any]) -> tuple[list[Any], dict[str, Any]]:
        """Values for the parameters of a function, some left out, some too many."""
        some = self.random
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for parameter in inspect.signature(function).parameters.values():
            required = parameter.default is inspect.Parameter.empty
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            if some.random() < (0.01 if required else 0.6):
                continue
            value = self.of(parameter.name)
            if parameter.kind is parameter.KEYWORD_ONLY:
                named[parameter.name] = value
            else:
                positional.append(value)
        if some.random() < 0.02:
            positional.append(self.anything())
        if some.random() < 0.02:
            named["unknown"] = self.anything()
        return positional, named


def public(store: gcos.Store) -> dict[str, Callable[..., Any]]:
    """Every function, constructor and method that a caller can reach, but for what ends the store."""
    found: dict[str, Callable[..., Any]] = {}
    methods = set(dir(gcos.Store)) - set(dir(object)) - {"close", "open", "__enter__", "__exit__"}
    for name in methods - {"pool", "recovery", "closed", "__weakref__", "__module__"}:
        found[f"Store.{name}"] = getattr(store, name)
    for name in ("load", "parse", "from_dict"):
        found[f"Config.{name}"] = getattr(gcos.Config, name)
    found["Memory"] = gcos.Memory
    found["FileIo"] = _gcos.FileIo
    found["statuses"] = _gcos.statuses
    found["GdsFileIO"] = fileio.GdsFileIO
    for name in ops.__all__:
        found[f"ops.{name}"] = getattr(ops, name)
    buffer = store.buffer(10_000)
    for name in ("data_ptr", "__len__", "__dlpack__", "__dlpack_device__"):
        found[f"Buffer.{name}"] = getattr(buffer, name)
    return {name: one for name, one in found.items() if name.split(".")[-1] not in LEFT_OUT}


def test_no_arguments_bring_the_interpreter_down(folder: Path, monkeypatch: Any) -> None:
    seed = int(os.environ.get("GCOS_ARGUMENTS_SEED", "1"))
    print(f"GCOS_ARGUMENTS_SEED={seed}")
    monkeypatch.chdir(folder)
    random.seed(seed)
    warnings.simplefilter("ignore")
    with gcos.Store.open(document("emulated:ram:64MiB")) as store:
        arguments = Arguments(seed, store, folder)
        functions = public(store)
        assert len(functions) > 40
        answers: dict[str, int] = dict.fromkeys(functions, 0)
        pending: list[Any] = []
        names = itertools.cycle(sorted(functions))
        for name in itertools.islice(names, CALLS):
            function = functions[name]
            made, named = arguments.of_call(function)
            try:
                answer = function(*made, **named)
            except EXPECTED:
                continue
            except OSError:
                assert name == "ops.create_file"
                continue
            except BufferError:
                # What DLPack asks for where a copy is wanted and none is given.
                assert name == "Buffer.__dlpack__"
                continue
            except RuntimeError as error:
                assert str(error) == "of the caller", name
                continue
            answers[name] += 1
            if isinstance(answer, gcos.Future):
                pending.append(answer)
            if isinstance(answer, gcos.MetricsServer):
                answer.close()
        for future in pending:
            error = future.exception(60)
            assert error is None or (isinstance(error, gcos.GcosError) and not isinstance(error, gcos.Internal))
        # Those that work at all have worked.
        never = {name for name, count in answers.items() if count == 0}
        gpu = {"Store.device_buffer", "FileIo", "GdsFileIO", "ops.gpu_file_read", "ops.gpu_file_write"}
        assert never <= gpu | {"ops.initialize_gcos", "Config.load"}
        # And the store is as well as before.
        store.put("after", bytes(MIB))
        assert store.get("after") == bytes(MIB)
