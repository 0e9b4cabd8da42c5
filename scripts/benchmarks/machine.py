"""What the machine did: CPU time and memory of a process, and how busy everything was. Linux only: it reads /proc.

A figure on a shared machine means little by itself. So processes are pinned (the server to one core, everything that
drives it to another), CPU time is taken instead of wall time where it says the same, and every figure stands beside
that of a peer that was measured in turns with it.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

#: The core of the process that is measured, and that of everything that drives it.
SERVER_CORE, DRIVER_CORE = 0, 1
#: Open files that a benchmark may need: 10,000 connections, twice while they are opened anew, and what else is open.
OPEN_FILES = 20_000

#: Bytes of memory that are brought before a transfer, and of one write.
WARM_BYTES, WARM_BLOCK_BYTES = 2**31, 2**23

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Memory(NamedTuple):
    """Memory of a process in KiB: resident, and its proportional share of what it has in common with others."""

    rss_kib: int
    pss_kib: int


def cpu_s(pid: int) -> float:
    """Seconds of CPU time of a process, user and system, all threads, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def exact_cpu_s(pid: int) -> float:
    """Seconds of CPU time of a process's threads that run, counted by the nanosecond and not by the clock's tick."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def family_cpu_s(pid: int) -> float:
    """Seconds of CPU time of a process, of all that it has started and that run, and of all of them that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own_s = sum(int(field) for field in fields[11:15]) / _TICKS_PER_S
    return own_s + sum(family_cpu_s(child) for child in children(pid))


def waited_s(pid: int) -> float:
    """Seconds for which a process's main thread had work and got no core: the doing of whatever else runs here."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def memory(pid: int) -> Memory:
    """Memory of a process now."""
    found = dict.fromkeys(("Rss:", "Pss:"), 0)
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, amount, *_ = line.split()
        if name in found:
            found[name] = int(amount)
    return Memory(found["Rss:"], found["Pss:"])


def open_files(pid: int) -> int:
    """How many files and connections a process holds open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def children(pid: int) -> list[int]:
    """The processes that this one has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def pinned(core: int, command: list[str]) -> list[str]:
    """`command`, kept on one core; unchanged where the machine has only one."""
    if (os.cpu_count() or 1) < 2:
        return command
    return [shutil.which("taskset") or "taskset", "-c", str(core), *command]


def prepare() -> None:
    """Allow many open files, here and in the processes started from here.

    Raises:
        SystemExit: where this machine cannot run a benchmark; the text says why.
    """
    if not sys.platform.startswith("linux"):
        raise SystemExit("The benchmarks read /proc and pin processes to cores: they run on Linux only.")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, max(hard, OPEN_FILES)))
        except (ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def program(name: str, package: str) -> str | None:
    """The path of a program, or None with a line on stderr that names the Debian package that brings it."""
    found = shutil.which(name)
    if found is None:
        print(f"{name} is missing, so its column stays empty: apt-get install {package}", file=sys.stderr)
    return found


def warm_memory() -> None:
    """Have memory for files at hand. A virtual machine whose host takes back what is free gets it again page by page,
    when it is written first: 512 MiB then cost more than a second of CPU in place of a tenth, whoever is the one.
    """
    block = bytes(WARM_BLOCK_BYTES)
    with tempfile.TemporaryFile(buffering=0) as file:
        for _ in range(WARM_BYTES // WARM_BLOCK_BYTES):
            file.write(block)


def describe() -> str:
    """The machine and its load, as one line below a table."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = names[0].partition(":")[2].strip() if names else platform.machine()
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"{os.cpu_count()} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}; "
        f"load averages over 1, 5 and 15 minutes: {load}"
    )
