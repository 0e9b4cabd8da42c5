"""How soon hive is there: its help, a pull as a whole process, `hive up`, and the answer to a request."""

from __future__ import annotations

import compileall
import contextlib
import http.client
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.running import ROOT, STOP_TIMEOUT_S, Redis, Server, Told
from benchmarks.table import print_table

#: The programs of this environment.
BIN = Path(sys.executable).parent
#: Seconds that a command or a start may take.
COMMAND_TIMEOUT_S = 60
#: Requests that are sent before those that count.
WARM_UP_REQUESTS = 50


def compile_code() -> None:
    """Compile our modules, as an installation does: with PYTHONDONTWRITEBYTECODE set, every start would do it anew, and
    more than half of its time would be that.
    """
    for package in ("hive", "workers"):
        compileall.compile_dir(ROOT / package, quiet=1)


def command_ms(command: list[str]) -> float:
    """Milliseconds that a command takes from start to end.

    Raises:
        CalledProcessError: when it fails.
    """
    began_s = time.perf_counter()
    subprocess.run(
        command, check=True, timeout=COMMAND_TIMEOUT_S, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    return (time.perf_counter() - began_s) * 1000


def help_times(runs: int) -> None:
    """`hive --help` and, in turns with it, an empty Python and the help of `hf`."""
    commands = {
        "hive --help": [str(BIN / "hive"), "--help"],
        "hf --help": [str(BIN / "hf"), "--help"],
        "python -c pass": [sys.executable, "-c", "pass"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(runs + 1):
        for name, command in commands.items():
            spent_ms = command_ms(command)
            if number:  # the first of each fills the caches
                times[name].append(spent_ms)
    rows = []
    for name, found in times.items():
        by_hive = statistics.median(a / b for a, b in zip(times["hive --help"], found, strict=True))
        rows.append([name, f"{statistics.median(found):.0f}", f"{max(found):.0f}", f"{by_hive:.2f}"])
    print_table(f"Help, {runs} runs in turns", ["", "median, ms", "max, ms", "hive : this"], rows)


class Spent(NamedTuple):
    """Seconds that a process took, and those of CPU that it and its children used."""

    wall_s: float
    cpu_s: float


def pull_times(folder: Path, runs: int, megabytes: int) -> None:
    """`hive pull` and, in turns with it, `hf download`: of a model that is not there, and of one that is.

    From the tests' stand-in of the Hub on this machine; whole processes, from start to end, without a server.
    """
    repo, n_bytes = "bench/model", megabytes * 1_000_000
    with _hub(repo, n_bytes) as endpoint:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("HIVE_", "HF_", "REDIS_"))}
        env |= {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", "HIVE_HOME": str(folder / "pull-home")}
        hive, hf = folder / "pull-hive", folder / "pull-hf"
        commands = {
            "hive pull": ([str(BIN / "hive"), "pull", "-q", repo], env | {"HIVE_STORE": str(hive)}, hive),
            "hf download": ([str(BIN / "hf"), "download", "--quiet", repo], env | {"HF_HOME": str(hf)}, hf),
        }
        fresh: dict[str, list[Spent]] = {name: [] for name in commands}
        there: dict[str, list[Spent]] = {name: [] for name in commands}
        for number in range(runs + 1):
            for name, (command, command_env, place) in commands.items():
                shutil.rmtree(place, ignore_errors=True)
                for spent in (fresh[name], there[name]):
                    one = _whole_process(command, command_env)
                    if number:  # the first of each fills the caches
                        spent.append(one)
    for title, spent_by in ((f"A model of {megabytes} MB, fresh", fresh), ("The same model, on disk", there)):
        rows, ours = [], spent_by["hive pull"]
        for name, theirs in spent_by.items():
            by_wall = statistics.median(a.wall_s / b.wall_s for a, b in zip(ours, theirs, strict=True))
            by_cpu = statistics.median(a.cpu_s / b.cpu_s for a, b in zip(ours, theirs, strict=True))
            wall_s, cpu_s = (statistics.median(column) for column in zip(*theirs, strict=True))
            rows.append([name, f"{wall_s:.2f}", f"{cpu_s:.2f}", f"{by_wall:.2f}", f"{by_cpu:.2f}"])
        head = ["", "median, s", "CPU, s", "time, hive : this", "CPU, hive : this"]
        print_table(f"{title}, {runs} runs in turns", head, rows)


def _whole_process(command: list[str], env: dict[str, str]) -> Spent:
    """Run it to its end. Raises SystemExit where it fails."""
    began_s = time.perf_counter()
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return Spent(time.perf_counter() - began_s, used.ru_utime + used.ru_stime)


@contextlib.contextmanager
def _hub(repo: str, n_bytes: int) -> Iterator[str]:
    """The stand-in with one repository of one file; gives its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hub", "--synthetic", f"{repo}/model-Q4_K_M.gguf={n_bytes}"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        yield str(json.loads(Told.line(process.stdout, COMMAND_TIMEOUT_S))["endpoint"])
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)
        process.stdout.close()


def up_times(folder: Path, runs: int) -> None:
    """`hive up` until it says that it is ready: Redis, server and both workers."""
    times = []
    for number in range(runs + 1):
        began_s = time.perf_counter()
        with _up(folder):
            if number:  # the first makes the folders and the key
                times.append(time.perf_counter() - began_s)
    rows = [["hive up, ready", f"{statistics.median(times):.2f}", f"{max(times):.2f}"]]
    print_table(f"`hive up` with 2 workers and its own Redis, {runs} runs, warm", ["", "median, s", "max, s"], rows)


@contextlib.contextmanager
def _up(folder: Path) -> Iterator[None]:
    env = {key: value for key, value in os.environ.items() if key != "REDIS_URL"}
    env |= {"HIVE_HOME": str(folder / "up"), "HIVE_STORE": str(folder / "store"), "HIVE_DRAIN_S": "0"}
    process = subprocess.Popen(
        [str(BIN / "hive"), "up", "--port", "0"],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        line = Told.line(process.stdout, COMMAND_TIMEOUT_S)
        if b"ready" not in line or b"still starting" in line:
            raise SystemExit(f"hive up did not get ready: {line.decode(errors='replace')}")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_TIMEOUT_S)
        process.stdout.close()


def request_times(folder: Path, requests: int) -> None:
    """`POST /v1/models/download`, each for another model, and in turns with it the cheapest request there is."""
    with Redis(folder / "redis") as redis, Server(redis.url, folder / "hive") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)

        def post(number: int) -> int:
            body = json.dumps({"model_ref": f"hf:bench/model-{number}"})
            connection.request("POST", "/v1/models/download", body, {"Content-Type": "application/json"})
            return _drain(connection)

        def health(number: int) -> int:
            connection.request("GET", "/v1/health")
            return _drain(connection)

        calls: dict[str, tuple[Callable[[int], int], int]] = {
            "POST /v1/models/download": (post, 202),
            "GET /v1/health": (health, 200),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(requests + WARM_UP_REQUESTS):
            for name, (call, wanted) in calls.items():
                began_s = time.perf_counter()
                status = call(number)
                if status != wanted:
                    raise SystemExit(f"{name}: {status}")
                if number >= WARM_UP_REQUESTS:
                    times[name].append((time.perf_counter() - began_s) * 1000)
        connection.close()
    rows = []
    for name, found in times.items():
        p99 = statistics.quantiles(found, n=100)[98]
        by_post = statistics.median(times["POST /v1/models/download"]) / statistics.median(found)
        rows.append([name, f"{statistics.median(found):.2f}", f"{p99:.2f}", f"{by_post:.2f}"])
    print_table(f"Requests, {requests} of each in turns", ["", "median, ms", "p99, ms", "POST : this"], rows)


def _drain(connection: http.client.HTTPConnection) -> int:
    response = connection.getresponse()
    response.read()
    return response.status
