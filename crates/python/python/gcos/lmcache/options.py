"""What the configuration of LMCache says about GCOS, and the pool that comes of it."""

from __future__ import annotations

import difflib
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional

import gcos

GIB = 1 << 30
_ROUND = 1 << 20

#: Keys of ``extra_config`` that are read here, with their defaults. Others that begin with ``gcos_`` are
#: pointed out.
KEYS: dict[str, Any] = {
    "gcos_config": None,
    "gcos_path": None,
    "gcos_capacity_gb": None,
    "gcos_queue_num": None,
    "gcos_queue_depth": None,
    "gcos_durability": "sync",
    "gcos_threads": 4,
    "gcos_device_buffer_mib": 0,
    "gcos_metrics_address": None,
    "gcos_close_timeout_s": 30.0,
    "use_cufile": None,
    "use_direct_io": None,
    "batch_size": 0,
    "prefetch_size": 1,
    "debug_mode": False,
    "log_level": None,
}


class OptionError(ValueError):
    """The configuration cannot be used; the message says what to change."""


@dataclass(frozen=True)
class Worker:
    """Which of the processes on this host asks, counted from 0."""

    number: int = 0
    of: int = 1


@dataclass(frozen=True)
class Options:
    """What ``extra_config`` says."""

    #: The configuration of the pool, as in ``gcos.json``, for this worker alone.
    pool: dict[str, Any]
    #: When a put is acknowledged: ``sync`` or ``relaxed``, as of the store.
    durability: str
    #: Threads of the store that carry out what is submitted.
    threads: int
    #: MiB of the GPU's memory that gets read into; 0 for none.
    device_buffer_mib: int
    #: Address in digits and port at which metrics are served; ``None`` for nowhere.
    metrics_address: Optional[str]
    #: Most seconds that a close waits for I/O.
    close_timeout_s: float
    #: Most objects of one call to the store; 0 is any number.
    batch_size: int
    #: Layers that are read ahead of the one that is asked for.
    prefetch_size: int
    #: Level of the log of this connector; ``None`` leaves LMCache's.
    log_level: Optional[str]
    #: What is worth a warning, one line each.
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, extra: Optional[Mapping[str, Any]], worker: Worker) -> "Options":
        """Reads ``extra_config``. Raises :class:`OptionError` with what to change."""
        extra = dict(extra or {})
        warnings = _unknown(extra)
        values = {key: extra.get(key, default) for key, default in KEYS.items()}
        level = values["log_level"]
        if level is not None and str(level).upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise OptionError(f"log_level is {level!r}: use DEBUG, INFO, WARNING or ERROR")
        if _boolean("debug_mode", values["debug_mode"]):
            level = "DEBUG"
        return cls(
            pool=_pool(values, worker, warnings),
            durability=_durability(values["gcos_durability"]),
            threads=_whole("gcos_threads", values["gcos_threads"], 1, 256),
            device_buffer_mib=_whole("gcos_device_buffer_mib", values["gcos_device_buffer_mib"], 0, 1 << 20),
            metrics_address=_text("gcos_metrics_address", values["gcos_metrics_address"], worker),
            close_timeout_s=_seconds("gcos_close_timeout_s", values["gcos_close_timeout_s"]),
            batch_size=_whole("batch_size", values["batch_size"], 0, 1 << 20),
            prefetch_size=_whole("prefetch_size", values["prefetch_size"], 0, 64),
            log_level=None if level is None else str(level).upper(),
            warnings=warnings,
        )

    def set_log_level(self) -> None:
        """Sets the level of the log of this connector, where there is one."""
        if self.log_level is not None:
            # LMCache gives each logger a level of its own.
            for name in ("gcos.lmcache", *(f"gcos.lmcache.{part}" for part in ("backend", "announce", "l2"))):
                logging.getLogger(name).setLevel(self.log_level)


def _unknown(extra: Mapping[str, Any]) -> list[str]:
    known = [key for key in KEYS if key.startswith("gcos_")]
    warnings = []
    for key in extra:
        if isinstance(key, str) and key.startswith("gcos_") and key not in KEYS:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            warnings.append(f"extra_config has {key!r}, which GCOS does not know; did you mean {near[0]!r}?")
    return warnings


def _boolean(key: str, value: Any) -> bool:
    if isinstance(value, str) and value.lower() in {"true", "false", "1", "0"}:
        return value.lower() in {"true", "1"}
    if isinstance(value, (bool, int)) and value in (0, 1):
        return bool(value)
    raise OptionError(f"{key} is {value!r}: use true or false")


def _durability(value: Any) -> str:
    if value not in ("sync", "relaxed"):
        raise OptionError(f"gcos_durability is {value!r}: use sync or relaxed")
    return str(value)


def _number(key: str, value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError):
        raise OptionError(f"{key} is {value!r}: use a number") from None


def _whole(key: str, value: Any, least: int, most: int) -> int:
    number = _number(key, value)
    if number != int(number) or not least <= number <= most:
        raise OptionError(f"{key} is {value!r}: use a whole number from {least} to {most}")
    return int(number)


def _seconds(key: str, value: Any) -> float:
    number = _number(key, value)
    if not 0 < number <= 3600:
        raise OptionError(f"{key} is {value!r}: use seconds, more than 0 and up to 3600")
    return number


