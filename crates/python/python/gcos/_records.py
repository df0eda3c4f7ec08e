"""What the store tells about itself."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, NamedTuple


class _Record:
    """What the records have in common."""

    def to_dict(self) -> dict[str, Any]:
        """All fields by name."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]


class ObjectInfo(NamedTuple):
    """What is known of an object without reading it."""

    #: Length in bytes.
    len: int
    #: Higher for objects stored later.
    generation: int
    #: Expiry in seconds since 1970, if it has one.
    expires_at: int | None
    #: How many times it is pinned.
    pins: int
    #: Indices of the drives that it lies on, the head's first.
    drives: list[int]


@dataclasses.dataclass(frozen=True)
class PoolInfo(_Record):
    """Identity and size of a pool."""

    pool_uuid: str
    drives: int
    data_bytes: int
    chunk_bytes: int
    #: Time of format, seconds since 1970.
    created: int


@dataclasses.dataclass(frozen=True)
class RecoveryReport(_Record):
    """What opening a pool found."""

    objects: int
    #: Whether all drives had been closed in order.
    clean: bool
    journal_records: int
    overlapping_dropped: int
    older_checkpoint_used: list[int]
    journal_holes: list[int]
    missing_drives: list[int]
    superblock_copies_repaired: int
    micros: int
    checkpoint_micros: int
    journal_micros: int
    space_micros: int


@dataclasses.dataclass(frozen=True)
class DriveInfo(_Record):
    """What is known of a drive of an open pool."""

    index: int
    name: str
    #: "online", "read_only", "demoted", "gone" or "missing".
    health: str
    spill: bool
    #: What moves its blocks now.
    way: str
    #: Why not a better way; empty on the best.
    reason: str
    demotions: int
    #: Requests of the host that the drive has: its queue depth in use.
    requests_under_way: int
    #: Bytes of those requests.
    bytes_under_way: int
    used_bytes: int
    capacity_bytes: int


@dataclasses.dataclass(frozen=True)
class Stats(_Record):
    """Counters (from open on) and gauges of a store."""

    #: Objects present.
    objects: int
    #: Payload bytes of the objects present.
    payload_bytes: int
    #: Bytes of slots in use, headers and rounding included.
    used_bytes: int
    #: Bytes of all data chunks of the drives present.
    capacity_bytes: int
    #: Bytes that metadata of the objects present takes in a checkpoint.
    meta_used_bytes: int
    #: Bytes that it may take.
    meta_capacity_bytes: int
    #: Objects with at least one pin.
    pinned: int
    #: Bytes of memory that the index takes, keys included.
    index_bytes: int
    #: Bytes of keys in the index.
    key_bytes: int
    #: Puts that stored.
    puts: int
    #: Puts that kept an existing object.
    puts_kept: int
    #: Puts that failed on the drives they were placed on, also those that were then stored on others.
    puts_failed: int
    #: Payload bytes stored.
    put_bytes: int
    #: Gets that hit.
    hits: int
    #: Gets that missed, for any reason.
    misses: int
    #: Misses because of damage.
    misses_damaged: int
    #: Misses because of I/O errors and lost drives.
    misses_io: int
    #: Payload bytes delivered.
    get_bytes: int
    #: Objects removed by the caller.
    removed: int
    #: Objects evicted for room.
    evicted: int
    #: Payload bytes of them.
    evicted_bytes: int
    #: Objects whose lifetime ended.
    expired: int
    #: Journal frames written.
    journal_frames: int
    #: Records in them.
    journal_records: int
    #: Checkpoints written.
    checkpoints: int
    #: Chunks deallocated.
    chunks_deallocated: int
    #: Bytes copied through staging memory because the caller's memory was not device-visible.
    staged_bytes: int
    #: Gets (layers counted each) that the GPU and the drives did by themselves: a part of the hits.
    device_gets: int
    #: Puts whose data the GPU and the drives moved by themselves.
    device_puts: int
    #: Gets and puts on a GPU's stream that the host did, since the GPU and the drives could not.
    device_fallbacks: int
    #: Drives in use.
    drives_online: int
    #: Drives of the pool that are missing or have failed.
    drives_lost: int
    #: Times that drives left a way because of errors past the budget.
    demoted_errors: int
    #: Times that they did because the device was gone.
    demoted_gone: int
    #: Times that they did because of latency.
    demoted_latency: int
    #: Times that they did because somebody asked for it.
    demoted_asked: int
    #: Drives that are not written until the pool is opened again, since their journal or their cache
    #: could not be written.
    demoted_unwritable: int
    #: Times that drives went back to their first way.
    promotions: int
    #: Requests that were carried out on another way after they had failed on theirs.
    requests_retried: int
    #: Puts that were begun again on other drives, since a drive failed.
    puts_retried: int
    #: Puts that went to the drive for spill.
    spilled: int
    #: Bytes of slots in use on the drive for spill.
    spill_used_bytes: int
    #: Bytes of all its data chunks; 0 where there is none.
    spill_capacity_bytes: int


@dataclasses.dataclass(frozen=True)
class IntervalStats(_Record):
    """What happened between two looks at a store: figures of the last moments."""

    #: Length of the interval, in seconds.
    seconds: float
    #: Calls that read, batches counted once.
    reads: int
    #: Payload bytes that they delivered.
    read_bytes: int
    #: The same in GB (10^9 bytes) per second of the time in which any of them was under way.
    read_throughput_gbs: float
    #: Mean time of such a call, in milliseconds.
    read_latency_ms: float
    #: Upper bound of the time that 99 % of them took at most, in milliseconds: a power of two of microseconds.
    read_latency_p99_ms: float
    #: Share of the interval in which any of them was under way, in percent.
    read_busy_percent: float
    #: Calls that write, batches counted once.
    writes: int
    #: Payload bytes that they stored.
    write_bytes: int
    #: As for reads.
    write_throughput_gbs: float
    #: As for reads.
    write_latency_ms: float
    #: As for reads.
    write_latency_p99_ms: float
    #: As for reads.
    write_busy_percent: float
    #: Gets that hit.
    hits: int
    #: Gets that missed.
    misses: int
    #: Share of hits among both, in percent; 0 where there were none.
    cache_hit_rate_percent: float
    #: Objects evicted for room.
    evicted: int
    #: Use of the room for objects at the end of the interval, in percent.
    used_percent: float


_CLASSES = {cls.__name__: cls for cls in (DriveInfo, IntervalStats, PoolInfo, RecoveryReport, Stats)}


def load(name: str, text: str) -> Any:
    """A record, or a list of them, from JSON, as the library makes it."""
    cls = _CLASSES[name]
    value = json.loads(text)
    if isinstance(value, list):
        return [cls(**one) for one in value]
    return cls(**value)
