"""How soon hive is there: its help, `hive up`, and the answer to a request for a download."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.running import ROOT, STOP_TIMEOUT_S, Redis, Server, Told
from benchmarks.table import print_table

#: The programs of this environment.
BIN = Path(sys.executable).parent
#: Seconds that a command or a start may take.
COMMAND_TIMEOUT_S = 60
#: Requests that are sent before those that count.
WARM_UP_REQUESTS = 50


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
