"""Which machine gets a model, by what those in memory have of it."""

from __future__ import annotations

import os
from typing import Any

import pytest

from hive.errors import TooManyDownloads
from hive.serving.memory import used_bytes
from hive.serving.orders import Device, HostInfo
from hive.serving.placement import MAX_FETCHING, able, can_fetch, roomy
from hive.serving.record import LlmRecord
from hive.serving_errors import InsufficientRam
from hive.wire.encoding import encode_json

GB = 10**9
CPU = encode_json([Device(backend="cpu", index=0, name="cpu")]).decode()
HOSTS = [
    HostInfo(name=f"{name}.1.ab", host=name, pid=1, version="0", devices=CPU, ram_available=10 * GB) for name in "ab"
]


def record(**fields: Any) -> LlmRecord:
    return LlmRecord(id="worker-1", **fields)


def test_the_page_cache_of_a_model_in_memory_is_not_free_for_another() -> None:
    loaded = record(host="a.1.ab", state="idle", memory_bytes=7 * GB, memory_used=GB)
    waiting = record(host="b.1.ab", state="queued", memory_bytes=4 * GB)
    hosts = able(HOSTS, [loaded, waiting], "cpu", 0)
    assert [(host.host, host.ram_available) for host in hosts] == [("b", 6 * GB), ("a", 4 * GB)]
    assert roomy(hosts, "cpu", 0, 4 * GB, 2 * GB).host == "b"
    with pytest.raises(InsufficientRam) as refused:
        roomy(hosts, "cpu", 0, 5 * GB, 2 * GB)
    assert refused.value.details == {"required": 5 * GB, "available": 4 * GB}
    on_a_card = record(host="a.1.ab", backend="cuda", memory_bytes=7 * GB)
    assert able(HOSTS, [on_a_card], "cpu", 0)[0].ram_available == 10 * GB


def test_so_many_workers_of_a_machine_wait_for_downloads() -> None:
    waiting = [record(host="a.1.ab", download_id="d", flight=str(number)) for number in range(MAX_FETCHING)]
    assert [host.host for host in can_fetch(HOSTS, waiting, "x")] == ["b"]
    with pytest.raises(TooManyDownloads):
        can_fetch(HOSTS[:1], waiting, "x")
    assert can_fetch(HOSTS[:1], waiting, "3"), "who asks for a model that is on its way joins its worker"


def test_what_a_process_allocates_is_used() -> None:
    before = used_bytes(os.getpid())
    held = b"x" * (32 << 20)
    assert used_bytes(os.getpid()) - before > len(held) // 2
