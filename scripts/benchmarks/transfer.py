"""Bringing files: hive against what people use today, from one server in one run, each into a folder of its own.

hive verifies the digest of what it brings; of the others only those that say so in their names do. CPU is user and
system time of all processes of the tool, for hive that of its server, its worker with all that it forks, and its Redis.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.request import Request, urlopen

from benchmarks import machine
from benchmarks.line import line
from benchmarks.running import HERE, ROOT, Process, Redis, Server, Workers, free_port, listens
from benchmarks.statichub import REPO, Listed, StaticHub, trusted_certificate, write_random
from benchmarks.table import print_table

#: Seconds that one transfer may take.
TRANSFER_TIMEOUT_S = 300
#: The limit of a connection in the limited form: bytes a second, as nginx writes it.
LIMIT = "40m"
#: Connections of aria2c: what its users are told to give it.
ARIA2_CONNECTIONS = "8"
#: The server that is far away: delay of each direction, bytes under way in one connection (a tenth of a second of 10
#: MB/s), and bytes after which a connection breaks, in the mean.
FAR_DELAY_MS, FAR_WINDOW_BYTES, FAR_CUT_EVERY_BYTES = 50, 2**20, 2**26
#: Small files of the repo with many, the least and the most bytes of one: spread evenly over the orders of magnitude.
SMALL_FILES, SMALL_LEAST_BYTES, SMALL_MOST_BYTES = 2000, 10 * 2**10, 2**20

#: Lines of `mirror` and of `tls`, as tc writes their rates.
MIRROR_LINES, TLS_LINE = ("1gbit", "2500mbit", "5gbit"), "1gbit"
#: The small files of the model that `mirror` brings, in bytes, and hive's workers for it.
MIRROR_SMALL_FILES: dict[str, int] = {"config": 800, "generation_config": 200, "tokenizer_config": 40_000}
MIRROR_WORKERS = 4
#: The tool of that form alone.
THROUGH = "hf download through hive (cold)"

_LOOP = """
import hashlib, sys, requests
digest = hashlib.sha256()
with requests.get(sys.argv[1], stream=True, timeout=60) as answer, open(sys.argv[2], "wb", buffering=0) as file:
    for part in answer.iter_content(2**20):
        file.write(part)
        digest.update(part)