def _text(key: str, value: Any, worker: Worker) -> Optional[str]:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise OptionError(f"{key} is {value!r}: use text")
    return value.replace("{worker}", str(worker.number))


def _pool(values: Mapping[str, Any], worker: Worker, warnings: list[str]) -> dict[str, Any]:
    """The configuration of this worker's pool."""
    given = values["gcos_config"]
    if given is not None:
        if values["gcos_path"] is not None:
            warnings.append("gcos_config is given, so gcos_path is not used")
        pool = _share(_document(given), worker)
    elif values["gcos_path"] is not None:
        pool = _file_pool(values, worker)
    else:
        raise OptionError("extra_config has neither gcos_config (a gcos.json) nor gcos_path (a file or folder)")
    _adjust(pool, values)
    return pool


def _document(given: Any) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return gcos.Config.from_dict(_plain(given)).to_dict()
    if isinstance(given, (str, os.PathLike)):
        if not os.path.isfile(given):
            raise OptionError(f"gcos_config names {os.fspath(given)!r}, which is no file: give the path of a gcos.json")
        return gcos.Config.load(os.fspath(given)).to_dict()
    raise OptionError(f"gcos_config is {given!r}: give the path of a gcos.json, or its content")


def _plain(value: Any) -> Any:
    """Mappings and lists as plain ones: YAML readers have their own."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _share(pool: dict[str, Any], worker: Worker) -> dict[str, Any]:
    """What of the drives is this worker's: a pool has one owner process."""
    paths = [str(path) for path in pool["disk"]["paths"]]
    marked = [path for path in paths if "{worker}" in path]
    if marked and len(marked) != len(paths):
        raise OptionError("some entries of disk.paths have {worker} and some have not: use it in all or in none")
    if not marked and worker.of > 1:
        if len(paths) < worker.of:
            raise OptionError(
                f"there are {worker.of} workers and {len(paths)} entries in disk.paths: a pool has one owner process, "
                "so give at least one drive for each worker, or files with {worker} in their names"
            )
        paths = paths[worker.number :: worker.of]
    mine = [path.replace("{worker}", str(worker.number)) for path in paths]
    pool["disk"]["paths"] = mine
    pool["disk"]["number"] = len(mine)
    fallback = pool.get("fallback") or {}
    spill = fallback.get("path") or ""
    if spill and worker.of > 1 and "{worker}" not in spill:
        raise OptionError(
            f"there are {worker.of} workers and one fallback.path, {spill!r}: put {{worker}} into its name"
        )
    if spill:
        fallback["path"] = spill.replace("{worker}", str(worker.number))
    return pool


def _file_pool(values: Mapping[str, Any], worker: Worker) -> dict[str, Any]:
    """One plain file as a pool."""
    given = values["gcos_path"]
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
        raise OptionError(f"gcos_path is {given!r}: give a file or folder")
    text = os.fspath(given)
    path = Path(text.replace("{worker}", str(worker.number)))
    folder = path.is_dir() or text.endswith("/") or (not path.exists() and not path.suffix)
    if folder:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(f"gcos_path: the folder {path} cannot be made: {error.strerror or error}") from error
        path = path / f"worker{worker.number}.gcos"
    elif worker.of > 1 and "{worker}" not in text:
        raise OptionError(
            f"there are {worker.of} workers and one file in gcos_path, {text!r}: give a folder, or put {{worker}} "
            "into the name"
        )
    return gcos.Config.from_dict(
        {"disk": {"number": 1, "paths": [str(path.absolute())], "capacity_bytes": _capacity(values, path)}}
    ).to_dict()


def _capacity(values: Mapping[str, Any], path: Path) -> int:
    given = values["gcos_capacity_gb"]
    if given is None:
        if path.is_file() and path.stat().st_size >= _ROUND:
            return path.stat().st_size // _ROUND * _ROUND
        raise OptionError(f"gcos_capacity_gb is missing: say how many GiB the new pool file {path} may take")
    number = int(_number("gcos_capacity_gb", given) * GIB)
    if number < _ROUND:
        raise OptionError(f"gcos_capacity_gb is {given!r}: use GiB, more than 0")
    return number // _ROUND * _ROUND


def _adjust(pool: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Single keys that stand above the pool's configuration."""
    for key in ("use_cufile", "use_direct_io"):
        if values[key] is not None:
            pool.setdefault("kernel_path", {})[key] = _boolean(key, values[key])
    queues = values["gcos_queue_num"]
    if queues is not None:
        count = _whole("gcos_queue_num", queues, 1, 65535)
        namespace = pool.setdefault("namespace", {})
        namespace.setdefault("cpu", {})["qps"] = count
        gpu = namespace.get("gpu") or {}
        needed = count + int(gpu.get("num") or 0) * int(gpu.get("qps") or 0)
        disk = pool["disk"]
        disk["reserve_max_queue_pair_num"] = max(needed, int(disk.get("reserve_max_queue_pair_num") or 64))
    depth = values["gcos_queue_depth"]
    if depth is not None:
        entries = _whole("gcos_queue_depth", depth, 2, 65536)
        pool.setdefault("namespace", {}).setdefault("cpu", {})["queue_depth"] = entries
        pool.setdefault("kernel_path", {})["queue_depth"] = min(entries, 4096)
