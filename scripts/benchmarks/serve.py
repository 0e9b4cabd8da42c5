"""What hive costs a token, and how much later the first one comes, against the engine asked directly.

A stand-in of the engine makes tokens at a set rate, so that what is measured is not how fast a model is. The same
requests go to its socket, to the worker's own address, and through the server: one after another, for the time to the
first token; then many at once, which begin within a second, for the CPU of each process for each token that arrived.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.request import Request, urlopen

from benchmarks import machine
from benchmarks.running import Server, Workers, wait_until
from benchmarks.table import middle, print_table
from benchmarks.token_source import write_program
from hive.processes.embedded_redis import EmbeddedRedis
from tests.support.gguf_models import write_random

#: The mark by which a token is counted, in each form.
_TOKENS: Final = {"/v1/inference": b'"type":"token"', "/completion": b'"stop": false'}
_CHUNK_BYTES: Final = 65_536
#: The end of an answer in chunks.
_END: Final = b"0\r\n\r\n"
#: Seconds without a byte after which a stream has failed.
SILENCE_S: Final = 20.0
#: Requests of each way that follow one another, after those of which the first connection is made.
SINGLE_REQUESTS: Final = 50
WARM_UP_REQUESTS: Final = 5
#: Seconds within which the streams of a crowd begin, evenly.
SPREAD_S: Final = 1.0

#: Where a request goes: the path of a socket, or a host and a port.
Target = str | tuple[str, int]


class Measured(NamedTuple):
    """One run: tokens that came, seconds until each stream's first, CPU seconds by process."""

    tokens: int
    first_s: list[float]
    cpu_s: dict[str, float]


async def _stream(target: Target, path: str, body: bytes, pause_s: float = 0.0) -> tuple[int, float]:
    """The tokens of one request, and the seconds until the first. Raises TimeoutError where it falls silent."""
    await asyncio.sleep(pause_s)
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
    while data := await asyncio.wait_for(reader.read(_CHUNK_BYTES), SILENCE_S):
        rest += data
        count += rest.count(mark)
        if count and not first_s:
            first_s = time.monotonic() - began_s
        if rest.endswith(_END):
            break
        rest = rest[-(len(mark) - 1) :]
    writer.close()
    return count, first_s


def _crowd(target: Target, path: str, body: dict[str, Any], streams: int, pids: dict[str, int]) -> Measured:
    """Many streams that begin within a second."""
    data = json.dumps(body).encode()

    async def together() -> list[tuple[int, float]]:
        return await asyncio.gather(
            *(_stream(target, path, data, SPREAD_S * number / streams) for number in range(streams))
        )

    before = {name: machine.exact_cpu_s(pid) for name, pid in pids.items()}
    found = asyncio.run(together())
    cpu_s = {name: machine.exact_cpu_s(pid) - before[name] for name, pid in pids.items()}
    tokens = sum(count for count, _ in found)
    if tokens != streams * body["max_tokens"]:
        raise RuntimeError(f"{tokens} tokens came of {streams * body['max_tokens']}")
    return Measured(tokens, [first for _, first in found], cpu_s)


def _one_by_one(ways: Mapping[str, tuple[Target, str]]) -> None:
    """Print how late the first token of a request is that has the machine for itself, each way in turns."""
    data = json.dumps({"prompt": "?", "n_predict": 1, "max_tokens": 1, "stream": True}).encode()
    found: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(WARM_UP_REQUESTS + SINGLE_REQUESTS):
        for way, (target, path) in ways.items():
            _, first_s = asyncio.run(_stream(target, path, data))
            if number >= WARM_UP_REQUESTS:
                found[way].append(first_s * 1000)
    direct_ms = statistics.median(found[next(iter(ways))])
    rows = []
    for way, each in found.items():
        later_ms, most_ms = statistics.median(each) - direct_ms, statistics.quantiles(each, n=20)[18]
        rows.append([way, middle(each, 2), f"{later_ms:+.2f}", f"{most_ms:.2f}"])
    head = ["asked", "first token, ms (median)", "later, ms", "19 of 20 within, ms"]
    print_table(f"{SINGLE_REQUESTS} requests one after another", head, rows)


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
    """Print both tables."""
    body = {"prompt": "?", "n_predict": tokens, "max_tokens": tokens, "stream": True}
    own = ("127.0.0.1", int(spawned["url"].rpartition(":")[2]))
    through = ("127.0.0.1", server.port)
    ways: dict[str, tuple[Target, str]] = {
        "the engine": (socket, "/completion"),
        "the worker's address": (own, "/v1/inference"),
        "through hive": (through, "/v1/inference"),
    }
    _one_by_one(ways)
    memory = {name: machine.memory(pid).rss_kib for name, pid in pids.items()}
    found: dict[str, list[Measured]] = {way: [] for way in ways}
    for _ in range(runs):
        for way, (target, path) in ways.items():
            found[way].append(_crowd(target, path, body, streams, pids))
    direct_ms = _first_ms(found["the engine"])
    rows = []
    for way, measured in found.items():
        first_ms = _first_ms(measured)
        cost = [middle(each.cpu_s[name] / each.tokens * 1e6 for each in measured) for name in pids]
        rows.append([way, f"{measured[0].tokens:,}", f"{first_ms:.1f}", f"{first_ms - direct_ms:+.1f}", *cost])
    grown = ", ".join(
        f"{name} {(machine.memory(pid).rss_kib - memory[name]) / streams:.1f} KiB a stream"
        for name, pid in pids.items()
    )
    head = ["asked", "tokens", "first token, ms (median)", "later, ms"]
    head += [f"CPU of the {name}, us a token" for name in pids]
    print_table(f"{streams} streams of {tokens} tokens at once; {grown}", head, rows)


def _first_ms(measured: list[Measured]) -> float:
    return statistics.median(first for each in measured for first in each.first_s) * 1000


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
