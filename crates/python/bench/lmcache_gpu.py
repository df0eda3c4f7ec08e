"""LMCache objects between drives and GPU memory: GCOS beside LMCache's GDS backend, on a machine with a GPU.

    python crates/python/bench/lmcache_gpu.py FOLDER [--json FILE] [--kinds KIND ...]

FOLDER lies on the file system to be measured (about 5 GiB are needed). Needs gcos, torch with CUDA, lmcache 0.5.6,
and what the modules used here import: PyYAML, aiofile, caio, aiohttp (aiohappyeyeballs, aiosignal, attrs,
frozenlist, idna, multidict, propcache, yarl), cachetools, cryptography (cffi), cuda-core (cuda-bindings, cuda-pathfinder), msgspec,
numba (llvmlite), numpy, nvtx, opentelemetry-api, -sdk, -proto, -semantic-conventions, -exporter-prometheus,
-exporter-otlp with its parts, prometheus_client, psutil, py-cpuinfo, pyzmq, requests (certifi,
charset-normalizer, urllib3), sortedcontainers, transformers (huggingface_hub, filelock, regex, tqdm); for
GdsBackend also cufile-python. For a machine without a network: `pip install --no-deps --target DIR` of these
beside it, and DIR in PYTHONPATH.

Objects of 32 MiB and 1 MiB, one and eight in each call:

- `GCOS, device`: gets read into GPU memory of the store (`gcos_device_buffer_mib`), by cuFile where it works; puts go
  from LMCache's pinned host memory, where its engine leaves them. `GCOS, device, no cuFile`: gets go through pinned
  host memory of the store.
- `GCOS, host`: gets read into pinned host memory and are copied to the GPU, as LMCache's connector does.
- `GdsBackend, POSIX` and `GdsBackend, cuFile`: LMCache's own, where its packages are there.

Every byte that is got is compared on the GPU. The result is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from lmcache_backends import MIB, POINTS, WAIT_S, Clock, Rig, drop_caches, fio

KINDS = ["GCOS, device", "GCOS, device, no cuFile", "GCOS, host", "GdsBackend, POSIX", "GdsBackend, cuFile"]
DEVICE = "cuda:0"


class GpuRig(Rig):
    """A backend with GPU memory."""

    def _settings(self, folder: Path) -> tuple[dict, dict]:
        if self.name.startswith("GCOS"):
            extra = {"gcos_path": str(folder / "pool.gcos"), "gcos_capacity_gb": 2, "prefetch_size": 0}
            if self.name.startswith("GCOS, device"):
                extra["gcos_device_buffer_mib"] = 1024
            if self.name.endswith("no cuFile"):
                extra["use_cufile"] = False
            return extra, {}
        (folder / "gds").mkdir(exist_ok=True)
        extra = {"use_direct_io": self.name.endswith("cuFile"), "disk_io_threads": 8}
        return extra, {"gds_path": str(folder / "gds"), "gds_buffer_size": 1024, "use_gds": self.name.endswith("cuFile")}

    def _make(self):
        if self.name.startswith("GCOS"):
            from gcos.lmcache import GcosBackend

            return GcosBackend(self.config, self.metadata, self.cpu, self.loop, DEVICE)
        from lmcache.v1.storage_backend.gds_backend import GdsBackend

        return GdsBackend(self.config, self.metadata, self.loop, DEVICE)

    def allocate(self):
        """Memory of what is put: where the backend wants it."""
        if self.name.startswith("GCOS"):
            return super().allocate()
        obj = self.backend.allocate(self.metadata.get_shapes()[0], self.metadata.get_dtypes()[0], eviction=False)
        assert obj is not None, "too little GPU memory"
        return obj

    def to_gpu(self, obj):
        """What the engine's connector reads from."""
        tensor = obj.tensor
        if not tensor.is_cuda:
            tensor = tensor.to(DEVICE, non_blocking=True)
        self.torch.cuda.synchronize()
        return tensor

    def remove(self, numbers) -> None:
        if self.name.startswith("GCOS"):
            super().remove(numbers)
        else:
            # GdsBackend removes nothing. It writes metadata after a put has ended.
            deadline = time.monotonic() + WAIT_S
            while self.backend.save_metadata_tasks:
                assert time.monotonic() < deadline, "metadata is still being written"
                time.sleep(0.01)
            with self.backend.hot_lock:
                self.backend.hot_cache.clear()
                self.backend.metadata_dirs.clear()
            shutil.rmtree(self.backend.gds_path)
            Path(self.backend.gds_path).mkdir()


