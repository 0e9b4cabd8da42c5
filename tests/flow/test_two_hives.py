"""Two hives, each with a Redis of its own, on one store: both bring the same model, and neither takes the other's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from hive.processes.embedded_redis import EmbeddedRedis
from tests.hub import SyntheticFile
from tests.hub.server import HubServer
from tests.support.content import MIB, file_sha256
from tests.support.service import Service
from tests.support.waiting import wait_for

#: Models that both ask for at the same moment.
MODELS = 4


@pytest.fixture
def neighbour(env: dict[str, str], tmp_path: Path) -> Iterator[Service]:
    """Another hive on the same store."""
    redis = EmbeddedRedis(tmp_path / "neighbour")
    redis.start()
    try:
        made = Service({**env, "REDIS_URL": redis.url, "HIVE_HOME": str(tmp_path / "neighbour")})
        try:
            yield made
        finally:
            made.stop()
    finally:
        redis.stop()


def test_both_bring_the_same_models_at_once(service: Service, neighbour: Service, hub: HubServer) -> None:
    for number in range(MODELS):
        files = {f"model-{part}.safetensors": SyntheticFile(17 * MIB, seed=10 * number + part) for part in range(3)}
        hub.create(f"org/m{number}", {**files, "config.json": b"{}"})
    hives = (service, neighbour)
    asked = [(hive, hive.post(f"hf:org/m{number}")["download_id"]) for number in range(MODELS) for hive in hives]
    watched = [hive.watch(download_id) for hive, download_id in asked]
    for client in watched:
        client.wait(120)
    assert [client.last["stage"] for client in watched] == ["complete"] * len(watched), [c.last for c in watched]
    partials = Path(service.env["HIVE_STORE"]) / "hive" / "partial"
    assert [path.name for path in partials.iterdir()] == []
    # Not what the Hub has sent: that counts what lay in the connections when they were closed.
    received = sum(hive.show(download_id)["bytes_received"] for hive, download_id in asked)
    assert received <= MODELS * (3 * 17 + 4) * MIB


def test_what_one_is_fetching_the_other_does_not_remove(service: Service, neighbour: Service, hub: HubServer) -> None:
    hub.create(
        "org/name", {"a-Q8_0.gguf": SyntheticFile(1 * MIB, seed=1), "a-Q4_0.gguf": SyntheticFile(40 * MIB, seed=2)}
    )
    end = neighbour.bring("hf:org/name:Q8_0")
    hub.limit_rate_bytes_per_s = 0.2 * MIB
    slow = service.watch(service.post("hf:org/name:Q4_0")["download_id"])
    wait_for(lambda: slow.events and slow.last.get("bytes_downloaded", 0) >= MIB)

    refused = requests.delete(f"{neighbour.server.url}/v1/models/org/name:Q8_0", timeout=60)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "MODEL_IN_USE")
    assert "another hive" in refused.json()["error"]["message"].lower()
    requests.post(f"{neighbour.server.url}/v1/gc", json={"older_than_seconds": 0}, timeout=60)

    hub.limit_rate_bytes_per_s = None
    hub.close_connections()
    slow.wait(60)
    assert slow.last["stage"] == "complete", slow.last
    assert file_sha256(end["local_path"])
    gone = wait_for(
        lambda: requests.delete(f"{neighbour.server.url}/v1/models/org/name:Q8_0", timeout=60).status_code == 200
    )
    assert gone
