"""Sessions of hf_xet, one for each stream, with bounds on what they hold and for how long they wait.

Problem: with its own numbers hf_xet waits for minutes, keeps gigabytes, and lets a reader go only when the request
under way has timed out: ending a group of streams took 15 to 30 s with a limit of 5 s for a request. So the easy way, a
session for the process, makes a cancel wait for a minute when the store has fallen silent.

Every stream has a session of its own, whose end lets the reader go in 2 ms. To make one takes less than that, and
one that was read to its end serves the next stream, with its connections.

What a stream holds is bounded by how it asks. Left alone it gets the plan of 256 MB to 8 GB of the file at a time; each
run of bytes that lie together in the store, up to 64 MiB, is then one buffer, and several are fetched ahead. A smaller
buffer alone does not do: streams were seen to wait for each other for ever when it was less than the longest run. So
plans are asked for 6 MiB at a time, which cuts the runs to that, and a stream has room for three.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from types import ModuleType
from typing import Any

from hive.net.tls import Trust
from workers.transfer.limits import MIB, Limits

#: Tries of one request inside hf_xet, beyond the first, and the pause before the first of them in ms. The engine tries
#: again by itself.
RETRIES = 2
RETRY_BASE_DELAY_MS = 500
#: Bytes from which a block of memory is asked of the kernel and given back to it at once. glibc raises its own mark to
#: 32 MiB as it sees large blocks freed, and what hf_xet's threads have freed then stays in their heaps: 40 to 70 MiB.
MMAP_THRESHOLD_BYTES = 2 * MIB

#: glibc's number of that mark, for mallopt(3).
_M_MMAP_THRESHOLD = -3


class XetSessions:
    """The sessions of one download. Safe from any thread. Make it in the process that fetches, and close it."""

    def __init__(self, limits: Limits, trust: Trust) -> None:
        """`trust`: the certificates that hf_xet is to trust."""
        self._limits = limits
        self._trust = trust
        self._lock = threading.Lock()
        self._idle: list[Any] = []

    def take(self) -> Any:
        """A session for one stream: give it back, or end it with `sigint_abort`. Raises whatever hf_xet does."""
        native = load(self._trust)
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return native.XetSession(_config(native, self._limits))

    def give_back(self, session: Any) -> None:
        """The session's stream was read to its end: it may have another."""
        with self._lock:
            self._idle.append(session)

    def close(self) -> None:
        """End those that were given back, and their threads."""
        with self._lock:
            self._idle.clear()


def load(trust: Trust) -> ModuleType:
    """hf_xet, imported late: at import it starts its log, in a thread and in a file of the home folder, unless the
    environment says otherwise. Raises ImportError.
    """
    os.environ.setdefault("HF_XET_LOG_DEST", os.devnull)
    for name, value in trust.files.items():
        os.environ.setdefault(name, value)
    # Another C library has no such mark, or no such call.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
    import hf_xet

    module: ModuleType = hf_xet
    return module


def _config(native: ModuleType, limits: Limits) -> Any:
    return native.XetConfig().with_config(
        {
            "telemetry.enabled": False,
            "client.connect_timeout": _ms(limits.connect_timeout_s),
            "client.read_timeout": _ms(limits.stall_s),
            "client.retry_max_attempts": RETRIES,
            "client.retry_base_delay": f"{RETRY_BASE_DELAY_MS}ms",
            "client.retry_max_duration": _ms(limits.stall_all_s),
            "client.ac_max_download_concurrency": limits.connections_max,
            "reconstruction.min_reconstruction_fetch_size": limits.xet_fetch_bytes,
            "reconstruction.max_reconstruction_fetch_size": limits.xet_fetch_bytes,
            "reconstruction.min_prefetch_buffer": limits.xet_fetch_bytes,
            "reconstruction.download_buffer_size": limits.xet_buffer_bytes,
            "reconstruction.download_buffer_perfile_size": 0,
            "reconstruction.download_buffer_limit": limits.xet_buffer_bytes,
        }
    )


def _ms(seconds: float) -> str:
    return f"{int(seconds * 1000)}ms"
