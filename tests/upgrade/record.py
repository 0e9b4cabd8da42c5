"""Records what a release leaves behind: `python -m tests.upgrade.record CHECKOUT > tests/upgrade/left-by-VERSION.json`.

CHECKOUT is a clone of hive at that release with its environment in .venv. Its server and its one worker are run against
the stand-in of the Hub; one download completes, one is paused half-way, one runs and its worker is killed with it, two
wait in the queue. Then everything is killed, and what lies in Redis, in the store and in HIVE_HOME is written down: as
commands and files, not as dumps of one server's version. Of partial files only the places that hold their content are
noted, because tests.upgrade.models can make them again.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import requests

from hive.processes.children import bound_to_us
from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import RedisClient, connect
from tests.hub import SyntheticFile
from tests.hub.server import HubServer
from tests.support.child import Child
from tests.support.content import MIB
from tests.support.waiting import wait_for
from tests.upgrade.models import CONTENTS, TOKEN, hub_with_models

#: Bytes that have come when a download is paused or its worker killed.
HALF_BYTES = 8 * MIB
#: What is compared when the places of a partial file that hold its content are looked for.
BLOCK_BYTES = 64 << 10
#: Fewer equal bytes in a row than this say nothing.
MIN_SAME_BYTES = 16
DEADLINE_S = 60.0


class Left(msgspec.Struct, kw_only=True):
    """What a release left behind. Bytes are base64."""

    version: str
    #: Ids by the state they were left in.
    downloads: dict[str, str]
    #: (type, key, value, TTL in milliseconds or None)
    redis: list[tuple[str, str, Any, int | None]]
    #: By path below `store` and `home`; a link is its target behind "-> ".
    files: dict[str, str]
    #: Partial files: which content, and the stretches of it that are there.
    partials: dict[str, tuple[str, list[tuple[int, int]]]]


def record(checkout: Path, folder: Path) -> Left:
    """Run that release in the folder, and say what it left."""
    home, store = folder / "home", folder / "store"
    with EmbeddedRedis(folder / "redis") as redis, hub_with_models() as hub, connect(redis.url) as client:
        env = {
            "PATH": os.environ["PATH"],
            "REDIS_URL": redis.url,
            "HIVE_STORE": str(store),
            "HIVE_HOME": str(home),
            "HIVE_LOG_FORMAT": "json",
            "HF_ENDPOINT": hub.endpoint,
        }
        with _running(checkout, env, "serve", "--port", "0") as server:
            url = _address(server)
            with _running(checkout, env, "worker", "--concurrency", "1"):
                ids = leave_downloads(url, hub)
        version = _version(checkout)
        return Left(
            version=version, downloads=ids, redis=_redis(client), files=_files(folder), partials=_partials(folder)
        )


def leave_downloads(url: str, hub: HubServer) -> dict[str, str]:
    """One download in each state of CONTENTS at this server, which has one worker; their ids by it."""
    ids = {"complete": _ask(url, "complete")}
    _until(url, ids["complete"], lambda d: d["status"] == "complete")
    hub.limit_rate_bytes_per_s = MIB // 2
    for state in ("paused", "running"):
        ids[state] = _ask(url, state)
        _until(url, ids[state], lambda d: (d["progress"] or {}).get("bytes_downloaded", 0) >= HALF_BYTES)
        if state == "paused":
            requests.post(f"{url}/v1/downloads/{ids[state]}/pause", timeout=60).raise_for_status()
            _until(url, ids[state], lambda d: d["status"] == "paused")
    ids["queued"] = _ask(url, "queued", priority="low")
    ids["gated"] = _ask(url, "gated", hf_token=TOKEN)
    return ids


def _ask(url: str, state: str, **more: Any) -> str:
    answer = requests.post(f"{url}/v1/models/download", json={"model_ref": f"hf:org/{state}", **more}, timeout=60)
    answer.raise_for_status()
    return str(answer.json()["download_id"])


def _until(url: str, download_id: str, holds: Callable[[dict[str, Any]], bool]) -> None:
    wait_for(
        lambda: holds(requests.get(f"{url}/v1/downloads/{download_id}", timeout=60).json()), download_id, DEADLINE_S
    )


@contextlib.contextmanager
def _running(checkout: Path, env: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of that release, killed at the end with everything it started."""
    command = [str(checkout / ".venv/bin/python"), "-m", "hive.cli", *arguments]
    process = Child(
        bound_to_us(command), env=env, cwd=checkout, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _address(server: subprocess.Popen[str]) -> str:
    assert server.stderr is not None
    for line in server.stderr:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if entry.get("message") == "listening":
                return str(entry["address"])
    raise RuntimeError("the server ended before it listened")


def _version(checkout: Path) -> str:
    code = "from hive.version import VERSION; print(VERSION)"
    command = [str(checkout / ".venv/bin/python"), "-c", code]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()


def _redis(client: RedisClient) -> list[tuple[str, str, Any, int | None]]:
    found: list[tuple[str, str, Any, int | None]] = []
    for key in sorted(client.keys("*")):
        kind = client.type(key).decode()
        value: Any
        if kind == "string":
            value = _text(client.get(key))
        elif kind == "hash":
            value = {_text(name): _text(content) for name, content in client.hgetall(key).items()}
        elif kind == "set":
            value = [_text(member) for member in client.smembers(key)]
        elif kind == "list":
            value = [_text(member) for member in client.lrange(key, 0, -1)]
        elif kind == "zset":
            value = [(_text(member), score) for member, score in client.zrange(key, 0, -1, withscores=True)]
        elif kind == "stream":
            rows = client.xrange(key)
            value = [
                (_text(row), {_text(name): _text(content) for name, content in fields.items()}) for row, fields in rows
            ]
        else:
            raise RuntimeError(f"{key!r} is a {kind}: teach this module how to write it down")
        ttl_ms = client.pttl(key)
        found.append((kind, _text(key), value, ttl_ms if ttl_ms > 0 else None))
    return found


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _files(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted([*(folder / "store").rglob("*"), *(folder / "home").rglob("*")]):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file() and path.suffix != ".part" and path.stat().st_size < MIB:
            found[name] = _text(path.read_bytes())
    return found


def _partials(folder: Path) -> dict[str, tuple[str, list[tuple[int, int]]]]:
    """Partial files and large ones, by the content that they hold."""
    found: dict[str, tuple[str, list[tuple[int, int]]]] = {}
    for path in sorted((folder / "store").rglob("*")):
        if path.is_symlink() or not path.is_file() or (path.suffix != ".part" and path.stat().st_size < MIB):
            continue
        data = path.read_bytes()
        found_here = {state: _stretches(data, content) for state, content in CONTENTS.items()}
        best = max(found_here, key=lambda state: sum(end - start for start, end in found_here[state]))
        if found_here[best]:
            found[str(path.relative_to(folder))] = (best, found_here[best])
    return found


def _stretches(data: bytes, content: SyntheticFile) -> list[tuple[int, int]]:
    """Where `data` holds the content: block by block, and of a block that is not all there its start and its end."""
    extents: list[tuple[int, int]] = []

    def add(start: int, end: int) -> None:
        if start == end:
            return
        if extents and extents[-1][1] == start:
            extents[-1] = (extents[-1][0], end)
        else:
            extents.append((start, end))

    wanted = b"".join(content.blocks(0, min(len(data), content.size)))
    for at in range(0, len(wanted), BLOCK_BYTES):
        ours, theirs = data[at : at + BLOCK_BYTES], wanted[at : at + BLOCK_BYTES]
        if ours[: len(theirs)] == theirs:
            add(at, at + len(theirs))
            continue
        same_start = _same_bytes(ours, theirs)
        same_end = _same_bytes(ours[::-1], theirs[::-1])
        # Chance makes a few bytes alike in places that were never written.
        add(at, at + (same_start if same_start > MIN_SAME_BYTES else 0))
        add(at + len(theirs) - (same_end if same_end > MIN_SAME_BYTES else 0), at + len(theirs))
    return extents


def _same_bytes(one: bytes, other: bytes) -> int:
    """How many bytes they have in common from the start."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def main() -> int:
    """Record, and print what was recorded as JSON."""
    with tempfile.TemporaryDirectory(prefix="hive-") as folder:
        left = record(Path(sys.argv[1]).absolute(), Path(folder))
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(left), indent=1).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
