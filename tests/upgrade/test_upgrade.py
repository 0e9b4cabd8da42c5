"""What an earlier release left in Redis, in the store and in HIVE_HOME goes on under this one: every download under its
id, from the bytes that it has, to one right end.

`left-by-VERSION.json` is what tests.upgrade.record wrote down. One file for each release whose users may upgrade.
"""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests

from hive.redis.client import RedisClient, connect
from tests.support.processes import Server, Workers, environment, stopping
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for
from tests.upgrade.models import CONTENTS, hub_with_models
from tests.upgrade.record import Left
from workers.transfer.state.journal import boot_id

RELEASES = sorted(Path(__file__).parent.glob("left-by-*.json"))


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.stem)
def test_what_a_release_left_behind_goes_on(release: Path, tmp_path: Path, redis_url: str) -> None:
    left = msgspec.json.decode(release.read_bytes(), type=Left)
    if left.version != "0.1.0":
        # What a token is sealed for names the Hub's address, which is another one here: test_way_back.py has that one.
        del left.downloads["gated"]
    _lay_out(left, tmp_path)
    with connect(redis_url) as client:
        _replay(left, client)
    with hub_with_models() as hub:
        env = environment(redis_url, tmp_path, HF_ENDPOINT=hub.endpoint, HF_TOKEN="")
        with stopping(Server(env)) as server, stopping(Workers(env)):
            assert isinstance(server, Server)
            assert requests.get(f"{server.url}/v1/downloads", timeout=60).json()["data"]
            paused = f"{server.url}/v1/downloads/{left.downloads['paused']}"
            assert requests.get(paused, timeout=60).json()["status"] == "paused"
            assert requests.post(f"{paused}/resume", timeout=60).status_code == 202
            ends = {state: _end(server, download_id) for state, download_id in left.downloads.items()}
            wait_for(lambda: not _intents(tmp_path), "the intent log forgets what has ended")
        for state, end in ends.items():
            assert end["stage"] == "complete", (state, end)
            path = (
                tmp_path / "store" / end["local_path"].partition("/store/")[2]
            )  # it lay elsewhere when it was recorded
            assert path.read_bytes() == b"".join(CONTENTS[state].blocks(0, CONTENTS[state].size))
        # The worker of the running one was killed: what had come since its journal's last record comes again.
        for state, kept in (("running", 4), ("paused", 2)):
            there = sum(
                stop - start for name, parts in left.partials.values() if name == state for start, stop in parts
            )
            assert hub.bytes_sent(f"*{CONTENTS[state].sha256()}*") <= CONTENTS[state].size - there // kept, state
        assert hub.hits(f"*{CONTENTS['complete'].sha256()}*") == []


def _end(server: Server, download_id: str) -> dict[str, Any]:
    client = SseClient(f"{server.url}/v1/models/download/progress?id={download_id}").wait(60)
    assert client.done == 1
    return client.last


def _intents(folder: Path) -> list[Path]:
    return list((folder / "store" / "hive" / "downloads").glob("*/*"))


def _lay_out(left: Left, folder: Path) -> None:
    """The store and HIVE_HOME, as they were."""
    for name, text in left.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            path.symlink_to(text.removeprefix("-> "))
            continue
        data = base64.b64decode(text)
        path.write_bytes(_of_this_boot(data) if path.suffix == ".journal" else data)
        if path.name == "secret.key":
            path.chmod(0o600)
    for name, (state, extents) in left.partials.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(CONTENTS[state].size)
            for start, end in extents:
                file.seek(start)
                file.writelines(CONTENTS[state].blocks(start, end))


def _of_this_boot(journal: bytes) -> bytes:
    """The same journal with this machine's boot id: a reboot is another test's subject."""
    first, _, rest = journal.partition(b"\n")
    header = json.loads(first.partition(b" ")[2])
    text = json.dumps({**header, "boot": boot_id()}, separators=(",", ":")).encode()
    return b"%08x %s\n%s" % (zlib.crc32(text), text, rest)


def _replay(left: Left, client: RedisClient) -> None:
    """Redis, as it was; what had a time to live has it again."""
    for kind, name, value, ttl_ms in left.redis:
        key = base64.b64decode(name)
        if kind == "string":
            client.set(key, base64.b64decode(value))
        elif kind == "hash":
            client.hset(key, mapping={base64.b64decode(k): base64.b64decode(v) for k, v in value.items()})
        elif kind == "set":
            client.sadd(key, *(base64.b64decode(member) for member in value))
        elif kind == "list":
            client.rpush(key, *(base64.b64decode(member) for member in value))
        elif kind == "zset":
            client.zadd(key, {base64.b64decode(member): score for member, score in value})
        elif kind == "stream":
            for row, fields in value:
                client.xadd(
                    key, {base64.b64decode(k): base64.b64decode(v) for k, v in fields.items()}, base64.b64decode(row)
                )
        if ttl_ms is not None:
            client.pexpire(key, ttl_ms)
