"""What this machine can run models on, as far as it can be asked without an engine that loads something.

The cpu where there is an engine for it; a GPU where its driver lists it and so does a `llama-server`, which alone can
have been built for it. A request for another is refused, and never falls back to the cpu by itself.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from typing import Final

from hive.serving.memory import read_memory
from hive.serving.orders import Device
from workers.inference.engine import GPU_ORDER, environment, llama_server

#: Seconds that a driver's tool may take.
ASK_TIMEOUT_S: Final = 3.0
_QUERY: Final = ("--query-gpu=index,name,memory.total,memory.free", "--format=csv,noheader,nounits")
_MIB: Final = 1 << 20
_CARD: Final = re.compile(r"(?P<index>[0-9]{1,3}), (?P<name>.*), (?P<total>[^,]*), (?P<free>[^,]*)", re.ASCII)
#: Seconds that an engine may take to list its devices: a driver that sleeps is woken for it.
LIST_TIMEOUT_S: Final = 30.0
#: The line behind which it lists them, and one of them.
_LISTED: Final = "Available devices:"
_LISTED_DEVICE: Final = re.compile(r"\s+([A-Za-z]+[0-9]+): ")


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
    binary = llama_server(named)
    if binary is not None:
        if cards := _nvidia():
            drivers = engine_devices(binary)
            found += cards if drivers is None else cards[: len(drivers)]
        if sys.platform == "darwin":
            found.append(Device(backend="metal", index=0, name=name, memory_bytes=memory.total))
    return found


@functools.lru_cache(maxsize=8)
def engine_devices(binary: str) -> tuple[str, ...] | None:
    """The GPUs that this llama-server was built for and finds, as it calls them (`CUDA0`); None where it does not say.

    One without any passes over what it is told of a GPU, and would calculate on the cpu instead.
    """
    try:
        asked = [binary, "--list-devices"]
        env = {**environment(), **GPU_ORDER}
        done = subprocess.run(asked, capture_output=True, text=True, timeout=LIST_TIMEOUT_S, check=True, env=env)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    _, mark, listed = done.stdout.partition(_LISTED)
    return tuple(match[1] for line in listed.splitlines() if (match := _LISTED_DEVICE.match(line))) if mark else None


def _nvidia() -> list[Device]:
    """What the driver lists. Memory that it does not know, as where a GPU shares the machine's, is 0."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    found: list[Device] = []
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        done = subprocess.run([tool, *_QUERY], capture_output=True, text=True, timeout=ASK_TIMEOUT_S, check=True)
        for line in done.stdout.splitlines():
            match = _CARD.fullmatch(line.strip())
            if match is not None:
                sizes = {"memory_bytes": _bytes(match["total"]), "available_bytes": _bytes(match["free"])}
                found.append(Device(backend="cuda", index=int(match["index"]), name=match["name"], **sizes))
    return found


def _bytes(mib: str) -> int:
    return int(mib) * _MIB if mib.isascii() and mib.isdecimal() else 0
