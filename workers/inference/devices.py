"""What this machine can run models on, as far as it can be asked without an engine that loads something.

The cpu where there is an engine for it; a GPU where its driver lists it and a `llama-server` is named, which alone can
have been built for it. A request for another is refused, and never falls back to the cpu by itself.
"""

from __future__ import annotations

import contextlib
import importlib.util
import platform
import shutil
import subprocess
import sys
from typing import Final

from hive.serving.memory import read_memory
from hive.serving.orders import Device
from workers.inference.engine import llama_server

#: Seconds that a driver's tool may take.
ASK_TIMEOUT_S: Final = 3.0
_QUERY: Final = ("--query-gpu=index,name,memory.total,memory.free", "--format=csv,noheader,nounits")
_MIB: Final = 1 << 20


def engine_name(named: str | None) -> str:
    """The engine that models are run with; "" where there is none."""
    if named:
        return "llama-server" if llama_server(named) else ""
    if importlib.util.find_spec("xllamacpp") is not None:
        return "xllamacpp"
    return "llama-server" if llama_server(None) else ""


def find_devices(named: str | None) -> list[Device]:
    """The devices of this machine that an engine is there for."""
    if not engine_name(named):
        return []
    memory = read_memory()
    name = platform.processor() or platform.machine()
    found = [Device(backend="cpu", index=0, name=name, memory_bytes=memory.total, available_bytes=memory.available)]
    if llama_server(named) is not None:
        found += _nvidia()
        if sys.platform == "darwin":
            found.append(Device(backend="metal", index=0, name=name, memory_bytes=memory.total))
    return found


def _nvidia() -> list[Device]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    found: list[Device] = []
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        done = subprocess.run([tool, *_QUERY], capture_output=True, text=True, timeout=ASK_TIMEOUT_S, check=True)
        for line in done.stdout.splitlines():
            index, name, total, free = (part.strip() for part in line.split(","))
            sizes = {"memory_bytes": int(total) * _MIB, "available_bytes": int(free) * _MIB}
            found.append(Device(backend="cuda", index=int(index), name=name, **sizes))
    return found