sys.exit(digest.hexdigest() != sys.argv[3])
"""


class Cost(NamedTuple):
    """What one transfer took."""

    seconds: float
    cpu_s: float


class Way(NamedTuple):
    """How the tools reach the hub: with a limit of each connection ("0" for none) as nginx writes it; behind a line of
    so many bits a second, as tc writes it; over TLS; from far away.
    """

    limit: str = "0"
    line: str = ""
    tls: bool = False
    far: bool = False

    @property
    def words(self) -> str:
        """The same for a title."""
        said = ["TLS"] if self.tls else []
        said += [f"a line of {self.line}"] if self.line else []
        said += [f"limited to {self.limit} bytes a second and connection"] if self.limit != "0" else []
        return ", ".join(said) or "no limit"


NEARBY = Way()

#: Brings everything that the hub has into an empty folder.
Tool = Callable[[StaticHub, Path], Cost]


def run_command(command: Sequence[str], env: dict[str, str] | None = None) -> Cost:
    """Time and CPU of a command and all that it starts.

    Raises:
        SystemExit: when it fails, with the end of what it said.
    """
    machine.warm_memory()
    before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, env={**os.environ, **(env or {})}, capture_output=True, timeout=TRANSFER_TIMEOUT_S)
    seconds, after = time.monotonic() - began_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{command[0]}: {(done.stdout + done.stderr)[-2000:].decode(errors='replace')}")
    return Cost(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def curl(hub: StaticHub, folder: Path) -> Cost:
    """One connection, nothing verified."""
    (file,) = hub.files
    return run_command(["curl", "-sSfL", "-o", str(folder / file.name), f"{hub.resolve}/{file.name}"])


def aria2c(hub: StaticHub, folder: Path, *more: str) -> Cost:
    """Eight connections, nothing verified."""
    (file,) = hub.files
    options = ["-q", "-x", ARIA2_CONNECTIONS, "-s", ARIA2_CONNECTIONS, "--allow-overwrite=true", "-d", str(folder)]
    if hub.certificate is not None:
        options.append(f"--ca-certificate={hub.certificate}")  # it knows no variable for it
    return run_command(["aria2c", *options, *more, f"{hub.resolve}/{file.name}"])


def aria2c_verified(hub: StaticHub, folder: Path) -> Cost:
    """The same, and the digest when all is there."""
    (file,) = hub.files
    return aria2c(hub, folder, f"--checksum=sha-256={file.sha256}")


def requests_loop(hub: StaticHub, folder: Path) -> Cost:
    """The shortest program that does it right: one connection, hashed on the way."""
    (file,) = hub.files
    return run_command(
        [sys.executable, "-c", _LOOP, f"{hub.resolve}/{file.name}", str(folder / file.name), file.sha256]
    )


def hf(hub: StaticHub, folder: Path) -> Cost:
    """`hf download`, as huggingface_hub brings it, over HTTP."""
    return _hf(hub.url, folder)


def _hf(endpoint: str, folder: Path) -> Cost:
    env = {
        "HF_HOME": str(folder),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    }
    return run_command([str(Path(sys.executable).parent / "hf"), "download", REPO], env)


def through_hive(hub: StaticHub, folder: Path) -> Cost:
    """The same through a running hive whose store is empty; the CPU is that of both."""
    with _running(hub, folder, MIRROR_WORKERS) as (server, pids):
        cpu_s = sum(map(machine.family_cpu_s, pids))
        cost = _hf(server.url, folder / "client")
        return Cost(cost.seconds, cost.cpu_s + sum(map(machine.family_cpu_s, pids)) - cpu_s)


@contextlib.contextmanager
def _running(hub: StaticHub, folder: Path, concurrency: int) -> Iterator[tuple[Server, tuple[int, int, int]]]:
    """A hive with its Redis and workers, and their process ids."""
    settings = {"HF_ENDPOINT": hub.url, "HIVE_KEEP_FREE_PERCENT": "0"}
    with (
        Redis(folder / "redis", None) as redis,
        Server(redis.url, folder, None, 1, **settings) as server,
        Workers(redis.url, folder, concurrency, **settings) as workers,
    ):
        yield server, (redis.pid, server.pid, workers.pid)


def hive(hub: StaticHub, folder: Path) -> Cost:
    """A running hive: from the POST to the terminal event, digest verified, file published."""
    with _running(hub, folder, 1) as (server, pids):
        machine.warm_memory()
        cpu_s, began_s = sum(map(machine.family_cpu_s, pids)), time.monotonic()
        end = _bring(server.url, f"hf:{REPO}")
        seconds = time.monotonic() - began_s
        if end["stage"] != "complete":
            raise SystemExit(f"hive: {end}")
        return Cost(seconds, sum(map(machine.family_cpu_s, pids)) - cpu_s)


def _bring(url: str, ref: str) -> dict[str, str]:
    """The terminal event of a download."""
    body = json.dumps({"model_ref": ref}).encode()
    request = Request(f"{url}/v1/models/download", body, {"Content-Type": "application/json"})  # noqa: S310
    with urlopen(request, timeout=10) as answer:  # noqa: S310
        download_id = json.load(answer)["download_id"]
    event: dict[str, str] = {"stage": "nothing"}
    with urlopen(f"{url}/v1/models/download/progress?id={download_id}", timeout=TRANSFER_TIMEOUT_S) as stream:  # noqa: S310
        for line in stream:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
            elif line == b"data: [DONE]\n":
                break
    return event


#: Name in the table, program, Debian package, tool. hive is the first: ratios are to the others.
TOOLS: dict[str, tuple[str, str, Tool]] = {
    "hive (verified)": ("redis-server", "redis-server", hive),
    "curl": ("curl", "curl", curl),
    "hf download": (str(Path(sys.executable).parent / "hf"), "huggingface_hub (pip)", hf),
    "aria2c -x8 -s8": ("aria2c", "aria2", aria2c),
    "aria2c -x8 -s8 (verified)": ("aria2c", "aria2", aria2c_verified),
    THROUGH: (str(Path(sys.executable).parent / "hf"), "huggingface_hub (pip)", through_hive),
    "requests, sha256 on the way (verified)": (sys.executable, "python3", requests_loop),
}


@contextlib.contextmanager
def put_far_away(hub: StaticHub, folder: Path) -> Iterator[None]:
    """The hub's addresses lead through a proxy that delays, limits what is under way, and breaks connections."""
    port = free_port()
    words = [str(word) for word in (port, hub.port, FAR_DELAY_MS, FAR_WINDOW_BYTES, FAR_CUT_EVERY_BYTES)]
    command = [sys.executable, "-m", "benchmarks.distance", *words]
    with Process(command, None, log=folder / "distance.log", env={"PYTHONPATH": str(ROOT / "scripts")}) as proxy:
        proxy.wait_for(lambda: listens(port), "the proxy")
        near, far = hub.url, f"http://127.0.0.1:{port}"
        hub.url, hub.resolve = far, hub.resolve.replace(near, far)
        yield


