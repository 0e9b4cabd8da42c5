"""Everything that hive does, under the user of deploy/redis/users.acl on a real server: nothing is refused, and no
right of the user was for nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from redis.exceptions import AuthenticationError, ResponseError

from hive.redis import rights as redis_rights
from tests.hub.server import HubServer
from tests.support.content import MIB
from tests.support.processes import Workers, children, environment
from tests.support.redis_servers import RedisServer, redis_server
from tests.support.service import Service, act, hive, slow, under_way
from tests.support.waiting import wait_for
from tests.support.webhook_receiver import SECRET, Receiver, receiving

PASSWORD = "a-password-of-tests"
ADMIN = f"user admin on >{PASSWORD} ~* &* +@all\n"
#: Rights that are for what a test cannot bring about in a reasonable time, and what that is.
NOT_SEEN = {
    "+select": "another database than 0",
    "+hello": "Sentinels",
    "+zcount": "a source that trickles while others wait",
    "+ttl": "a worker's entry that somebody has damaged",
    "+hexists": "a worker whose entry was made, and the answer lost",
}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server with the file that the documentation offers, and an administrator for the test."""
    file = tmp_path / "users.acl"
    text = (Path(__file__).parents[2] / "deploy" / "redis" / "users.acl").read_text()
    file.write_text(text.replace("HIVE_PASSWORD_SHA256", hashlib.sha256(PASSWORD.encode()).hexdigest()) + ADMIN)
    with redis_server(tmp_path, aclfile=str(file)) as made:
        yield made


@pytest.fixture
def service(redis: RedisServer, tmp_path: Path, hub: HubServer, receiver: Receiver) -> Iterator[Service]:
    url = f"redis://hive:{PASSWORD}@127.0.0.1:{redis.port}/0"
    more = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "", "HIVE_DRAIN_S": "0.2", "HIVE_LEASE_S": "2"}
    webhooks = {"HIVE_WEBHOOK_URLS": receiver.url, "HIVE_WEBHOOK_SECRET": SECRET}
    made = Service(environment(url, tmp_path, **more, **webhooks))
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def test_nothing_is_refused_and_no_right_is_for_nothing(
    redis: RedisServer, service: Service, hub: HubServer, receiver: Receiver
) -> None:
    with redis.client(username="admin", password=PASSWORD) as admin:
        admin.execute_command("ACL", "LOG", "RESET")
        run_everything(service, hub, receiver)
        refused = admin.execute_command("ACL", "LOG")
        assert refused == [], refused
        used = {f"+{name.removeprefix('cmdstat_')}" for name in admin.info("commandstats")}
    rights = {rule for rule in redis_rights.rules() if rule.startswith("+")}
    assert rights - used <= NOT_SEEN.keys()


def test_nobody_gets_in_without_a_password(redis: RedisServer) -> None:
    for given in ({}, {"username": "default", "password": ""}, {"username": "default", "password": PASSWORD}):
        with redis.client(**given) as client, pytest.raises((AuthenticationError, ResponseError)):
            client.ping()


def test_a_restart_of_redis_keeps_what_scripts_have_written(
    redis: RedisServer, service: Service, hub: HubServer
) -> None:
    """Servers before late 2026 read transactions of their append-only file with the rights of the default user, and a
    script's writes are one: where that user had none, nothing of them came back.
    """
    hub.create("org/name", {"config.json": b"{}"})
    end = service.bring("hf:org/name")
    assert end["stage"] == "complete", end
    (listed,) = requests.get(f"{service.server.url}/v1/downloads", timeout=60).json()["data"]
    service.workers.stop()
    redis.kill()
    redis.start()
    service.workers = Workers(service.env, 2)
    wait_for(lambda: requests.get(f"{service.server.url}/readyz", timeout=60).ok, "the server does not come back")
    found = requests.get(f"{service.server.url}/v1/downloads", timeout=60).json()["data"]
    assert [download["id"] for download in found] == [listed["id"]]
    assert "NOPERM" not in (redis.folder / "log").read_text()


def run_everything(service: Service, hub: HubServer, receiver: Receiver) -> None:
    """A session of some people with hive, good and bad days among it."""
    url = service.server.url
    model = slow(hub)
    plan = requests.post(f"{url}/v1/models/plan", json={"model_ref": model}, timeout=60)
    assert plan.status_code == 200, plan.text
    download_id, client = under_way(service, model, at_least=MIB)
    assert act(service, download_id, "pause").ok
    wait_for(lambda: service.show(download_id)["status"] == "paused")
    assert act(service, download_id, "resume").ok
    assert requests.put(f"{url}/v1/downloads/{download_id}/priority", json={"priority": "low"}, timeout=60).ok
    wait_for(lambda: service.show(download_id)["status"] == "downloading")
    look_around(url)
    # A horse and a whole worker die; the service starts anew.
    (horse,) = children(service.busy_worker(download_id)["pid"])
    os.kill(horse, signal.SIGKILL)
    wait_for(lambda: client.last.get("attempt", 0) >= 3)
    os.kill(service.busy_worker(download_id)["pid"], signal.SIGKILL)
    wait_for(lambda: client.last.get("attempt", 0) >= 4)
    service.workers.stop()
    service.workers = Workers(service.env, 2)
    hub.limit_rate_bytes_per_s = None
    hub.close_connections()
    assert client.wait(90).last["stage"] == "complete"
    wait_for(lambda: receiver.hits, "the end is told by webhook")
    # Urgent ones, limits, an end by hand, a retry, one that fails.
    hub.limit_rate_bytes_per_s = 0.05 * MIB
    for path, body in (("downloads", {"max_running": 1}), ("bandwidth", {"bytes_per_second": 4 * MIB})):
        answer = requests.put(f"{url}/v1/settings/{path}", json=body, timeout=60)
        assert answer.ok, answer.text
    hub.create("org/second", {"m-Q4_K_M.gguf": b"GGUF" + b"x" * MIB})
    first = service.post("hf:org/second", priority="low")["download_id"]
    failed = service.bring("hf:org/missing")
    assert failed["stage"] == "error"
    assert requests.delete(f"{url}/v1/downloads/{first}", timeout=60).ok
    wait_for(lambda: service.show(first)["status"] == "cancelled")
    hub.limit_rate_bytes_per_s = None
    again = act(service, first, "retry")
    assert again.ok, again.text
    service.watch(again.json()["download_id"]).wait(60)
    look_around(url)
    assert requests.post(f"{url}/v1/models/verify", json={}, timeout=60).ok
    assert requests.post(f"{url}/v1/gc", json={}, timeout=60).ok
    assert hive(service, "ls").returncode == 0


def look_around(url: str) -> None:
    for path in ("downloads", "workers", "scaling", "models", "settings/bandwidth", "settings/downloads", "health"):
        assert requests.get(f"{url}/v1/{path}", timeout=60).ok, path
    assert requests.get(f"{url}/v1/downloads?status=downloading", timeout=60).ok
    assert requests.get(f"{url}/metrics", timeout=60).ok
    with contextlib.closing(requests.get(f"{url}/v1/downloads/progress", stream=True, timeout=60)) as many:
        assert many.ok
