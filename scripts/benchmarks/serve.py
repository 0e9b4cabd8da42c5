"""What hive costs a token, and how much later the first one comes, against the engine asked directly.

A stand-in of the engine makes tokens at a set rate, so that what is measured is not how fast a model is. The same
requests go to its socket, to the worker's own address, and through the server; CPU is that of each process for each
token that arrived.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.request import Request, urlopen

from benchmarks import machine
from benchmarks.running import Server, Workers, wait_until
from benchmarks.table import print_table
from benchmarks.token_source import write_program
from hive.processes.embedded_redis import EmbeddedRedis
from tests.support.gguf_models import write_random

#: The mark by which a token is counted, in each form.
_TOKENS: Final = {"/v1/inference": b'"type":"token"', "/completion": b'"stop": false'}
_CHUNK_BYTES: Final = 65_536


class Measured(NamedTuple):
    """One run: tokens that came, seconds until each stream's first, CPU seconds by process."""

    tokens: int
    first_s: list[float]
    cpu_s: dict[str, float]


async def _stream(target: tuple[str, int] | str, path: str, body: bytes) -> tuple[int, float]:
    """The tokens of one request, and the seconds until the first."""
    began_s, first_s, count, rest = time.monotonic(), 0.0, 0, b""
    if isinstance(target, str):
        reader, writer = await asyncio.open_unix_connection(target)
    else:
        reader, writer = await asyncio.open_connection(*target)
    writer.write(
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % (path.encode(), len(body))
        + body
    )
    mark = _TOKENS[path]
    while data := await reader.read(_CHUNK_BYTES):
        rest += data
        count += rest.count(mark)
        rest = rest[-(len(mark) - 1) :]
        if count and not first_s:
            first_s = time.monotonic() - began_s
        if data.endswith(b"0\r\n\r\n"):
            break
    writer.close()
    return count, first_s


def _run(
    target: tuple[str, int] | str, path: str, body: dict[str, Any], streams: int, pids: dict[str, int]
) -> Measured:
    async def together() -> list[tuple[int, float]]:
        data = json.dumps(body).encode()
        return await asyncio.gather(*(_stream(target, path, data) for _ in range(streams)))

    before = {name: machine.cpu_s(pid) for name, pid in pids.items()}
    found = asyncio.run(together())
    cpu_s = {name: machine.cpu_s(pid) - before[name] for name, pid in pids.items()}
    return Measured(sum(count for count, _ in found), [first for _, first in found], cpu_s)


def measure(folder: Path, streams: int, tokens: int, rate_per_s: float, runs: int) -> None:
    """Print the table: each way in turns, `runs` times."""
    model = write_random(folder / "m.gguf")
    program = write_program(folder / "engine", rate_per_s)
    settings: dict[str, Any] = {
        "HIVE_LLAMA_SERVER": str(program),
        "HIVE_LLM_SLOTS": str(streams),
        "HIVE_LLM_KEEP_FREE_BYTES": "0",
        "HIVE_LLM_IDLE_S": "0",
        "HIVE_ALLOW_FILE_URLS": "1",
    }
    with (
        EmbeddedRedis(folder / "home") as redis,
        Server(redis.url, folder / "server", None, **settings) as server,
        Workers(redis.url, folder / "server", 1, **settings),
    ):
        wait_until(lambda: bool(_get(server, "/v1/devices")["devices"]), "a machine that runs models")
        spawned = _post(server, "/v1/workers/spawn", {"model_ref": f"file://{model}"})
        wait_until(lambda: _get(server, "/v1/workers/list")["workers"][0]["state"] == "idle", "the model")
        worker = _get(server, "/v1/workers/list")["workers"][0]
        (engine,) = machine.children(worker["pid"])
        socket = _socket_of(engine)
        pids = {"server": server.pid, "worker": worker["pid"]}
        _compare(server, spawned, socket, pids, streams, tokens, runs)


def _compare(
    server: Server, spawned: dict[str, Any], socket: str, pids: dict[str, int], streams: int, tokens: int, runs: int
) -> None:
    body = {"prompt": "?", "n_predict": tokens, "max_tokens": tokens, "stream": True}
    own = ("127.0.0.1", int(spawned["url"].rpartition(":")[2]))
    through = ("127.0.0.1", server.port)
    ways: dict[str, tuple[tuple[str, int] | str, str]] = {
        "the engine": (socket, "/completion"),
        "the worker's address": (own, "/v1/inference"),
        "through hive": (through, "/v1/inference"),
    }
    memory = {name: machine.memory(pid).rss_kib for name, pid in pids.items()}
    found: dict[str, list[Measured]] = {way: [] for way in ways}
    for _ in range(runs):
        for way, (target, path) in ways.items():
            found[way].append(_run(target, path, body, streams, pids))
    rows = []
    for way, measured in found.items():
        count = statistics.median(each.tokens for each in measured)
        first_ms = statistics.median(first for each in measured for first in each.first_s) * 1000
        cost = [f"{statistics.median(each.cpu_s[name] / each.tokens for each in measured) * 1e6:.1f}" for name in pids]
        rows.append([way, f"{count:,.0f}", f"{first_ms:.1f}", *cost])
    grown = ", ".join(
        f"{name} {(machine.memory(pid).rss_kib - memory[name]) / streams:.1f} KiB a stream"
        for name, pid in pids.items()
    )
    head = ["asked", "tokens", "first token, ms (median)", *(f"CPU of the {name}, us a token" for name in pids)]
    print_table(f"{streams} streams of {tokens} tokens at once; {grown}", head, rows)


def _socket_of(pid: int) -> str:
    """Where an engine listens."""
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return arguments[arguments.index(b"--host") + 1].decode()


def _get(server: Any, path: str) -> Any:
    with urlopen(f"{server.url}{path}", timeout=30) as answer:  # noqa: S310 - our own server
        return json.load(answer)


def _post(server: Any, path: str, body: dict[str, Any]) -> Any:
    request = Request(f"{server.url}{path}", json.dumps(body).encode(), method="POST")  # noqa: S310 - our own server
    with urlopen(request, timeout=60) as answer:  # noqa: S310 - our own server
        return json.load(answer)