def compare(title: str, folder: Path, files: list[Listed], names: Sequence[str], runs: int, way: Way = NEARBY) -> None:
    """The tools in turns, each `runs` times, every run into an empty folder."""
    present = [name for name in names if machine.program(*TOOLS[name][:2])]
    costs: dict[str, list[Cost]] = {name: [] for name in present}
    size_bytes = sum(file.size_bytes for file in files)
    with _hub(folder, files, way) as hub:
        for _ in range(runs):
            for name in present:
                with _empty(folder / f"to-{free_port()}") as target:
                    costs[name].append(TOOLS[name][2](hub, target))
    mine = costs[present[0]]
    rows = []
    for name, found in costs.items():
        seconds, cpu_s = (statistics.median(cost[i] for cost in found) for i in (0, 1))
        slower, dearer = (statistics.median(a[i] / b[i] for a, b in zip(mine, found, strict=True)) for i in (0, 1))
        rows.append(
            [
                name,
                f"{seconds:.2f}",
                f"{size_bytes / seconds / 1e6:.0f}",
                f"{cpu_s:.2f}",
                f"{slower:.2f}",
                f"{dearer:.2f}",
            ]
        )
    head = ["", "seconds", "MB/s", "CPU seconds", "time, hive : this", "CPU, hive : this"]
    print_table(f"{title}, medians of {runs} runs in turns, from nginx on the same machine", head, rows)


@contextlib.contextmanager
def _hub(folder: Path, files: list[Listed], way: Way) -> Iterator[StaticHub]:
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(line(way.line)) if way.line else HERE
        certificate = stack.enter_context(trusted_certificate(folder / "tls", place.address)) if way.tls else None
        made = StaticHub(folder / "nginx", folder / "files", files, way.limit, place=place, certificate=certificate)
        hub = stack.enter_context(made)
        if way.far:
            stack.enter_context(put_far_away(hub, folder))
        yield hub


def big(folder: Path, gib: float, runs: int, names: Sequence[str], *ways: Way) -> None:
    """One large file."""
    file = write_random(folder / "files" / "model.gguf", int(gib * 2**30))
    for way in ways:
        compare(f"{gib:g} GiB in one file, {way.words}", folder, [file], names, runs, way)


def mirror(folder: Path, gib: float, runs: int) -> None:
    """A model of one large file and some small ones to `hf download`, through a hive that has none of it and directly:
    behind lines, without a limit, and with one of each connection.
    """
    files = [write_random(folder / "files" / f"{name}.json", size) for name, size in MIRROR_SMALL_FILES.items()]
    files.append(write_random(folder / "files" / "model.safetensors", int(gib * 2**30)))
    for way in (*(Way(line=rate) for rate in MIRROR_LINES), Way(), Way(LIMIT)):
        title = f"{gib:g} GiB and {len(files) - 1} small files, {way.words}"
        compare(title, folder, files, [THROUGH, "hf download"], runs, way)


def distant(folder: Path, gib: float, runs: int) -> None:
    """One large file from far away, over connections that break now and then."""
    file = write_random(folder / "files" / "model.gguf", int(gib * 2**30))
    title = f"{gib:g} GiB, {FAR_DELAY_MS} ms each way, a connection breaks every {FAR_CUT_EVERY_BYTES / 2**20:.0f} MiB"
    names = ["hive (verified)", "aria2c -x8 -s8 (verified)"]
    compare(title, folder, [file], names, runs, Way(far=True))


def small(folder: Path, runs: int) -> None:
    """A repo of many small files."""
    shutil.rmtree(folder / "files", ignore_errors=True)
    growth = (SMALL_MOST_BYTES / SMALL_LEAST_BYTES) ** (1 / (SMALL_FILES - 1))
    files = [
        write_random(folder / "files" / f"part-{number:05}.json", int(SMALL_LEAST_BYTES * growth**number))
        for number in range(SMALL_FILES)
    ]
    total_mb = sum(file.size_bytes for file in files) / 1e6
    names = ["hive (verified)", "hf download"]
    compare(f"{SMALL_FILES:,} files of 10 KiB to 1 MiB, {total_mb:.0f} MB", folder, files, names, runs)


@contextlib.contextmanager
def _empty(folder: Path) -> Iterator[Path]:
    """A folder for one run; what it held is written back before the next run begins."""
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.sync()
