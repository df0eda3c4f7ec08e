"""Figures for those who watch a store."""

from __future__ import annotations

import gc
import urllib.error
import urllib.request

import pytest
from conftest import document

import gcos


def read(server: gcos.MetricsServer, page: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://{server.address}{page}", timeout=10) as answer:
        return str(answer.read().decode())


def test_metrics_count_the_calls_of_python(ram: gcos.Store) -> None:
    ram.put("key", bytes(1000))
    ram.get("key")
    ram.get_many(["key", "nothing"], [bytearray(1000), bytearray(1)])
    text = ram.metrics_text()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert "# TYPE" in text
    assert "1" in {value for name, value in lines.items() if "puts" in name}
    interval = ram.interval_stats()
    assert (interval.hits, interval.misses, interval.writes) == (2, 1, 1)
    assert interval.write_bytes == 1000
    assert ram.interval_stats().writes == 0
    assert interval.to_dict()["hits"] == 2


def test_a_server_answers_until_it_is_closed(ram: gcos.Store) -> None:
    with ram.serve_metrics() as server:
        assert read(server).splitlines()[0] == ram.metrics_text().splitlines()[0]
        assert server.address in repr(server)
        with pytest.raises(urllib.error.HTTPError):
            read(server, "/other")
        with pytest.raises(gcos.InvalidArgument):
            ram.serve_metrics(server.address)
    with pytest.raises(urllib.error.URLError):
        read(server)
    server.close()
    other = ram.serve_metrics("127.0.0.1:0")
    address = other.address
    del other
    gc.collect()
    ram.serve_metrics(address).close()
    for wrong in ("nonsense", "", "127.0.0.1:99999", "256.0.0.1:1"):
        with pytest.raises(gcos.InvalidArgument):
            ram.serve_metrics(wrong)


def test_a_server_does_not_keep_the_store_open() -> None:
    store = gcos.Store.open(document("emulated:ram:64MiB"))
    server = store.serve_metrics()
    store.close(timeout=10)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        read(server)
    server.close()
