"""What somebody can do who writes to Redis, to the store or to HIVE_HOME past the API: as SECURITY.md says it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from hive.auth.keys import KeyFile
from hive.downloads.context import DownloadContext
from hive.redis.client import RedisClient, connect
from hive.settings import Settings
from hive.wire.jobs import Request
from tests.hub.server import HubServer
from tests.support.downloads import complete, download_context, new
from tests.support.processes import Server, stopping
from tests.support.service import TOKEN, Service
from tests.support.waiting import wait_for

#: Bytes of the model that the Hub has.
BYTES = b"GGUF" + b"x" * 4000


@pytest.fixture
def writer(redis_url: str) -> Iterator[RedisClient]:
    """Somebody with the address of Redis and nothing else."""
    with connect(redis_url) as client:
        yield client


def plant(client: RedisClient, ref: str) -> str:
    """Write a record and a job by hand, as hive's server would; the id."""
    downloads: DownloadContext = download_context(client)
    download_id = downloads.tracker.create(new(ref, ref=ref, request=Request(ref=ref)))[0]
    downloads.queue.enqueue(download_id, 1)
    return download_id


def ended(service: Service, download_id: str) -> dict[str, Any]:
    """The last event of a download."""
    return service.watch(download_id).wait(60).last


@pytest.mark.parametrize("spelling", ["http://127.0.0.1:{port}/m.gguf", "HTTP://[::1]:{port}/m.gguf"])
def test_a_writer_of_redis_reaches_no_private_address(
    service: Service, writer: RedisClient, canary: tuple[int, list[Any]], spelling: str
) -> None:
    port, visits = canary
    assert ended(service, plant(writer, spelling.format(port=port)))["code"] == "UNSAFE_URL"
    assert visits == []


def test_a_writer_of_redis_reads_no_file_of_the_machine(service: Service, writer: RedisClient, tmp_path: Path) -> None:
    secret = tmp_path / "secret.gguf"
    secret.write_bytes(BYTES)
    assert ended(service, plant(writer, f"file://{secret}"))["code"] == "UNSAFE_URL"


def test_a_writer_of_redis_can_have_models_fetched_and_can_forge_what_is_told(
    service: Service, writer: RedisClient, hub: HubServer
) -> None:
    """It is the reason for a password and an internal network."""
    hub.create("org/model", {"m.gguf": BYTES})
    shown = ended(service, plant(writer, "hf:org/model/m.gguf"))
    assert Path(shown["local_path"]).read_bytes() == BYTES
    downloads = download_context(writer)
    forged, _ = downloads.tracker.create(new("forged", event=complete("/nowhere"), local_path="/nowhere"))
    assert service.show(forged)["status"] == "complete"


def test_a_writer_of_redis_has_the_workers_token_used_and_does_not_see_it(
    env: dict[str, str], writer: RedisClient, hub: HubServer
) -> None:
    hub.create("org/gated", {"m.gguf": BYTES}, gated="manual")
    hub.access.issue(TOKEN, "org/gated")
    service = Service({**env, "HF_TOKEN": TOKEN})
    try:
        last = ended(service, plant(writer, "hf:org/gated/m.gguf"))
        assert Path(last["local_path"]).read_bytes() == BYTES
        assert TOKEN.encode() not in b"".join(writer.dump(name) or b"" for name in writer.scan_iter("*"))
    finally:
        service.stop()


def test_what_redis_holds_opens_no_door_of_the_api(
    env: dict[str, str], settings: Settings, writer: RedisClient
) -> None:
    """Keys lie in a file: none of them, nor their digests, is to be found or planted in Redis."""
    key = KeyFile(settings.api_keys_path).add("one", ["admin"])
    server = Server(env)
    with stopping(server):
        server.wait_until_ready()
        headers = {"authorization": f"Bearer {key.text}"}
        assert requests.get(f"{server.url}/v1/downloads", headers=headers, timeout=60).status_code == 200
        assert requests.get(f"{server.url}/v1/downloads", timeout=60).status_code == 401
    held = b"".join(writer.dump(name) or b"" for name in writer.scan_iter("*"))
    assert key.text.split("_", 2)[2].encode() not in held
    record = json.loads(settings.api_keys_path.read_bytes())["keys"][0]
    assert not any(str(value).encode() in held for name, value in record.items() if "digest" in name or "sha" in name)


def test_a_writer_of_hive_home_is_the_operator(env: dict[str, str], settings: Settings) -> None:
    """Whoever can write a key file that is its owner's alone has made himself a key."""
    KeyFile(settings.api_keys_path).add("first", ["read"])
    server = Server(env)
    with stopping(server):
        server.wait_until_ready()
        planted = KeyFile(settings.api_keys_path).add("planted", ["admin"])
        headers = {"authorization": f"Bearer {planted.text}"}

        def opens() -> bool:
            return requests.get(f"{server.url}/v1/workers", headers=headers, timeout=60).status_code == 200

        assert wait_for(opens, "the planted key opens", 10)


def test_a_writer_of_the_store_can_change_a_model_until_it_is_verified(
    service: Service, hub: HubServer, settings: Settings
) -> None:
    hub.create("org/model", {"m.gguf": BYTES})
    path = Path(service.bring("hf:org/model/m.gguf")["local_path"]).resolve()
    path.write_bytes(BYTES[:-1] + b"y")
    again = service.post("hf:org/model/m.gguf")
    assert again["local_path"]
    answer = requests.post(f"{service.server.url}/v1/models/verify", json={}, timeout=60)
    assert '"kind":"wrong_digest"' in answer.text