def measure(kind: str, folder: Path, point: tuple[int, int, int]) -> dict:
    size, depth, count = point
    memory = max(3 * depth * size, 64 * MIB) / (1 << 30)
    rig = GpuRig(kind, folder, size, memory_gib=memory)
    torch = rig.torch
    objs = [rig.allocate() for _ in range(depth)]
    expected = [rig.content(number).to(DEVICE) for number in range(depth)]
    for obj, content in zip(objs, expected):
        obj.tensor.view(torch.int16).view(-1).copy_(content)
    torch.cuda.synchronize()
    batches = [list(range(at, min(at + depth, count))) for at in range(0, count, depth)]

    def put_all() -> None:
        for batch in batches:
            rig.put(batch, objs[: len(batch)])

    put_all()
    # What is made at the first use.
    for obj in rig.get(batches[0]):
        rig.to_gpu(obj)
        obj.ref_count_down()
    rig.remove(range(count))
    time.sleep(0.5)
    drop_caches()
    with Clock() as put:
        put_all()
    time.sleep(0.5)
    drop_caches()
    with Clock() as get:
        for batch in batches:
            found = rig.get(batch)
            for obj in found:
                rig.to_gpu(obj)
                obj.ref_count_down()
    compared = mismatches = on_gpu = 0
    for batch in batches:
        for number, obj in zip(batch, rig.get(batch)):
            compared += 1
            on_gpu += obj.tensor.is_cuda
            mismatches += not torch.equal(rig.to_gpu(obj).view(torch.int16).view(-1), expected[number % depth])
            obj.ref_count_down()
    stats = rig.backend._store.stats().to_dict() if kind.startswith("GCOS") else {}
    rig.remove(range(count))
    for obj in objs:
        obj.ref_count_down()
    rig.close()
    gigabytes = size * count / 1e9
    return {
        "put_gb_s": round(gigabytes / put.wall, 4),
        "get_gb_s": round(gigabytes / get.wall, 4),
        "put_cpu_s_per_gb": round(put.cpu / gigabytes, 4),
        "get_cpu_s_per_gb": round(get.cpu / gigabytes, 4),
        "compared": compared,
        "in_gpu_memory": on_gpu,
        "mismatches": mismatches,
        "staged_bytes": stats.get("staged_bytes"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, help="write the result here, too")
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    given = parser.parse_args()
    import torch

    # What is missing of its packages is said here, and not as a failure of the first backend.
    import lmcache.v1.storage_backend.local_cpu_backend  # noqa: F401

    given.folder.mkdir(parents=True, exist_ok=True)
    result: dict = {"gpu": torch.cuda.get_device_name(0), "torch": torch.__version__, "table": []}
    have_fio = shutil.which("fio") is not None
    for point in POINTS:
        at = f"{point[0] // MIB} MiB x{point[1]}"
        if have_fio:
            row = {f"{op}_gb_s": round(fio(given.folder, point[0], point[1], op == "put"), 4) for op in ("put", "get")}
            result["table"].append({"point": at, "backend": "fio", **row})
        for kind in given.kinds:
            folder = given.folder / kind.replace(", ", "-")
            folder.mkdir(exist_ok=True)
            try:
                row = measure(kind, folder, point)
            except Exception as error:
                row = {"error": f"{type(error).__name__}: {error}"}
            result["table"].append({"point": at, "backend": kind, **row})
            print(at, kind, row, file=sys.stderr)
            if "error" in row:
                given.kinds = [other for other in given.kinds if other != kind]
            shutil.rmtree(folder)
    text = json.dumps(result, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
