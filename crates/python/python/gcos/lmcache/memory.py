"""LMCache's memory as the store sees it: registered once, so that drives reach it without a copy."""

from __future__ import annotations

import ctypes
import mmap
import threading
from typing import Any, Callable, Iterator, Optional

import torch
from lmcache.v1.memory_allocators.gpu_memory_allocator import GPUMemoryAllocator
from lmcache.v1.memory_allocators.tensor_memory_allocator import TensorMemoryAllocator
from lmcache.v1.memory_management import MemoryObj, TensorMemoryObj

import gcos

#: Drives read and write whole pages.
PAGE = 4096


def arenas(allocator: Any) -> Iterator[torch.Tensor]:
    """The large pieces of host memory that an allocator of LMCache hands out parts of."""
    seen = set()
    inner = [allocator, getattr(allocator, "pin_allocator", None), getattr(allocator, "cpu_allocator", None)]
    for holder in inner:
        tensor = getattr(holder, "buffer", None)
        if isinstance(tensor, torch.Tensor) and not tensor.is_cuda and tensor.numel():
            if tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                yield tensor


def pages(address: int, length: int) -> Optional[tuple[int, int]]:
    """The whole pages inside a piece of memory: address and length."""
    start = -(-address // PAGE) * PAGE
    end = (address + length) // PAGE * PAGE
    return (start, end - start) if end > start else None


def advise_huge(address: int, length: int) -> bool:
    """Asks the kernel for huge pages, so that a request is a few long pieces of memory and not one for each 4 KiB.

    Pages that are there already stay as they are. ``False`` where the kernel will not, as for memory of a driver.
    """
    huge = 2 << 20
    start, end = -(-address // huge) * huge, (address + length) // huge * huge
    if end <= start:
        return False
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return madvise(start, end - start, getattr(mmap, "MADV_HUGEPAGE", 14)) == 0


class Registrations:
    """Memory that is registered with a store, until it is given back."""

    def __init__(self, store: gcos.Store) -> None:
        self._store = store
        self._held: list[Any] = []
        #: Bytes registered.
        self.bytes = 0

    def add(self, address: int, length: int, owner: Any) -> None:
        """Registers the whole pages of a piece of memory, and keeps ``owner`` until :meth:`close`."""
        inside = pages(address, length)
        if inside is None:
            return
        advise_huge(*inside)
        self._held.append(self._store.register(gcos.Memory(*inside, owner=owner)))
        self.bytes += inside[1]

    def close(self) -> None:
        """Takes the memory back. Nothing may be reading or writing it."""
        held, self._held = self._held, []
        for registration in held:
            registration.close()
        self.bytes = 0


def buffer_of(obj: MemoryObj) -> gcos.Memory:
    """The bytes of a memory object, without a copy."""
    device = None
    raw = obj.raw_data
    if isinstance(raw, torch.Tensor) and raw.is_cuda:
        device = str(raw.device)
    return gcos.Memory(obj.data_ptr, obj.get_size(), owner=obj, device=device)


def close_before(allocator: Any, quiesce: Callable[[], bool]) -> None:
    """Has ``quiesce`` called before an allocator gives its memory back.

    LMCache closes the backend that owns the memory before the ones that use it. While ``quiesce`` says that
    I/O is still under way, the memory is kept: a leak at the end of the process, instead of a drive writing
    into memory that belongs to someone else by then.
    """
    original = allocator.close

    def close() -> None:
        if quiesce():
            original()

    allocator.close = close


class DeviceArena(GPUMemoryAllocator):
    """Hands out parts of a piece of GPU memory that drives reach."""

    def __init__(self, buffer: Any) -> None:
        # Not the constructor of the base: it would take memory of its own.
        self.buffer = buffer
        self.tensor = torch.from_dlpack(buffer)
        self.allocator = TensorMemoryAllocator(self.tensor, align_bytes=PAGE)
        self.device_mem_lock = threading.Lock()

    def allocate(self, *args: Any, **kwargs: Any) -> Optional[MemoryObj]:
        """One memory object, or ``None`` when there is no room."""
        obj = super().allocate(*args, **kwargs)
        if isinstance(obj, TensorMemoryObj):
            # It comes back through this object, and so under its lock.
            obj.parent_allocator = self
        return obj

    def batched_allocate(self, *args: Any, **kwargs: Any) -> Optional[list[MemoryObj]]:
        """Several memory objects of one size, or ``None`` when there is no room for all."""
        objs = super().batched_allocate(*args, **kwargs)
        for obj in objs or []:
            if isinstance(obj, TensorMemoryObj):
                obj.parent_allocator = self
        return objs

    def __str__(self) -> str:
        return "GcosDeviceArena"
