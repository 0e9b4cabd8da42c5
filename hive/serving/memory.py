"""Memory of this machine: how much there is for a model, and how much a model takes.

Problem: an engine that takes more than there is is killed while it loads, and with it perhaps what ran beside it. The
easy way, to try, costs minutes and somebody else's work. So it is reckoned first: the file by a factor, for what an
engine allocates beside the weights, and the cache of the context; and what stays free for everybody else.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any, Final, NamedTuple

from hive.serving_errors import InsufficientRam

#: What an engine takes in all, as a multiple of the weights.
WEIGHTS_FACTOR: Final = 1.2
_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP: Final = Path("/sys/fs/cgroup")


class Memory(NamedTuple):
    """Bytes of this machine, or of the container that this process is in."""

    total: int
    available: int


def read_memory() -> Memory:
    """What there is at this moment."""
    total = available = 0
    with contextlib.suppress(OSError):
        text = _MEMINFO.read_text()
        total, available = _kilobytes(text, "MemTotal") * 1024, _kilobytes(text, "MemAvailable") * 1024
    if not total:
        with contextlib.suppress(OSError, ValueError):
            total = available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _number(_CGROUP / "memory.max")
    if limit is not None and limit < total:
        used = (_number(_CGROUP / "memory.current") or 0) - _inactive_file()
        total, available = limit, min(available, max(limit - used, 0))
    return Memory(total, available)


def bytes_needed(size: int, kv_bytes_per_token: int, context: int, slots: int) -> int:
    """What a model of this size takes with the caches of its slots."""
    return int(size * WEIGHTS_FACTOR) + kv_bytes_per_token * context * slots


def used_bytes(pid: int) -> int:
    """What a process, and those that it has started, hold of the memory so that it does not count as available any
    more: a file that is mapped does, unless it is locked. 0 where nobody knows.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    own = sum(_kilobytes(text, name) for name in ("RssAnon", "RssShmem", "VmLck")) * 1024
    return own + sum(used_bytes(int(child)) for child in children)


def check_ram(needed: int, keep_free: int, promised: int = 0, memory: Memory | None = None) -> None:
    """See that the model fits, with so many bytes left for others, and what other models are promised.

    Raises:
        InsufficientRam: with what it takes and what there is.
    """
    found = memory or read_memory()
    available = max(found.available - promised, 0)
    if needed + keep_free > available:
        figures = f"The model takes {needed / 1e9:.1f} GB and {keep_free / 1e9:.1f} GB stay free, but"
        raise InsufficientRam(
            f"{figures} {available / 1e9:.1f} GB are available."
            " End other workers, choose a smaller variant or a smaller context.",
            **shortage(needed + keep_free, available),
        )


def shortage(required: int, available: int) -> dict[str, Any]:
    """The figures of a refusal, in bytes."""
    return {"required": required, "available": available}


def _kilobytes(text: str, name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) if match else 0


def _number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _inactive_file() -> int:
    """Bytes of files that the kernel gives up first: free in all but name."""
    with contextlib.suppress(OSError, ValueError):
        for line in (_CGROUP / "memory.stat").read_text().splitlines():
            if line.startswith("inactive_file "):
                return int(line.split()[1])
    return 0
