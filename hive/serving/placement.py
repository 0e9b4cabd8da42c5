"""Placement: which machine gets a model.

Problem: with mmap, llama.cpp's default, the weights of a model that is loaded stay in the page cache, which the kernel
counts as free: by its figure alone a second model fits where both do not, and each takes the other's pages away with
every token. So each worker says in its record what it takes by the reckoning (memory.py), and how much of that the
kernel counts as used already; the difference is promised, and nobody else's. A worker that is still to load counts in
the same way, so two that are asked for at once do not both get the same memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from hive.errors import BackendUnavailable, HiveError, TooManyDownloads
from hive.serving.memory import shortage
from hive.serving.orders import HostInfo
from hive.serving.record import LlmRecord
from hive.serving_errors import InsufficientRam, VramExhausted
from hive.version import install_command
from hive.wire.llm import Backend

#: Workers of one machine that wait for the downloads of their models: each is a process of 60 MB.
MAX_FETCHING: Final = 16


def promised_bytes(records: Iterable[LlmRecord]) -> Mapping[str, int]:
    """By machine: what workers will take, or have in the page cache, of the memory that counts as free there."""
    found: Counter[str] = Counter()
    for record in records:
        if record.backend == "cpu":
            found[record.machine] += max(record.memory_bytes - record.memory_used, 0)
    return found


def able(hosts: Sequence[HostInfo], records: Sequence[LlmRecord], backend: Backend, device: int) -> list[HostInfo]:
    """The machines that have this device, those with the most memory first; `ram_available` is less what is promised.

    Raises:
        BackendUnavailable: none has.
    """
    found = [host for host in hosts if host.device(backend, device) is not None]
    if not found:
        there = [f"{d.backend}:{d.index} ({d.name})" for host in hosts for d in host.device_list()]
        said = f"there is {', '.join(there)}" if there else "no machine runs models"
        way_out = f"{install_command('serve')} where `hive worker` or `hive up` runs, or set HIVE_LLAMA_SERVER"
        raise BackendUnavailable(f"No machine has the device {backend}:{device}; {said}. {way_out}.", available=there)
    return sorted(less_promised(found, records), key=lambda host: -host.ram_available)


def less_promised(hosts: Iterable[HostInfo], records: Iterable[LlmRecord]) -> list[HostInfo]:
    """The machines, with what no worker has a claim to as `ram_available`."""
    promised = promised_bytes(records)
    return [host.with_ram_available(max(host.ram_available - promised.get(host.host, 0), 0)) for host in hosts]


def roomy(hosts: Sequence[HostInfo], backend: Backend, device: int, needed: int, keep_free: int) -> HostInfo:
    """The first of them that has room. Bytes.

    Raises:
        InsufficientRam, VramExhausted: none has.
    """
    most = 0
    for host in hosts:
        found = host.device(backend, device)
        assert found is not None
        free = host.ram_available - keep_free if backend == "cpu" else found.available_bytes
        if free >= needed or (backend != "cpu" and not free):
            return host
        most = max(most, free)
    kind: type[HiveError] = InsufficientRam if backend == "cpu" else VramExhausted
    figures = f"The model takes {needed / 1e9:.1f} GB; the most that a machine has for it is {most / 1e9:.1f} GB."
    raise kind(f"{figures} End other workers, choose a smaller variant or a smaller context.", **shortage(needed, most))


def can_fetch(hosts: Iterable[HostInfo], records: Iterable[LlmRecord], flight: str) -> list[HostInfo]:
    """The machines on which one more worker may wait for a download.

    Raises:
        TooManyDownloads: there is none.
    """
    waiting = Counter(r.host for r in records if r.download_id and not r.path and r.flight != flight)
    found = [host for host in hosts if waiting[host.name] < MAX_FETCHING]
    if not found:
        text = f"{MAX_FETCHING} models wait for their downloads to be loaded. Try again when some have come."
        raise TooManyDownloads(text, limit=MAX_FETCHING)
    return found
